"""What a tuned prompt must beat on its test split: the most frequent answer, a text prompt, and itself before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import ContextError
from softprompt.evaluation.metrics import score
from softprompt.evaluation.trials import Report, Trial
from softprompt.model.splice import no_prompt
from softprompt.prompts.card import BASELINES, SOLVED
from softprompt.tasks.task import Examples, Task


def baseline_trials(base: FrozenBase, task: Task, start_PD: Tensor, test: Examples) -> tuple[list[Trial], str | None]:
    """Trials of the text prompt and of the prompt before training, and a warning where the text prompt and a row do not
    both fit the context: rows stand alone then.

    Raises:
        DataError: a row is wrong.
    """
    asked, warning = zero_shot_examples(base, task)
    return [Trial(task.form, no_prompt(base), asked), Trial(task.form, start_PD.to(base.dtype), test)], warning


def zero_shot_examples(base: FrozenBase, task: Task) -> tuple[Examples, str | None]:
    """The test rows behind the text prompt, and a warning where it and a row do not both fit the context: rows stand alone
    then.

    Raises:
        DataError: a row is wrong.
    """
    text = task.form.zero_shot_text()
    try:
        return task.encode(base, task.test, 0, split="test", prepend=text + "\n" if text else ""), None
    except ContextError:
        warning = f"{task.name}: the text prompt of the zero-shot baseline does not fit the context, and is left out"
        return task.encode(base, task.test, 0, split="test"), warning


def baselines_of(task: Task, test: Examples, reports: Sequence[Report]) -> dict[str, float]:
    """The scores of all three with their standard errors, from the reports of those trials."""
    zero_shot, untrained = ((report.value, report.stderr) for report in reports)
    majority = score(task.form.metric, [task.majority()] * len(test), test.answers)
    scores: dict[str, float] = {}
    for name, (value, stderr) in zip(BASELINES, (majority, zero_shot, untrained), strict=True):
        scores |= {name: value, f"{name}_stderr": stderr}
    return scores


def remarks_on_scores(metric: str, scores: Mapping[str, float]) -> list[str]:
    """What people should know of a prompt's `value` on its test rows, beside its baselines on the same rows, those that are
    known."""
    value = scores["value"]
    known = {words: scores[name] for name, words in BASELINES.items() if name in scores}
    better = [f"{words} ({baseline:.3f})" for words, baseline in known.items() if baseline > value]
    equal = [words for words, baseline in known.items() if baseline == value < SOLVED]
    scored = f"{metric} {value:.3f} on the same rows"
    told = [f"worse than {' and '.join(better)}"] * bool(better) + [f"no better than {' and '.join(equal)}"] * bool(equal)
    remarks = [f"it has not learnt: {', '.join(told)}; {scored}"] if told else []
    return remarks + remarks_on_baselines(metric, scores)


def remarks_on_baselines(metric: str, scores: Mapping[str, float]) -> list[str]:
    """The baselines that leave next to nothing to tune for."""
    return [
        f"{words} already solves the task ({metric} {scores[name]:.3f}): little is left to tune for"
        for name, words in BASELINES.items()
        if scores.get(name, 0.0) >= SOLVED
    ]
