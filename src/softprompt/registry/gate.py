"""The gate before an alias moves: a version that scores clearly worse than the one in place is refused."""

from __future__ import annotations

import math

from softprompt.prompts.card import Card

LOWER_IS_BETTER = ("perplexity",)
STANDARD_ERRORS = 2.0
"""How many standard errors of the difference count as clearly worse."""


def reason_to_refuse(current: Card, candidate: Card) -> str | None:
    """Why the candidate must not replace the current version, with both figures; None if it may.

    Two scores are compared where both are of the same metric and say on how many rows they stand (`value` and `rows`).
    The standard error is the card's own `stderr`, else the binomial one for a metric between 0 and 1. A metric without
    either is compared as it stands: any worsening counts.
    """
    if current.metric != candidate.metric:
        return None
    figures = [_figures(current), _figures(candidate)]
    if figures[0] is None or figures[1] is None:
        return None
    (old, old_rows, old_error), (new, new_rows, new_error) = figures[0], figures[1]
    loss = new - old if current.metric in LOWER_IS_BETTER else old - new
    error = math.hypot(old_error, new_error)
    if loss <= STANDARD_ERRORS * error:
        return None
    scores = f"{current.metric} {new:.4f} on {new_rows:.0f} rows, against {old:.4f} on {old_rows:.0f} rows now"
    if error:
        return f"{scores}: worse by {loss:.4f}, and {STANDARD_ERRORS:g} standard errors are {STANDARD_ERRORS * error:.4f}"
    return f"{scores}: worse by {loss:.4f}"


def _figures(card: Card) -> tuple[float, float, float] | None:
    """Value, rows and standard error of a card's score."""
    value, rows = card.metrics.get("value"), card.metrics.get("rows")
    if value is None or not rows or rows < 1 or not math.isfinite(value):
        return None
    if "stderr" in card.metrics:
        return value, rows, card.metrics["stderr"]
    if card.metric not in LOWER_IS_BETTER and 0 <= value <= 1:
        return value, rows, math.sqrt(value * (1 - value) / rows)
    return value, rows, 0.0
