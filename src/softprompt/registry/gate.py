"""Two versions' scores beside each other, and the gate before an alias moves: a version that scores clearly worse than the
one in place, on the same rows, is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softprompt.prompts.card import LOWER_IS_BETTER, Card, goodness
from softprompt.registry.records import Version

STANDARD_ERRORS = 2.0
"""How many standard errors of the difference count as clearly worse."""


@dataclass(frozen=True)
class Figures:
    """A card's score."""

    value: float
    rows: int
    stderr: float
    """The card's own, else the binomial one of a metric between 0 and 1; 0 for others."""


@dataclass(frozen=True)
class Comparison:
    """How a version scores beside another."""

    same_rows: bool | None
    """Whether both were judged on the same rows; None where a card does not say which rows those were."""
    loss: float | None
    """By how much it is worse, negative where it is better; None where the two cannot be compared."""
    words: str
    """All of it for people."""
    refusal: str | None = None
    """Why it must not replace the other, with both figures; None if it may."""


def figures_of(card: Card) -> Figures | None:
    """The score of a card that says on how many rows it stands (`value` and `rows`)."""
    value, rows = card.metrics.get("value"), card.metrics.get("rows")
    if value is None or not rows or rows < 1 or not math.isfinite(value):
        return None
    share = card.metric not in LOWER_IS_BETTER and 0 <= value <= 1
    binomial = math.sqrt(value * (1 - value) / rows) if share else 0.0
    return Figures(value, int(rows), card.metrics.get("stderr", binomial))


def weigh(current: Card, candidate: Card) -> Comparison:
    """Compare the scores of two versions, where they are of one metric and of the same rows.

    Rows that neither card names are taken for the same where their number is. A metric without a standard error is compared
    as it stands: any worsening is clear.
    """
    if current.metric != candidate.metric:
        return Comparison(None, None, f"not comparable: other metric ({candidate.metric}, {current.metric} before)")
    old, new = figures_of(current), figures_of(candidate)
    if old is None or new is None:
        return Comparison(
            None, None, "not comparable: no score of " + ("the other version" if old is None else "this version")
        )
    same = _same_rows(current, candidate, old, new)
    if same is False:
        rows = f"{new.rows} rows here, {old.rows} other ones there"
        return Comparison(False, None, f"not comparable: {rows}; judge both with `softprompt evaluate TASK@N --data FILE`")
    loss = goodness(current.metric, old.value) - goodness(current.metric, new.value)
    error = STANDARD_ERRORS * math.hypot(old.stderr, new.stderr)
    on = f"on the same {new.rows} rows" if same else f"on {new.rows} rows each, if they are the same"
    if loss <= error:
        words = f"worse by {loss:.4f}, within {STANDARD_ERRORS:g} standard errors" if loss > 0 else f"better by {-loss:.4f}"
        return Comparison(same, loss, f"{words if loss else 'as good'}, {on}")
    scores = f"{current.metric} {new.value:.4f} on {new.rows} rows, against {old.value:.4f} on {old.rows} rows now"
    refusal = f"{scores}: worse by {loss:.4f}"
    if error:
        refusal += f", and {STANDARD_ERRORS:g} standard errors are {error:.4f}"
    return Comparison(same, loss, f"clearly worse, by {loss:.4f}, {on}", refusal)


def _same_rows(current: Card, candidate: Card, old: Figures, new: Figures) -> bool | None:
    digests = [card.recipe.get("test_digest") for card in (current, candidate)]
    if None not in digests:
        return digests[0] == digests[1]
    return None if old.rows == new.rows else False


@dataclass(frozen=True)
class Rival:
    """A version that another one of its task is compared with."""

    version: int
    value: float | None
    """Its score on its test rows."""
    stderr: float | None
    rows: int | None
    same_rows: bool | None
    """Whether those are the other one's; None where a card does not say."""
    worse: bool
    """Whether the other one scores lower than this, so far as they can be compared."""
    comparison: str
    """How the other one compares, in words."""


def rival(version: Version, card: Card) -> Rival:
    """A version that a prompt with this card is compared with."""
    found, figures = weigh(version.card, card), figures_of(version.card)
    return Rival(
        version=version.number,
        value=None if figures is None else figures.value,
        stderr=None if figures is None else figures.stderr,
        rows=None if figures is None else figures.rows,
        same_rows=found.same_rows,
        worse=found.loss is not None and found.loss > 0,
        comparison=found.words,
    )
