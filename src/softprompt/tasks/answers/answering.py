"""The half of a form that is about answers: how rows have them, how the base is asked for one, and what its scores or its
text say. No torch."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from softprompt.errors import DataError
from softprompt.rows.sources import Row
from softprompt.rows.values import is_empty, short
from softprompt.tasks.answers import kinds
from softprompt.tasks.answers.kinds import NUMBER, SET, Said
from softprompt.tasks.answers.labels import Spellings
from softprompt.tasks.wording.template import Template, around, excerpt, field_text


@dataclass(frozen=True)
class Answering:
    """What answers there are, and how they are worded."""

    task: str
    target: Template
    labels: tuple[str, ...] | None
    metric: str
    max_new_tokens: int
    instruction: str | None = None
    fold_labels: bool = False
    """Whether answers that differ from a label by case, spaces or the spelling of a number alone are that label."""
    id2label: tuple[tuple[str, str], ...] = ()
    """Labels for answers as rows have them, such as a word for a number."""
    problem_type: str | None = None
    """What kind of answer it is, where it is not one label or a text."""
    label_separator: str = kinds.SEPARATOR
    """What stands between the labels of a set where a row has them as one text."""
    threshold: float = kinds.THRESHOLD
    """From which probability on a label of a set holds."""
    answer_range: tuple[float, float] | None = None
    """Between which numbers a generated one lies."""
    no_answer: str | None = None
    """The answer of rows whose own is empty."""
    output_schema: str | None = None
    """The JSON schema that a generated answer is held to, as text."""
    may_lack_answers: bool = False
    """Whether rows without an answer are read, as training by a teacher needs none."""

    @property
    def target_field(self) -> str:
        """The column that holds the answer."""
        return self.target.fields[0]

    def answer(self, row: Row, where: object) -> str:
        """The answer in a row: a listed label, or free text; an empty text where it has none and may lack it.

        Raises:
            DataError: no answer there, or a label that is not listed.
        """
        if self.lacks_answer(row):
            return ""
        text = self._answer_text(row, where)
        if self.is_set:
            held = {self._label(one, row, where) for one in kinds.split(text)}
            return kinds.join([label for label in self.labels or () if label in held])
        if self.labels is not None:
            return self._label(text, row, where)
        if not text.strip():
            raise DataError(f"{where}: the field {self.target_field!r} is empty; give an answer: {excerpt(row)}")
        if self.problem_type == NUMBER and kinds.number_of(text) is None:
            raise DataError(
                f"{where}: the answer {text[:60]!r} is no number, as `problem_type: {NUMBER}` has them (such as 3, 0.5 or "
                f"-2e3); mend the row: {excerpt(row)}"
            )
        return text

    def lacks_answer(self, row: Row) -> bool:
        """Whether a row has no answer, and need not have one."""
        return self.no_answer is None and self.may_lack_answers and is_empty(row.get(self.target_field))

    @property
    def answered(self) -> Self:
        """The same form for what needs an answer in every row."""
        return replace(self, may_lack_answers=False) if self.may_lack_answers else self

    def _answer_text(self, row: Row, where: object) -> str:
        """A row's answer as one text, as it is written."""
        if self.no_answer is not None and self.target_field in row and is_empty(row[self.target_field]):
            return self.no_answer
        if not self.is_set or self.target_field not in row:
            return field_text(row, self.target_field, where)
        value = row[self.target_field]
        try:
            found = kinds.labels_in(value, self.label_separator)
        except ValueError as error:
            raise DataError(
                f"{where}: the field {self.target_field!r} holds {short(value)}: {error}; give a list of labels, or a text "
                f"with {self.label_separator!r} between them, empty where none holds: {excerpt(row)}"
            ) from None
        if (wrong := next((one for one in found if kinds.SEPARATOR in one or not one), None)) is not None:
            raise DataError(
                f"{where}: {wrong[:60]!r} in the field {self.target_field!r} is no label; mend it: {excerpt(row)}"
            )
        return kinds.join(found)

    def _label(self, text: str, row: Row, where: object) -> str:
        assert self.labels is not None
        label = self.spellings.label_of(text)
        if label is None:
            listed = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
            like = self.spellings.like(text)
            mend = "" if like is None else f"`fold_labels: true` takes it for {like!r}, or "
            for mark in ",|/" if self.is_set else "":
                if mark in text and all(map(self.spellings.label_of, map(str.strip, text.split(mark)))):
                    mend = f"`label_separator: {mark!r}` divides it into labels, or "
            raise DataError(
                f"{where}: the label {text[:60]!r} is not among `labels` ({listed}); {mend}list it or mend the row: "
                f"{excerpt(row)}"
            )
        return label

    def each(self, answer: str) -> tuple[str, ...]:
        """The labels of an answer: those of a set, or the one."""
        return kinds.split(answer) if self.is_set else (answer,)

    @cached_property
    def spellings(self) -> Spellings:
        """Which label an answer is."""
        return Spellings(self.labels or (), self.id2label, self.fold_labels or self.problem_type == NUMBER)

    @property
    def is_set(self) -> bool:
        """Whether an answer is a set of labels."""
        return self.problem_type == SET

    @property
    def is_number(self) -> bool:
        """Whether an answer is a number."""
        return self.problem_type == NUMBER

    @property
    def chooses(self) -> bool:
        """Whether an answer is one label among several."""
        return self.labels is not None and not self.is_set

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """What is scored behind an input: the labels, or of sets that each holds and that it does not."""
        return kinds.statements(self.labels or ()) if self.is_set else self.labels or ()

    @cached_property
    def values(self) -> dict[str, float]:
        """The numbers that ordered labels stand for."""
        return kinds.values_of(self.labels or (), self.id2label) if self.is_number else {}

    def nearest(self, number: float) -> str:
        """The ordered label that stands for the number nearest to another; the lower one of two."""
        return min(self.values, key=lambda label: (abs(self.values[label] - number), self.values[label]))

    def of_scores(self, scores: Sequence[float]) -> Said:
        """What summed log-probabilities of all that is :attr:`asked` say."""
        labels = self.labels or ()
        if self.is_set:
            return kinds.set_of_scores(labels, scores, self.threshold)
        chances = dict(zip(labels, kinds.softmax(scores), strict=True))
        if self.is_number:
            return kinds.number_of_scores(self.values, chances)
        label = labels[max(range(len(scores)), key=scores.__getitem__)]
        return Said(label, label, chances)

    def mean(self, scores: Sequence[Sequence[float]]) -> Sequence[float]:
        """Scores of all that is :attr:`asked` by each member of an ensemble as its own: of sets label by label. Those of a
        prompt that is none come as they are."""
        if len(scores) == 1:
            return scores[0]
        if not self.is_set:
            return kinds.mean_scores(scores)
        starts = range(0, len(scores[0]), len(kinds.SAID))
        return [one for at in starts for one in kinds.mean_scores([own[at : at + len(kinds.SAID)] for own in scores])]

    def loss(self, scores: Sequence[float], right: Sequence[int]) -> float:
        """Negative log-probability of the right label among all; of a set that of each label's right statement, in the mean
        over the labels.

        Args:
            right: the place of the right label; of a set the places of those that hold.
        """
        if not self.is_set:
            return -kinds.log_softmax(scores)[right[0]]
        pairs = zip(scores[::2], scores[1::2], strict=True)
        losses = [-kinds.log_softmax(pair)[place not in right] for place, pair in enumerate(pairs)]
        return math.fsum(losses) / len(losses)

    def of_text(self, text: str) -> Said:
        """What a generated text says."""
        if self.is_number:
            return kinds.number_of_text(text, self.unwrap(text), self.answer_range)
        return Said(text, text)

    def count_astray(self, texts: Sequence[str]) -> tuple[int, int]:
        """How many generated texts that are to be numbers are none, and how many lie outside of their range."""
        said = [self.of_text(text) for text in texts] if self.is_number and not self.labels else []
        return sum(one.value is None for one in said), sum(one.outside for one in said)

    def judged(self, predictions: Sequence[str], right: Sequence[str]) -> tuple[list[str], list[str]]:
        """Predictions and right answers as a metric compares them: what a target says around a generated answer is no part
        of it, right answers that are ordered labels are their numbers, as predictions of them are, and a text without a
        number is the number farthest from the right one."""
        if not self.is_number:
            return [text if self.labels else self.unwrap(text) for text in predictions], list(right)
        numbers = [self._number(text) or 0.0 for text in right]
        bounds = self.answer_range or (min(numbers), max(numbers))
        said = [kinds.number_of(text) if self.labels else self.of_text(text).value for text in predictions]
        kept = [kinds.farthest(it, bounds) if one is None else one for one, it in zip(said, numbers, strict=True)]
        return list(map(repr, kept)), list(map(repr, numbers))

    def usual(self, right: Sequence[str]) -> str:
        """The most frequent of some answers, the first among equals, as a prompt would say it; of numbers the median."""
        if not self.is_number:
            return Counter(right).most_common(1)[0][0]
        numbers = [self._number(text) or 0.0 for text in right]
        median = statistics.median_low(numbers)
        return repr(median) if self.labels else right[numbers.index(median)]

    def within(self, right: Sequence[str]) -> Self:
        """The same with the range of some answers, where answers are generated numbers and have none yet."""
        if not self.is_number or self.labels is not None or self.answer_range is not None:
            return self
        numbers = list(map(float, right))
        return replace(self, answer_range=(min(numbers), max(numbers)))

    def _number(self, text: str) -> float | None:
        return self.values[text] if text in self.values else self.of_text(text).value

    def unwrap(self, text: str) -> str:
        """What the model says without the words that the target puts around an answer, in whatever case and spacing they
        come; all of it where they do not come."""
        before, behind = around(self.target)
        return behind.sub("", before.sub("", text.strip(), count=1), count=1).strip()
