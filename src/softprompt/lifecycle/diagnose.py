"""Why a prompt does not do what it should: known failure modes, each with its evidence and what mends it. From what the
library keeps of a version: no base is loaded, nothing is run, no torch."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.locate import is_local
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, SoftPromptError
from softprompt.evaluation.baselines import remarks_on_scores
from softprompt.library.binding import prove
from softprompt.library.library import library_or_current
from softprompt.lifecycle.remake import named_base, remake
from softprompt.prompts.card import BARELY, LONG, SHORT, Card, goodness, solves, to_beat, value_beside
from softprompt.registry.records import Record
from softprompt.tasks.load import load_tasks
from softprompt.tasks.schedule import FEW_ROWS
from softprompt.tasks.task import Task
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

STANDARD_ERRORS = 3.0
"""By so many the scores of two splits must differ before anything is made of it."""
SHARED = 0.05
"""Of a split's inputs: more of them in another split are too many."""
BY_LENGTH, FEWEST = 0.98, 20
"""Of two labels' rows so many are told apart by their length, and so many rows the rarer one has, before that is said."""
SMALL = 0.05
"""A loss that falls by less than this share has not fallen."""


@dataclass(frozen=True)
class Finding(Record):
    """A failure mode that shows."""

    mode: str
    """What it is called."""
    evidence: str
    """What shows it, with figures."""
    mend: str
    """What to do about it."""


def diagnose(ref: str, *, library: Library | None = None) -> list[Finding]:
    """The failure modes that show in a version, or in the rows of a task file; none where all is well.

    Args:
        ref: TASK, TASK@N or TASK@ALIAS of the library; or a task file (.yaml), whose rows are looked at.
        library: by default the one in the current home.

    Raises:
        NotFound: there is no such version.
        ConfigError, DataError: the task file is wrong.
    """
    if ref.endswith((".yaml", ".yml")):
        (task,) = load_tasks(ref)
        return list(_of_rows(task))
    with library_or_current(library) as opened:
        version = opened.registry.resolve(ref)
        card, history = version.card, _history(opened, version)
        return [
            *_of_base(opened, version),
            *_of_scores(card),
            *_of_training(card, history),
            *_of_shape(card),
            *_of_data(opened, version),
        ]


def _history(library: Library, version: Version) -> list[dict[str, Any]]:
    """What each validation of its training said; nothing where it was made elsewhere."""
    folder: Path = library.runs if library.tenant == "default" else library.runs / library.tenant
    file = folder / f"{version.ref}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _of_base(library: Library, version: Version) -> Iterator[Finding]:
    """Whether the base that it names is still the one that it was made for."""
    if not is_local(version.base):
        return
    try:
        proof = prove(named_base(library, version) or BaseOptions(source=version.base))
    except BaseModelError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("base_gone", what, advice or "name where it is with --base")
        return
    if version.fingerprint not in proof.names:
        yield Finding(
            "base_drift",
            f"it was made for a base with fingerprint {version.fingerprint}, and {version.base} has {proof.fingerprint} now",
            f"put the old base back, or carry the task over: softprompt upgrade {version.task} --to {version.base}",
        )


def _of_scores(card: Card) -> Iterator[Finding]:
    metrics, metric = card.metrics, card.metric
    value = value_beside(metrics)
    if value is None:
        yield Finding(
            "not_judged", "the card has no score on test rows", f"judge it: softprompt evaluate {card.task} --data FILE"
        )
        return
    if card.learnt is False:
        (told, *_) = remarks_on_scores(metric, metrics)
        solved = [name for name in to_beat(metrics) if solves(metric, metrics[name])]
        yield Finding(
            "not_learnt",
            told.removeprefix("it has not learnt: "),
            f"{solved[0]} solves the task already: use that"
            if solved
            else "train longer, raise learning_rate, start from LABELS or a text; a base this small may need "
            "prompt_type: prefix, or a larger one: `softprompt compare` shows what else does better",
        )
    validation, error = metrics.get("validation"), math.hypot(metrics.get("stderr", 0), metrics.get("validation_stderr", 0))
    if validation is not None and error:
        lost = goodness(metric, validation) - goodness(metric, metrics["value"])
        if lost > STANDARD_ERRORS * error:
            yield Finding(
                "distribution_mismatch",
                f"{metric} {metrics['value']:.3f} on test rows and {validation:.3f} on validation rows: "
                f"{lost / error:.1f} standard errors apart",
                "look at what differs between the two (source, wording, length, labels), and train on rows like those it is "
                "asked",
            )


def _of_training(card: Card, history: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    recipe, metrics = card.recipe, card.metrics
    rate, steps = recipe.get("learning_rate"), recipe.get("steps")
    moved = metrics.get("moved")
    if moved is not None and moved < BARELY:
        yield Finding(
            "rate_too_low",
            f"the prompt has moved by {moved:.2%} of its start's length in {steps} steps at learning_rate {rate}",
            f"raise learning_rate ({card.usual_rates} is usual), or train longer",
        )
    losses = [row["loss"] for row in history if _is_number(row.get("loss"))]
    if len(losses) > 1 and losses[-1] > losses[0] * (1 - SMALL):
        yield Finding(
            "no_convergence",
            f"the training loss was {losses[0]:.3f} at the first validation and {losses[-1]:.3f} at the last",
            "lower learning_rate where it goes up and down, else raise it; try another start (LABELS, a text); a base this "
            "small may not be steered to this task",
        )
    values = [(row["step"], row["value"]) for row in history if _is_number(row.get("value"))]
    if len(values) > 2 and recipe.get("best_step") == values[-1][0] == steps:
        best_before = max(goodness(card.metric, value) for _, value in values[:-1])
        gained = goodness(card.metric, values[-1][1]) - best_before
        if gained > metrics.get("validation_stderr", 0) > 0:
            yield Finding(
                "stopped_early",
                f"the last of {steps} steps was the best, {gained:.3f} better than any before it",
                "train longer: raise max_steps or num_train_epochs",
            )


def _of_shape(card: Card) -> Iterator[Finding]:
    if card.prompt_type == "soft" and card.num_virtual_tokens < SHORT:
        yield Finding(
            "prompt_too_short",
            f"{plural(card.num_virtual_tokens, 'virtual token')} have little capacity",
            "set num_virtual_tokens to 20 to 100",
        )
    if card.num_virtual_tokens > LONG and not card.members:
        yield Finding(
            "prompt_too_long",
            f"{card.num_virtual_tokens} virtual tokens can drown the input, and take its room",
            "set num_virtual_tokens to 20 to 100",
        )
    if card.recipe.get("prompt_tuning_init") == "RANDOM":
        yield Finding(
            "poor_initialiser",
            "it started from random numbers, which lie near no token",
            "leave prompt_tuning_init out, or start from LABELS or a text",
        )


def _of_data(library: Library, version: Version) -> Iterator[Finding]:
    """What its rows show today, where they are still there."""
    origin = library.registry.origin(version.ref)
    if origin is None:
        return
    try:
        task, told = remake(library, version)
        rows = list(_of_rows(task))
    except SoftPromptError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("rows_gone", what, advice or "put them back, or give a task file to train it again")
        return
    for line in told:
        yield Finding("data_changed", line, f"train it on them: softprompt retrain {version.task}")
    yield from rows


def _of_rows(task: Task) -> Iterator[Finding]:
    count = len(task.train)
    if count <= FEW_ROWS:
        yield Finding(
            "few_rows",
            f"{plural(count, 'training row')}",
            f"with {FEW_ROWS} or fewer a text prompt may be as good: label more, or compare with the zero-shot score",
        )
    for remark in task.remarks:
        mode = next((mode for words, mode in _MODES.items() if words in remark), None)
        if mode is not None:
            what, _, advice = remark.partition("; ")
            yield Finding(mode, what, advice)
    inputs = {
        name: ["\n".join(task.form.texts(row, "a row").values()) for row in rows] for name, rows in task.splits.items()
    }
    names = ["training", "test"] if task.folds else list(inputs)
    for one, other in itertools.combinations(names, 2):
        both = set(inputs[one]) & set(inputs[other])
        if len(both) > SHARED * len(set(inputs[other])):
            yield Finding(
                "duplicates_across_splits",
                f"{len(both)} of {len(set(inputs[other]))} {other} inputs are {one} inputs too",
                "leave them out of one: scores on them say little",
            )
    if task.form.chooses:
        yield from _of_lengths(inputs["training"], [task.form.answer(row, "a training row") for row in task.train])


_MODES = {
    "with different answers": "contradictory_answers",
    "and are rivals": "labels_alike",
    "nothing teaches": "label_without_rows",
    "their passages lack": "answers_not_in_passages",
}
"""What warnings of rows say, and what that is called."""


def _of_lengths(texts: Sequence[str], answers: Sequence[str]) -> Iterator[Finding]:
    """Whether an input's length alone tells its label: by the best cut between the two most frequent labels."""
    (first, most), (second, fewer) = (*Counter(answers).most_common(2), ("", 0), ("", 0))[:2]
    if fewer < FEWEST:
        return
    pairs = sorted(
        (len(text), answer == first) for text, answer in zip(texts, answers, strict=True) if answer in (first, second)
    )
    total, below, best = most + fewer, 0, 0
    for place, (length, is_first) in enumerate(pairs):
        below += is_first
        if place + 1 == len(pairs) or pairs[place + 1][0] > length:
            right = below + (fewer - (place + 1 - below))  # the first one below the cut, the second above it
            best = max(best, right, total - right)
    if best >= BY_LENGTH * total and most < BY_LENGTH * total:
        yield Finding(
            "length_tells_the_label",
            f"inputs of {first!r} and {second!r} are told apart by their length alone in {best} of {total} rows",
            "give rows of like lengths for both: a prompt learns the length, and not the task",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
