"""What a card and the validations of its training say of known failure modes, each with its evidence and what mends it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.prompts.card import (
    BARELY,
    BASELINE_ROWS,
    BASELINES,
    LONG,
    SHORT,
    Card,
    goodness,
    solves,
    to_beat,
    value_beside,
)
from softprompt.registry.records import Record
from softprompt.tasks.answers.kinds import OF_NUMBERS
from softprompt.text import plural

STANDARD_ERRORS = 3.0
"""By so many the scores of two splits must differ before anything is made of it."""
SMALL = 0.05
"""A loss that falls by less than this share has not fallen."""

History = Sequence[Mapping[str, Any]]
"""What each validation said: step, learning rate, training loss, value, validation loss."""


@dataclass(frozen=True)
class Finding(Record):
    """A failure mode that shows."""

    mode: str
    """What it is called."""
    evidence: str
    """What shows it, with figures."""
    mend: str
    """What to do about it."""

    @classmethod
    def of_remark(cls, mode: str, remark: str, mend: str = "") -> Finding:
        """Of a remark that says what to do behind its first semicolon."""
        what, _, advice = remark.partition("; ")
        return cls(mode, what, advice or mend)


WHILE_TRAINING = ("distribution_mismatch", "no_convergence", "stopped_early")
"""Modes that show when a training ends and that nothing else there tells."""


def of_card(card: Card, history: History) -> Iterator[Finding]:
    """All that shows in a version by itself."""
    yield from of_scores(card)
    yield from of_training(card, history)
    yield from of_shape(card)


def of_scores(card: Card) -> Iterator[Finding]:
    """What its scores tell, beside each other."""
    metrics, metric = card.metrics, card.metric
    value = value_beside(metrics)
    if value is None:
        yield Finding(
            "not_judged", "the card has no score on test rows", f"judge it: softprompt evaluate {card.task} --data FILE"
        )
        return
    if card.learnt is False:
        (told, *_) = remarks_on_scores(metric, metrics, keeps_start=card.keeps_start)
        solved = [name for name in to_beat(metrics, keeps_start=card.keeps_start) if solves(metric, metrics[name])]
        yield Finding(
            "not_learnt",
            told.removeprefix("it has not learnt: "),
            f"{solved[0]} solves the task already: use that"
            if solved
            else "train longer, raise learning_rate, start from LABELS or a text; a base this small may need "
            "prompt_type: prefix, or a larger one: `softprompt compare` shows what else does better",
        )
    # Validation rows of a distilled prompt are judged by what the instructed base says, test rows by the right answers.
    alike, words = ("agreement", "agreement with the instruction") if "agreement" in metrics else ("value", metric)
    error = math.hypot(
        metrics.get("stderr" if alike == "value" else f"{alike}_stderr", 0), metrics.get("validation_stderr", 0)
    )
    validation = metrics.get("validation") if alike == "value" or metric == "accuracy" else None
    if validation is not None and error:
        lost = goodness(metric, validation) - goodness(metric, metrics[alike])
        if lost > STANDARD_ERRORS * error:
            yield Finding(
                "distribution_mismatch",
                f"{words} {metrics[alike]:.3f} on test rows and {validation:.3f} on validation rows: "
                f"{lost / error:.1f} standard errors apart",
                "look at what differs between the two (source, wording, length, labels), and train on rows like those it is "
                "asked",
            )


def of_training(card: Card, history: History) -> Iterator[Finding]:
    """What its steps tell."""
    recipe, metrics = card.recipe, card.metrics
    rate, steps = recipe.get("learning_rate"), recipe.get("steps", 0)
    moved = metrics.get("moved")
    if (kept := start_kept(card, history)) is not None:
        yield Finding.of_remark("start_kept", kept)
    elif moved is not None and moved < BARELY:
        yield Finding(
            "rate_too_low",
            f"the prompt has moved by {moved:.2%} of its start's length in {plural(steps, 'step')} at learning_rate {rate}",
            f"raise learning_rate ({card.usual_rates} is usual), or train longer",
        )
    yield from of_losses(history, learnt=card.learnt is True)
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


def start_kept(card: Card, history: History) -> str | None:
    """What is to be said of a training whose start was kept, as no step was better."""
    recipe, metric = card.recipe, card.metric
    if not card.keeps_start:
        return None
    values = [row["value"] for row in history if _is_number(row.get("value"))]
    best = max(values, key=lambda value: goodness(metric, value), default=None)
    there = card.metrics.get("validation")
    scored = f" ({metric} {there:.3f}, and {best:.3f} at best behind it)" if None not in (there, best) else ""
    return (
        f"none of {plural(recipe['steps'], 'step')} was better on validation rows than where it started{scored}, so the "
        "prompt is its start; lower learning_rate, or give it rows that it does not know"
    )


def of_losses(history: History, *, learnt: bool) -> Iterator[Finding]:
    """Whether the training loss has fallen. A prompt that has learnt all the same may have done so before the first
    validation: of that only a loss that rose is told."""
    losses = [row["loss"] for row in history if _is_number(row.get("loss"))]
    if len(losses) > 1 and losses[-1] > losses[0] * (1 + SMALL if learnt else 1 - SMALL):
        yield Finding(
            "no_convergence",
            f"the training loss was {losses[0]:.3f} at the first validation and {losses[-1]:.3f} at the last",
            "lower learning_rate where it goes up and down, else raise it; try another start (LABELS, a text); a base this "
            "small may not be steered to this task",
        )


def of_shape(card: Card) -> Iterator[Finding]:
    """What its length, its start, its labels and its room tell."""
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
    if (end := card.recipe.get("label_end")) is not None:
        yield Finding(
            "labels_begin_each_other",
            f"the tokens of a label begin another's, so that every label ends with {end}, which the model must say too",
            "rename one of them, so that none begins another",
        )
    if cut := card.metrics.get("truncated"):
        yield Finding(
            "context_exhausted",
            f"{plural(int(cut), 'input')} of its rows were cut to fit the context beside {card.num_virtual_tokens} virtual "
            "tokens and the answer",
            "shorten the inputs or the template, use fewer virtual tokens, or take a base with a longer context",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def remarks_on_scores(metric: str, scores: Mapping[str, float], *, keeps_start: bool = False) -> list[str]:
    """What people should know of a prompt's score on its test rows, beside its baselines on the same rows, those that are
    known.

    Args:
        keeps_start: whether the prompt before training is the prompt itself, as no step was better.
    """
    value = value_beside(scores)
    assert value is not None
    in_words = _in_words(metric)
    known = {in_words[name]: scores[name] for name in to_beat(scores, keeps_start=keeps_start)}
    ahead = {words: goodness(metric, baseline) - goodness(metric, value) for words, baseline in known.items()}
    better = [f"{words} ({known[words]:.3f})" for words, lead in ahead.items() if lead > 0]
    equal = [words for words, lead in ahead.items() if lead == 0 and not solves(metric, value)]
    scored = f"{metric} {value:.3f} on the same {_rows_of(scores)}"
    told = [f"worse than {' and '.join(better)}"] * bool(better) + [f"no better than {' and '.join(equal)}"] * bool(equal)
    remarks = [f"it has not learnt: {', '.join(told)}; {scored}"] if told else []
    return remarks + remarks_on_baselines(metric, scores)


def remarks_on_baselines(metric: str, scores: Mapping[str, float]) -> list[str]:
    """The baselines that leave next to nothing to tune for."""
    on = f" on {_rows_of(scores)}" if BASELINE_ROWS in scores else ""
    return [
        f"{words} already solves the task ({metric} {scores[name]:.3f}{on}): little is left to tune for"
        for name, words in _in_words(metric).items()
        if name in to_beat(scores) and solves(metric, scores[name])
    ]


def _in_words(metric: str) -> dict[str, str]:
    """The baselines by their names, each in words."""
    return BASELINES | {"majority": "the median answer"} if metric in OF_NUMBERS else BASELINES


def _rows_of(scores: Mapping[str, float]) -> str:
    """The rows of the baselines, counted where they are not all."""
    return plural(int(scores[BASELINE_ROWS]), "row") if BASELINE_ROWS in scores else "rows"
