"""What a suite looks at: which rows are answered, and what the answers make of its checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.metrics import fold
from softprompt.evaluation.reference import answers_of
from softprompt.evaluation.suites.measures import (
    LOWER,
    OF_WRITING,
    Calibration,
    Measured,
    calibrate,
    fields_of,
    measure_rows,
)
from softprompt.evaluation.suites.measures import perplexity as perplexity_of
from softprompt.evaluation.suites.perturb import perturbed, swapped
from softprompt.evaluation.suites.suite import SliceConfig, Suite
from softprompt.registry.records import Check, Outcome
from softprompt.rows.openai_files import MESSAGES
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import Row, canonical
from softprompt.rows.values import is_missing, text_of
from softprompt.tasks.answers.kinds import OF_NUMBERS, OF_SETS
from softprompt.tasks.answers.patterns import Patterns
from softprompt.tasks.form import Form
from softprompt.tasks.wording.template import PASSAGES

if TYPE_CHECKING:
    from softprompt.evaluation.cases import Case
    from softprompt.evaluation.trials import Answer

MOST_VALUES = 20
"""Of a column that makes slices."""
_APART = ("preference", "perplexity")
"""Metrics by which neither slices nor changed inputs are judged."""


@dataclass(frozen=True)
class Variant:
    """Rows that are changed, and of which rows they are."""

    name: str
    """`perturb:case`, or `swap:he/she`."""
    places: list[int]
    rows: PlacedRows


@dataclass(frozen=True)
class Look:
    """A suite on the rows of a version."""

    suite: Suite
    case: Case
    warn: Callable[[str], object] = field(repr=False)

    @property
    def form(self) -> Form:
        """The form of the version."""
        return self.case.task.form

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Those that are found.

        Raises:
            ConfigError: one is not for this kind of answers.
        """
        asked = self.suite.config.metrics or (self.form.metric,)
        for metric in asked:
            if why := _unfit(metric, self.form):
                raise ConfigError(
                    f"suite {self.suite.name!r}: metric {metric} {why} (task {self.form.task!r}); take another"
                )
        if self.suite.config.calibration is not None and not self.tells_chances:
            raise ConfigError(
                f"suite {self.suite.name!r}: calibration is of the probability of one label among several, and task "
                f"{self.form.task!r} has none; leave it out"
            )
        return asked

    @property
    def tells_chances(self) -> bool:
        """Whether an answer is one label, which has a probability."""
        return self.form.chooses and not self.form.is_number

    @property
    def headline(self) -> str:
        """The metric by which slices and changed inputs are judged."""
        return next((one for one in self.metrics if one not in _APART), self.form.metric)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Of each row that is answered, as it was given."""
        return digests_of(self.case)

    @property
    def digest(self) -> str:
        """Of the suite on these rows."""
        return self.suite.digest(self.metrics, self.digests)

    @property
    def columns(self) -> list[str]:
        """Those of the input that hold what may be changed: no conversation, which as text is JSON that a change breaks."""
        left = (PASSAGES, self.form.target_field, *([MESSAGES] if self.form.converses else []))
        return [name for name in self.form.input.fields if name not in left]

    def variants(self) -> Iterator[Variant]:
        """The changed rows that the suite asks for; those that a change leaves as they are are not among them."""
        rows, config = self.case.rows, self.suite.config
        for kind in config.perturb:
            changed = [perturbed(kind, row, self.columns, config.seed) for row in rows]
            yield self._variant(f"perturb:{kind}", [(place, row) for place, row in enumerate(changed) if row is not None])
        for group in config.swap:
            some = [(place, new) for place, row in enumerate(rows) for new in swapped(group, row, self.columns)]
            yield self._variant(f"swap:{'/'.join(group)}", some)

    def _variant(self, name: str, changed: Sequence[tuple[int, Row]]) -> Variant:
        rows, places = self.case.rows, [place for place, _ in changed]

        def where(index: int) -> str:
            return f"{rows.where(places[index])}, changed by {name}"

        return Variant(name, places, PlacedRows([row for _, row in changed], where))

    def check(self) -> None:
        """Refuse what can be told without a base.

        Raises:
            ConfigError: a metric does not fit the answers, or a column makes too many slices.
            DataError: a right answer is no JSON object, and F1 over fields is asked for; or no row has a column.
        """
        len(self.slices)
        if "json_f1" in self.metrics:
            for place, answer in enumerate(self.case.source.answers):
                if fields_of(answer) is None:
                    raise DataError(
                        f"suite {self.suite.name!r}, {self.case.rows.where(place)}: json_f1 compares JSON objects, and the "
                        f"answer {answer[:60]!r} is none; mend the row, or leave that metric out"
                    )

    # What comes of answers

    def outcome(
        self,
        answers: Sequence[Answer],
        tokens: Sequence[int],
        changed: Sequence[tuple[Variant, Sequence[Answer]]],
        preferred: Sequence[bool | None],
    ) -> Outcome:
        """What the suite finds by the answers to its rows and to their variants.

        Args:
            tokens: of each right answer, over which its loss is summed.
            preferred: of each row whether the right answer is likelier than the rejected one; None where it has none.
        """
        said = [one.said for one in answers]
        judged, right = self.form.judged(said, self.case.source.answers)

        def measured(metric: str, places: Sequence[int], others: Sequence[str] | None = None) -> Measured:
            return measure_rows(metric, others or [judged[place] for place in places], [right[place] for place in places])

        every = range(len(said))
        checks: list[Check] = []
        for metric in self.metrics:
            if metric == "preference":
                known = [place for place in every if preferred[place] is not None]
                checks.append(_check(metric, metric, Measured.mean([float(bool(preferred[one])) for one in known]), known))
            elif metric == "perplexity":
                checks.append(_check(metric, metric, perplexity_of([one.loss for one in answers], tokens)))
            else:
                checks.append(_check(metric, metric, measured(metric, every)))
        checks += self._patterns(said)
        for name, places in self.slices:
            checks.append(_check(f"slice:{name}", self.headline, measured(self.headline, places), places))
        found = self._calibration(answers)
        if found is not None:
            checks.append(_check("calibration", "ece", found.error))
        for variant, given in changed:
            if not given:
                self.warn(
                    f"suite {self.suite.name!r}: {variant.name} changes no row of {self.case.version.ref}, and is left out"
                )
                continue
            same = [float(self._same(one.said, said[place])) for place, one in zip(variant.places, given, strict=True)]
            if variant.name.startswith("swap:"):
                moved: dict[int, list[float]] = {}
                for place, one in zip(variant.places, same, strict=True):
                    moved.setdefault(place, []).append(1 - one)
                shares = [sum(own) / len(own) for own in moved.values()]
                checks.append(_check(variant.name, "moved", Measured.mean(shares), list(moved)))
                continue
            others, _ = self.form.judged(
                [one.said for one in given], [self.case.source.answers[at] for at in variant.places]
            )
            before, places = measured(self.headline, variant.places).value, variant.places
            now = measured(self.headline, places, others)
            checks.append(_check(variant.name, self.headline, now, places, before))
            checks.append(_check(f"{variant.name}:stayed", "stayed", Measured.mean(same), places))
        version, keeps = self.case.version, self.suite.config.keep_answers
        return Outcome(
            version.task,
            version.number,
            self.suite.name,
            self.digest,
            self.suite.definition(),
            self.digests,
            tuple(said if keeps else map(hidden, said)),
            tuple(self.case.source.answers) if self.form.labels is not None else None,
            tuple(checks),
            () if found is None else found.bins,
        )

    def _same(self, one: str, other: str) -> bool:
        """Whether two answers say one thing: an expectation over ordered labels says the nearest of them, as any change to
        an input moves its last digits."""
        if self.form.labels is not None:
            return answers_of(self.form, one) == answers_of(self.form, other)
        numbers = [self.form.of_text(text).value for text in (one, other)] if self.form.is_number else [None]
        return numbers[0] == numbers[1] if None not in numbers else fold(one) == fold(other)

    def _patterns(self, said: Sequence[str]) -> Iterator[Check]:
        for rule in ("must", "must_not"):
            for pattern in getattr(self.suite.config, rule):
                one = Patterns(**{rule: [pattern]})
                yield _check(f"{rule}: {pattern}", rule, Measured.mean([float(not one.check(text)) for text in said]))

    def _calibration(self, answers: Sequence[Answer]) -> Calibration | None:
        bins = self.suite.config.calibration
        if bins is None:
            return None
        right = [one.said == it for one, it in zip(answers, self.case.source.answers, strict=True)]
        return calibrate([max(one.chances) for one in answers], right, bins)

    @cached_property
    def slices(self) -> list[tuple[str, list[int]]]:
        """The parts of the rows that are looked at apart, by name.

        Raises:
            ConfigError: a column makes too many.
            DataError: no row has a column that makes some.
        """
        slices: list[tuple[str, list[int]]] = []
        for one in self.suite.config.slices:
            found = list(self._slice(one))
            if not found:
                told = json.dumps(one.model_dump(exclude_unset=True), ensure_ascii=False)
                self.warn(f"suite {self.suite.name!r}: no row of {self.case.version.ref} is in the slice {told}; left out")
            slices += found
        return slices

    def _slice(self, asked: SliceConfig) -> Iterable[tuple[str, list[int]]]:
        rows, inputs = self.case.rows, self.case.source.inputs
        if asked.column is not None:
            return self._values(asked.column, asked.value)
        if asked.length is not None:
            low, high = asked.length[0] or 0, asked.length[1]
            places = [at for at, text in enumerate(inputs) if low <= len(text) and (high is None or len(text) < high)]
            name = f"length={low}-{'' if high is None else high}"
        else:
            pattern = Patterns(must=[asked.pattern or ""])
            places = [place for place in range(len(rows)) if not pattern.check(inputs[place])]
            name = f"pattern={asked.pattern}"
        return [(name, places)] if places else []

    def _values(self, column: str, value: object) -> list[tuple[str, list[int]]]:
        places: dict[str, list[int]] = {}
        if not any(column in row for row in self.case.rows):
            raise DataError(
                f"suite {self.suite.name!r}: no row has the column {column!r}, which makes slices; mend its name or the rows"
            )
        for place, row in enumerate(self.case.rows):
            if not is_missing(row.get(column)):
                places.setdefault(_text(row[column]), []).append(place)
        if value is not None:
            named = _text(value)
            return [(f"{column}={named}", places[named])] if named in places else []
        if len(places) > MOST_VALUES:
            raise ConfigError(
                f"suite {self.suite.name!r}: the column {column!r} has {len(places)} values, and {MOST_VALUES} slices are "
                "the most; name some with `value`"
            )
        return [(f"{column}={name}", own) for name, own in sorted(places.items())]


def digests_of(case: Case) -> tuple[str, ...]:
    """The digests of the rows that judge a version, as they were given."""
    form = case.task.form
    return tuple(digest_of_row(row) for row in case.given if not form.is_blank(row))


def digest_of_row(row: Row) -> str:
    """What an outcome knows a row by."""
    return hashlib.sha256(canonical(row)).hexdigest()[:16]


def hidden(text: str) -> str:
    """What is kept of an answer where answers are not."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: object) -> str:
    try:
        return text_of(value)
    except ValueError:
        return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def _check(
    name: str, metric: str, found: Measured, places: Sequence[int] | None = None, before: float | None = None
) -> Check:
    kept = None if places is None else tuple(places)
    return Check(name, metric, metric in LOWER, found.value, found.stderr, found.values, kept, before)


def _unfit(metric: str, form: Form) -> str | None:
    """Why a metric is not for a kind of answers; None where it is."""
    if metric in OF_SETS and not form.is_set:
        return "is of sets of labels"
    if metric in OF_NUMBERS and not form.is_number:
        return "is of numbers"
    if metric in ("accuracy", "f1") and (not form.chooses or form.is_number):
        return "is of one label among several"
    if metric in OF_WRITING and (form.labels is not None or form.is_number):
        return "is of written answers"
    if metric in ("exact_match", "token_f1", "preference") and (form.is_set or form.is_number):
        return "is of written answers, or of one label among several"
    return None
