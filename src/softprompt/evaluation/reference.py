"""How a task's rows look: where their inputs lie, how long they are, what they are answered and how surely. Kept of the rows
that a prompt was tuned for, and tallied of those that it serves, so that the two can be told apart.

Shapes: N rows, D width, S = :data:`SKETCH` numbers of a sketch.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softprompt.tasks.answers.kinds import number_of

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.tasks.form import Form

SKETCH = 16
"""Numbers that say where an input lies."""
REFERENCE_ROWS = 1024
"""Rows at most that say how inputs look."""
CLIP = 2.0
"""Standard deviations beyond which a number of a sketch counts as so many: no row alone can move a mean far."""
FORMAT = 1

Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """A row as it is tallied: no text of it."""

    ids: Sequence[int]
    """Tokens of its input, as the base reads them."""
    answers: tuple[str, ...] | None = None
    """The label, or those of a set that hold; of an answer that is written the bin of its length; None for no answer."""
    confidence: float = math.nan
    """NaN where an answer has none."""


def written(characters: int) -> tuple[str]:
    """What an answer that is written counts as: the bin of its number of characters, white space apart."""
    return (str(_bin(characters)),)


def answers_of(form: Form, output: str) -> tuple[str, ...]:
    """What an answer counts as: its label, the labels of a set, the label nearest to a number, or how long it is."""
    if form.labels is None:
        return written(sum(map(len, output.split())))
    if form.values and (number := number_of(output)) is not None:
        return (form.nearest(number),)
    return form.each(output) if form.is_set else (output,)


def confidence_of(form: Form, scores: Mapping[str, float] | None) -> float:
    """How sure an answer is: the probability of the likeliest label; of a set the mean over labels of that of what is said
    of each; NaN for an answer without probabilities."""
    if not scores:
        return math.nan
    if form.is_set:
        return sum(max(chance, 1 - chance) for chance in scores.values()) / len(scores)
    return max(scores.values())


def sketch(base: FrozenBase, rows: Sequence[Sequence[int]]) -> Floats:
    """Where inputs lie, N x S: the mean of each one's token embeddings, in directions drawn once for all bases of a width.
    Inputs without tokens lie at zero."""
    import torch  # what servers saw is judged without

    lengths = np.array([len(ids) for ids in rows])
    if not lengths.sum():
        return np.zeros((len(rows), SKETCH))
    distinct, places = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in rows]), return_inverse=True)
    with torch.no_grad():
        embeds_D = base.embedding(torch.from_numpy(distinct).to(base.device)).float()
    directions = torch.from_numpy(_directions(embeds_D.shape[1])).to(embeds_D)
    points = (embeds_D @ directions).cpu().numpy().astype(np.float64)
    found = np.zeros((len(rows), SKETCH))
    there = lengths > 0
    starts = np.concatenate([[0], np.cumsum(lengths[there])[:-1]])
    found[there] = np.add.reduceat(points[places], starts) / lengths[there][:, None]
    return found


@functools.cache
def _directions(width: int) -> Floats:
    """D x S, drawn by a generator that stays the same."""
    signs = np.random.RandomState(0).randint(0, 2, (width, SKETCH)) * 2 - 1
    return np.asarray(signs / math.sqrt(width), dtype=np.float64)


@dataclass
class Tally:
    """Sums over rows, from which windows and references are made: adding two is to have seen the rows of both."""

    rows: int = 0
    point: Floats = field(default_factory=lambda: np.zeros(SKETCH))
    """Sum of the rows' sketches, scaled and clipped as their reference says."""
    tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Rows by the bin of their number of tokens."""
    answered: int = 0
    """Rows with an answer."""
    answers: Counter[str] = field(default_factory=Counter)
    """Of those, how many are answered so."""
    sure: float = 0.0
    """Sum of confidences."""
    confidence: Counter[int] = field(default_factory=Counter)
    """Rows by the bin of their confidence."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in _FIELDS))

    def add(self, seen: Sequence[Seen], points: Floats) -> None:
        """Count rows whose scaled sketches these are."""
        self.rows += len(seen)
        self.point = self.point + points.sum(0)
        self.tokens += sum(len(row.ids) for row in seen)
        self.lengths.update(_bin(len(row.ids)) for row in seen)
        for row in seen:
            if row.answers is not None:
                self.answered += 1
                self.answers.update(row.answers)
            if not math.isnan(row.confidence):
                self.sure += row.confidence
                self.confidence[_sure_bin(row.confidence)] += 1

    def told(self) -> dict[str, Any]:
        """It in the types of JSON."""
        counts = {name: {str(key): getattr(self, name)[key] for key in sorted(getattr(self, name))} for name in _COUNTS}
        sums = {"point": _short(self.point), "sure": round(self.sure, 4)}
        return {name: getattr(self, name) for name in ("rows", "tokens", "answered")} | sums | counts

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Tally:
        """What :meth:`told` said.

        Raises:
            KeyError, TypeError, ValueError: it is no such thing.
        """
        lengths, confidence = (Counter({int(key): int(n) for key, n in told[name].items()}) for name in _NUMBERED)
        answers = Counter({str(key): int(n) for key, n in told["answers"].items()})
        point = np.array(told["point"], dtype=np.float64)
        if point.shape != (SKETCH,):
            raise ValueError(f"a sketch has {SKETCH} numbers")
        rows, tokens, answered = (int(told[name]) for name in ("rows", "tokens", "answered"))
        return cls(rows, point, tokens, lengths, answered, answers, float(told["sure"]), confidence)


_FIELDS = ("rows", "point", "tokens", "lengths", "answered", "answers", "sure", "confidence")
_COUNTS, _NUMBERED = ("lengths", "answers", "confidence"), ("lengths", "confidence")


@dataclass(frozen=True)
class Sample:
    """Some rows of a task, which others may look like."""

    name: str
    """`tuned` (training and validation), `judged` (test) or `given`."""
    covariance: Floats
    """S x S, of sketches that are scaled and clipped."""
    tally: Tally


@dataclass(frozen=True)
class Reference:
    """How the rows look that a prompt was tuned for. What looks like one of the samples has not drifted."""

    centre: Floats
    """S: the mean of sketches."""
    scale: Floats
    """S: their standard deviations."""
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, base: FrozenBase, given: Mapping[str, tuple[Sequence[Sequence[int]], Sequence[Seen]]]) -> Reference:
        """Samples by name, each of inputs and of answers: those of rows that nothing was trained on, whose inputs are not
        looked at. A sample without inputs is left out."""
        parts = {name: _some(inputs) for name, (inputs, _) in given.items()}
        points = sketch(base, [ids for some in parts.values() for ids in some])
        centre, spread = points.mean(0), points.std(0)
        least = 1e-6 * max(1.0, float(np.abs(points).max()))
        made = cls(np.array(_short(centre)), np.array(_short(np.maximum(spread, least))), ())
        scaled, samples, start = made.scaled(points), [], 0
        for name, some in parts.items():
            if not some:
                continue
            own, start = scaled[start : start + len(some)], start + len(some)
            tally, answers = Tally(), Tally()
            tally.add([Seen(ids) for ids in some], own)
            answers.add(given[name][1], np.zeros((1, SKETCH)))
            for field_name in ("answered", "answers", "sure", "confidence"):
                setattr(tally, field_name, getattr(answers, field_name))
            samples.append(Sample(name, np.cov(own, rowvar=False) if len(some) > 1 else np.eye(SKETCH), tally))
        return cls(made.centre, made.scale, tuple(samples))

    def counted_as(self, form: Form) -> Reference:
        """The same, whose answers count as :func:`answers_of` has them: references of before kept numbers over ordered
        labels as they were said, each for itself."""
        for sample in self.samples:
            if form.values and not sample.tally.answers.keys() <= form.values.keys():
                counts = Counter[str]()
                for said, count in sample.tally.answers.items():
                    counts.update(dict.fromkeys(answers_of(form, said), count))
                sample.tally.answers = counts
        return self

    def scaled(self, points: Floats) -> Floats:
        """Sketches in standard deviations from the centre, clipped."""
        return np.clip((points - self.centre) / self.scale, -CLIP, CLIP)

    def count(self, base: FrozenBase, seen: Sequence[Seen]) -> Tally:
        """The tally of rows beside this reference; those without tokens are left out."""
        tally, some = Tally(), [row for row in seen if len(row.ids)]
        if some:
            tally.add(some, self.scaled(sketch(base, [row.ids for row in some])))
        return tally

    def told(self) -> dict[str, Any]:
        """It in the types of JSON, a few kilobytes."""
        upper = np.triu_indices(SKETCH)
        samples = [
            {"name": one.name, "covariance": _short(one.covariance[upper])} | one.tally.told() for one in self.samples
        ]
        return {"format": FORMAT, "centre": _short(self.centre), "scale": _short(self.scale), "samples": samples}

    @classmethod
    def read(cls, told: object) -> Reference | None:
        """What :meth:`told` said; None where it is no reference that is known here."""
        try:
            assert isinstance(told, Mapping)
            centre, scale = (np.array(told[name], dtype=np.float64) for name in ("centre", "scale"))
            if told["format"] != FORMAT or centre.shape != (SKETCH,) or scale.shape != (SKETCH,) or not (scale > 0).all():
                return None
            samples = []
            for one in told["samples"]:
                covariance = np.zeros((SKETCH, SKETCH))
                covariance[np.triu_indices(SKETCH)] = one["covariance"]
                samples.append(Sample(str(one["name"]), covariance + np.triu(covariance, 1).T, Tally.read(one)))
            return cls(centre, scale, tuple(samples)) if samples else None
        except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
            return None


def _some(inputs: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """A bounded number of inputs, from the first to the last."""
    return [ids for ids in inputs[:: max(1, -(-len(inputs) // REFERENCE_ROWS))] if len(ids)]


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _bin(count: int) -> int:
    """Bins of counts, each a fifth to a quarter wider than the one before; small counts have one each."""
    return count if count < 4 else round(4 + 4 * math.log2(count / 4))


def bin_start(place: int) -> float:
    """About where a bin of counts lies."""
    return place if place < 4 else 4 * 2 ** ((place - 4) / 4)


def _sure_bin(confidence: float) -> int:
    """Bins of confidence, finer towards certainty: each has a share of doubt 0.7 times that of the one before, down to a
    thousandth."""
    return math.floor(-2 * math.log2(min(1.0, max(1 - confidence, 2**-10))))


def sure_start(place: int) -> float:
    """The least confidence in a bin."""
    return 1 - 2 ** (-place / 2)
