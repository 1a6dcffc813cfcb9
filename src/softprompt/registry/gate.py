"""Two versions' scores beside each other, and the gate before an alias moves: a version that scores clearly worse than the
one in place, on the same rows, is refused; on other rows one that has not learnt, where the one in place has."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.prompts.card import LOWER_IS_BETTER, Card, goodness
from softprompt.registry.records import Check, Outcome, Record, Version
from softprompt.text import plural

STANDARD_ERRORS = 2.0
"""How many standard errors of the difference count as clearly worse."""

DRAWS, SEED = 10_000, 0
"""Resamples of a paired bootstrap, and the seed that draws them: a decision is the same each time."""
CONFIDENCE = 0.95
"""Of so many resamples a fall beyond the tolerance is refused, where a suite says nothing else."""
KINDS = 256
"""Different losses that are told apart: more are taken together with those near them, each group as its mean."""
TOLD = 3
"""Checks that a refusal tells in full; the others by name."""
RULES = ("must", "must_not")
"""What these say is no sample: a fall beyond the tolerance is refused as it stands."""
RELATIVE = ("mae", "perplexity")
"""Metrics without an upper bound, whose tolerance is a share of what they were."""


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
    suites: tuple[dict[str, Any], ...] = ()
    """Where suites decide: each check, and how it compares."""


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
    as it stands: any worsening is clear. Scores that cannot be compared still tell which of the two has learnt.
    """
    if current.metric != candidate.metric:
        words = f"not comparable: other metric ({candidate.metric}, {current.metric} before)"
        return Comparison(None, None, words, _unlearnt(current, candidate))
    old, new = figures_of(current), figures_of(candidate)
    if old is None or new is None:
        return Comparison(
            None, None, "not comparable: no score of " + ("the other version" if old is None else "this version")
        )
    same = _same_rows(current, candidate, old, new)
    if same is False:
        rows = f"{plural(new.rows, 'row')} here, {plural(old.rows, 'other one')} there"
        words = f"not comparable: {rows}; judge both with `softprompt evaluate TASK@N --data FILE`"
        return Comparison(False, None, words, _unlearnt(current, candidate))
    loss = goodness(current.metric, old.value) - goodness(current.metric, new.value)
    error = STANDARD_ERRORS * math.hypot(old.stderr, new.stderr)
    on = f"on the same {plural(new.rows, 'row')}" if same else f"on {plural(new.rows, 'row')} each, if they are the same"
    if loss <= error:
        words = f"worse by {loss:.4f}, within {STANDARD_ERRORS:g} standard errors" if loss > 0 else f"better by {-loss:.4f}"
        return Comparison(same, loss, f"{words if loss else 'as good'}, {on}")
    here, there = plural(new.rows, "row"), plural(old.rows, "row")
    scores = f"{current.metric} {new.value:.4f} on {here}, against {old.value:.4f} on {there} now"
    refusal = f"{scores}: worse by {loss:.4f}"
    if error:
        refusal += f", and {STANDARD_ERRORS:g} standard errors are {error:.4f}"
    return Comparison(same, loss, f"clearly worse, by {loss:.4f}, {on}", refusal)


def _unlearnt(current: Card, candidate: Card) -> str | None:
    """Why a version that cannot be compared must not replace another: it has not learnt, and that one has."""
    new, old = figures_of(candidate), figures_of(current)
    if new is None or old is None or not current.learnt or candidate.learnt is not False:
        return None
    return (
        f"{candidate.metric} {new.value:.4f} on {plural(new.rows, 'row')}, where a baseline is as good; the version there "
        f"now has learnt ({current.metric} {old.value:.4f} on {plural(old.rows, 'other row')})"
    )


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


@dataclass(frozen=True)
class Fall(Record):
    """How a check of a suite compares between two versions."""

    suite: str
    check: str
    rows: int
    """Of both."""
    before: float
    value: float
    fall: float
    """By how much it is worse, negative where it is better."""
    tolerance: float
    confidence: float
    """Share of the resamples in which it is worse by more than the tolerance."""
    draws: int
    refused: bool

    @property
    def words(self) -> str:
        """A line for people."""
        return (
            f"{self.check} {self.value:.4f} against {self.before:.4f} on the same {plural(self.rows, 'row')}, worse by "
            f"{self.fall:.4f}, beyond the tolerance of {self.tolerance:.4g} in {self.confidence:.1%} of {self.draws} "
            "resamples"
        )


def weigh_suites(current: Sequence[Outcome], new: Version | str, outcomes: Sequence[Outcome]) -> Comparison:
    """Compare a version with the one in place by the outcomes that both have of the suites of the one in place, of which
    there is at least one. Neither is run: a base is not needed."""
    ref = new if isinstance(new, str) else new.ref
    found = {one.suite: one for one in outcomes}
    missing: list[str] = []
    falls: list[Fall] = []
    for old in current:
        one = found.get(old.suite)
        if one is None:
            missing.append(
                f"it has no outcome of suite {old.suite!r}, as {old.ref} has; `{command_for([ref], old)}` makes it"
            )
        elif one.digest != old.digest:
            missing.append(
                f"its outcome of suite {old.suite!r} is of other rows or checks than that of {old.ref}; "
                f"`{command_for([old.ref, ref], old)}` runs it on both"
            )
        else:
            falls += (own := falls_of(old, one))
            if not own:
                missing.append(
                    f"its outcome of suite {old.suite!r} has no check in common with that of {old.ref}; "
                    f"`{command_for([old.ref, ref], old)}` runs it on both"
                )
    refused = [fall for fall in falls if fall.refused]
    rows = tuple(fall.row() for fall in falls)
    told = [f"suite {fall.suite!r}: {fall.words}" for fall in refused[:TOLD]]
    told += [f"and {', '.join(fall.check for fall in refused[TOLD:])}"] if len(refused) > TOLD else []
    told += missing
    if told:
        loss = max((one.fall for one in refused), default=None)
        return Comparison(not missing, loss, "; ".join(told), "; ".join(told), rows)
    names = ", ".join(repr(one.suite) for one in current)
    fewest, most = min(fall.rows for fall in falls), max(fall.rows for fall in falls)
    on = plural(most, "row") if fewest == most else f"{fewest} to {most} rows"
    worst = max(falls, key=lambda fall: fall.fall)
    told_worst = f"{worst.check} is worse by {worst.fall:.4f}" if worst.fall > 0 else "none is worse"
    words = f"within the tolerance in {plural(len(falls), 'check')} of {names}, on the same {on}: {told_worst}"
    return Comparison(True, worst.fall, words, None, rows)


def command_for(refs: Sequence[str], outcome: Outcome) -> str:
    """The command that runs a suite on versions, as it was run for an outcome."""
    file = outcome.definition.get("file") or f"{outcome.suite}.yaml"
    return f"softprompt suite run {' '.join(refs)} --suite {shlex.quote(str(file))}"


def falls_of(old: Outcome, new: Outcome) -> list[Fall]:
    """How each check that both outcomes have compares, of the rows that both have it of."""
    checks = {check.name: check for check in new.checks}
    level = float(old.definition.get("confidence", CONFIDENCE))
    falls = []
    for check in old.checks:
        if (other := checks.get(check.name)) is None:
            continue
        pairs = paired(check, other)
        if not pairs:
            continue
        sign = 1.0 if check.lower_is_better else -1.0
        losses = [sign * (after - before) for before, after in pairs]
        before, after = (math.fsum(side) / len(pairs) for side in zip(*pairs, strict=True))
        allowed = old.tolerance * (abs(before) if check.metric in RELATIVE else 1.0)
        share = share_beyond([*losses, 0.0], allowed)  # one row more that fell by nothing: one alone proves little
        fall = sign * (after - before)
        refused = fall > allowed + 1e-9 and (share >= level or check.metric in RULES)
        falls.append(Fall(old.suite, check.name, len(pairs), before, after, fall, allowed, share, DRAWS, refused))
    return falls


def paired(one: Check, other: Check) -> list[tuple[float, float]]:
    """What each row counts in two checks, of the rows that both are of."""
    if one.places == other.places and len(one.values) == len(other.values):
        return list(zip(one.values, other.values, strict=True))
    theirs = dict(zip(other.places or range(len(other.values)), other.values, strict=True))
    own = zip(one.places or range(len(one.values)), one.values, strict=True)
    return [(value, theirs[place]) for place, value in own if place in theirs]


def share_beyond(losses: Sequence[float], tolerance: float) -> float:
    """Paired bootstrap: in which share of :data:`DRAWS` resamples of rows, each as many as there are, the mean of their
    losses is above a tolerance. Equal losses are drawn together, which is the same and quicker."""
    import numpy as np

    values = np.asarray(losses, dtype=float)
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) > KINDS:
        width = (values.max() - values.min()) / KINDS
        _, group, counts = np.unique(np.round(values / width), return_inverse=True, return_counts=True)
        kinds = np.bincount(group, weights=values) / counts  # so that the mean of all stays, however far one lies apart
    random, total = np.random.default_rng(SEED), len(losses)
    at_once, beyond = max(1, 2_000_000 // len(kinds)), 0
    for start in range(0, DRAWS, at_once):
        drawn = random.multinomial(total, counts / total, size=min(at_once, DRAWS - start))
        beyond += int((drawn @ kinds / total > tolerance + 1e-12).sum())
    return beyond / DRAWS
