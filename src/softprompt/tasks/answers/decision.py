"""Decision questions, in the words of OpenAI's `/v1/decisions`: whether a statement is true, which of some values holds,
where on ordered levels something lies. Requests ask them, and a task file holds the one that its prompt is tuned for.
No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError, field_validator, model_validator

from softprompt.prompts.card import DECISION, Card
from softprompt.rows.values import text_of
from softprompt.tasks.answers.labels import compose
from softprompt.text import lone_surrogate

Kind = Literal["predicate", "choice", "score"]
Value = str | bool
"""Of an option: `true` and the text "true" are two values."""

MOST_CHOICES, MOST_LEVELS = 255, 100
TRUTH = ("yes", "no")
"""How the truth of a predicate is said."""
_TRUTHS = {"true": "yes", "false": "no", "1": "yes", "0": "no"}
"""The same as rows have it."""


@dataclass(frozen=True)
class Option:
    """What a question may be answered with."""

    value: Value
    description: str | None = None


@dataclass(frozen=True)
class Question:
    """A question about an input."""

    type: Kind
    instructions: str
    options: tuple[Option, ...]
    """The choices, or the levels from the lowest on; of a predicate true and false."""
    name: str | None = None

    @classmethod
    def of_predicate(cls, instructions: str, name: str | None = None) -> Question:
        """Whether a statement is true."""
        return cls("predicate", instructions, (Option(True), Option(False)), name)

    @property
    def values(self) -> tuple[Value, ...]:
        """Of the options, in order."""
        return tuple(option.value for option in self.options)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """How each option is said. Where a text and a truth value would be said alike, all are as JSON writes them."""
        if self.type == "predicate":
            return TRUTH
        said = [text_of(value) for value in self.values]
        return tuple(said if len(set(said)) == len(said) else [json.dumps(one, ensure_ascii=False) for one in self.values])

    def text(self) -> str:
        """The question as a model that was never tuned for it is asked."""
        if self.type == "predicate":
            return f"{self.instructions}\nIs this true? Answer with yes or no."
        ask = (
            "Answer with one of these:"
            if self.type == "choice"
            else "Answer with one of these levels, of which the first is the lowest:"
        )
        told = [
            f"- {label}" if option.description is None else f"- {label}: {option.description}"
            for label, option in zip(self.labels, self.options, strict=True)
        ]
        return "\n".join([self.instructions, ask, *told])

    def differs(self, asked: Question) -> str | None:
        """How another question is not this one, in words; None where it is, whatever its name and its descriptions."""
        if asked.type != self.type:
            return f"its question is a {self.type}, and this is a {asked.type}"
        if not same_values(self.values, asked.values, ordered=self.type == "score"):
            return f"its {self.type} is among {told_values(self.values)}, and this among {told_values(asked.values)}"
        if _words(asked.instructions) != _words(self.instructions):
            return f"it is tuned to be asked {self.instructions!r}, word for word"
        return None

    @classmethod
    def of_card(cls, card: Card) -> Question | None:
        """The one that a prompt was tuned for, where its task file held one that is known here."""
        try:
            return DecisionConfig.model_validate(card.recipe[DECISION]).question if DECISION in card.recipe else None
        except ValidationError:
            return None


def typed(value: Value) -> tuple[type, Value]:
    """A value that is equal to those that mean the same: a text in Unicode's composed form, and never a truth value's."""
    return type(value), compose(value) if isinstance(value, str) else value


def same_values(one: Sequence[Value], other: Sequence[Value], *, ordered: bool = False) -> bool:
    """Whether options are the same."""
    ours, theirs = (list(map(typed, values)) for values in (one, other))
    return ours == theirs if ordered else Counter(ours) == Counter(theirs)


def told_values(values: Sequence[Value], most: int = 8) -> str:
    """Values for messages, as JSON writes them."""
    told = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:most])
    return told + (f" and {len(values) - most} more" if len(values) > most else "")


def _words(text: str) -> list[str]:
    return compose(text).split()


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        if isinstance(value, str) and lone_surrogate(value):
            raise ValueError(f"{value!r} holds half of a surrogate pair, which is no character; mend it")
        return value


class ChoiceConfig(_Block):
    """A value to choose."""

    value: StrictStr | StrictBool
    """A text, or a truth value."""
    description: str | None = None
    """When it holds."""


class LevelConfig(_Block):
    """A level of a score."""

    label: str
    """What it is called."""
    description: str | None = None
    """When it holds."""


class DecisionConfig(_Block):
    """The question that a task is tuned for."""

    type: Kind
    """`predicate`, `choice` or `score`."""
    instructions: str = Field(min_length=1)
    """The statement of a predicate; what to choose, or to rate."""
    name: str | None = None
    """What a request may call it; it need not."""
    choices: tuple[ChoiceConfig, ...] | None = None
    """Of a choice, from 2 to 255: each a value, or `value` with a `description`."""
    levels: tuple[LevelConfig, ...] | None = None
    """Of a score, from the lowest on: each a label, or `label` with a `description`."""

    @field_validator("choices", mode="before")
    @classmethod
    def _plain_values(cls, given: Any) -> Any:
        return [one if isinstance(one, dict) else {"value": one} for one in given] if isinstance(given, list) else given

    @field_validator("levels", mode="before")
    @classmethod
    def _plain_labels(cls, given: Any) -> Any:
        return (
            [one if isinstance(one, dict) else {"label": _level(one)} for one in given] if isinstance(given, list) else given
        )

    @model_validator(mode="after")
    def _of_its_type(self) -> DecisionConfig:
        for key, kind in (("choices", "choice"), ("levels", "score")):
            if (getattr(self, key) is not None) != (self.type == kind):
                what = "needs them" if self.type == kind else "has none"
                raise ValueError(f"{key}: a {self.type} {what}; {'list' if self.type == kind else 'take'} them")
        check_options(self.question)
        if self.type == "choice" and self.question.labels != tuple(map(text_of, self.question.values)):
            raise ValueError("choices: a text and a truth value are written alike in rows; keep one of them")
        return self

    @property
    def question(self) -> Question:
        """The question."""
        if self.type == "predicate":
            return Question.of_predicate(self.instructions, self.name)
        chosen = [Option(one.value, one.description) for one in self.choices or ()]
        levels = [Option(one.label, one.description) for one in self.levels or ()]
        return Question(self.type, self.instructions, tuple(chosen or levels), self.name)


def _level(label: Any) -> Any:
    return text_of(label) if isinstance(label, int | float) and not isinstance(label, bool) else label


def check_options(question: Question) -> None:
    """Refuse options that are none.

    Raises:
        ValueError: they are too few or too many, one is blank, or two are equal.
    """
    if question.type == "predicate":
        return
    key, most = ("choices", MOST_CHOICES) if question.type == "choice" else ("levels", MOST_LEVELS)
    if not 2 <= len(question.options) <= most:
        raise ValueError(
            f"{key}: a {question.type} is among 2 to {most}, and there are {len(question.options)}; list so many"
        )
    if any(isinstance(value, str) and not value.strip() for value in question.values):
        raise ValueError(f"{key}: one of them is blank; give it a text")
    counts = Counter(map(typed, question.values))
    twice = next((value for (_, value), count in counts.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{key}: {told_values([twice])} is listed more than once; list it once")


def with_decision(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a task file with what follows from its `decision`, where they are not given: its labels, how rows say them,
    and as the text prompt to compare with the question itself."""
    try:
        question = DecisionConfig.model_validate(raw["decision"]).question
    except (KeyError, ValidationError):
        return dict(raw)  # of which the field itself tells
    found: dict[str, Any] = {"labels": list(question.labels)}
    if question.type == "predicate" and raw.get("id2label") is None:
        found["id2label"] = dict(_TRUTHS)
    if raw.get("instruction") is None and raw.get("instruction_file") is None:
        found["instruction"] = question.text()
    return found | {key: value for key, value in raw.items() if value is not None}


def check_decision(decision: DecisionConfig | None, labels: Sequence[str] | None, kind: str | None) -> None:
    """Refuse a decision whose answers are not a task's.

    Raises:
        ValueError: the task has other labels, or answers with sets of them.
    """
    if decision is None:
        return
    question = decision.question
    if labels is None or tuple(map(compose, labels)) != tuple(map(compose, question.labels)):
        raise ValueError(
            f"labels: the decision is answered with {', '.join(map(repr, question.labels))}, and these are others; leave "
            "`labels` out"
        )
    if kind == "multi_label_classification":
        raise ValueError(f"decision: a {question.type} has one answer, and problem_type: {kind} sets; leave one of them out")
