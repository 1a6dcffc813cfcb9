"""What a tuned prompt must beat on its test split: the most frequent answer, a text prompt, and itself before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import ContextError
from softprompt.evaluation.metrics import score
from softprompt.evaluation.trials import Report, Trial
from softprompt.model.splice import no_prompt, split_head
from softprompt.prompts.card import BASELINE_ROWS, BASELINES, VALUE_THERE
from softprompt.rows.places import PlacedRows
from softprompt.tasks.task import Examples, Task


def baseline_trials(base: FrozenBase, task: Task, start_PD: Tensor, test: Examples) -> tuple[list[Trial], str | None]:
    """Trials of the text prompt and of the prompt before training, on `max_baseline_samples` of the test rows, and a warning
    where the text prompt and a row do not both fit the context: rows stand alone then.

    Raises:
        DataError: a row is wrong.
    """
    places = task.draw(task.test, task.config.max_baseline_samples)
    if base.task_type == "SEQ_CLS":  # no text tells it what is asked: its head as it starts, without vectors
        answered = test.pick(task.draw(task.test, task.config.max_baseline_samples))
        heads = (start_PD[task.config.num_virtual_tokens :], start_PD)
        return [Trial(task.form, rows_PD.to(base.dtype), answered) for rows_PD in heads], None
    distils, answered = task.config.objective_name == "distillation", test.pick(places)
    asked, warning = zero_shot_examples(base, task, task.test.part(places), unanswered=distils)
    head_PD = no_prompt(base)
    if distils:  # a text worth distilling is long
        head_PD, rest = split_head(base, asked.inputs)
        asked = replace(answered, inputs=rest)
    untrained = Trial(task.form, start_PD.to(base.dtype), answered)
    return [Trial(task.form, head_PD, asked), untrained], warning


def zero_shot_examples(
    base: FrozenBase, task: Task, rows: PlacedRows, *, unanswered: bool = False
) -> tuple[Examples, str | None]:
    """Test rows behind the text prompt, and a warning where it and a row do not both fit the context: rows stand alone
    then. `unanswered` takes those without an answer, as :meth:`Task.encode` does.

    Raises:
        DataError: a row is wrong.
    """
    text = task.form.zero_shot_text()
    try:
        before = text + "\n" if text else ""
        return task.encode(base, rows, 0, split="test", prepend=before, unanswered=unanswered), None
    except ContextError:
        warning = f"{task.name}: the text prompt of the zero-shot baseline does not fit the context, and is left out"
        return task.encode(base, rows, 0, split="test", unanswered=unanswered), warning


def baselines_of(task: Task, test: Examples, reports: Sequence[Report], train: Examples | None = None) -> dict[str, float]:
    """The scores of all three with their standard errors, from the reports of those trials; and of how many rows they are,
    where those are not all test rows. `train` are the training rows where some answers are not their own."""
    zero_shot, untrained = ((report.value, report.stderr) for report in reports)
    answers = test.pick(task.draw(task.test, reports[-1].rows)).answers
    most_frequent = task.majority() if train is None else task.form.usual(train.answers)
    majority = score(task.form.metric, *task.form.judged([most_frequent] * len(answers), answers))
    scores: dict[str, float] = {}
    for name, (value, stderr) in zip(BASELINES, (majority, zero_shot, untrained), strict=True):
        scores |= {name: value, f"{name}_stderr": stderr}
    return scores | ({BASELINE_ROWS: len(answers)} if len(answers) < len(test) else {})


def suffice(scores: Mapping[str, float], task: Task) -> bool:
    """Whether baselines that were measured before are of as many rows as a task asks for, or of more."""
    there, asked = len(task.test), task.config.max_baseline_samples
    return scores.get(BASELINE_ROWS, there) >= min(there, asked or there)


def beside_baselines(task: Task, test: Examples, report: Report, baselines: Mapping[str, float] | None) -> dict[str, float]:
    """The value of a prompt on its test rows, and its baselines; where these are of some of the rows, its value on the same
    ones, too."""
    scores = {"value": report.value, **(baselines or {})}
    if BASELINE_ROWS in scores:
        places = task.draw(task.test, int(scores[BASELINE_ROWS]))
        said = [report.predictions[place] for place in places]
        scores[VALUE_THERE] = score(task.form.metric, *task.form.judged(said, test.pick(places).answers)).value
    return scores


def untaught(task: Task, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores without that of the text prompt where this is what the prompt is taught: it is none to be better than."""
    return {
        name: score for name, score in scores.items() if name != "zero_shot" or task.config.objective_name != "distillation"
    }
