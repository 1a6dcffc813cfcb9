"""The form of a task: how a row becomes an input, and which answers there are. Made from a config or from a card, so that
training and serving word their inputs alike. No torch."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, ContextError, DataError, nearest
from softprompt.prompts.card import Card
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.rows import Row
from softprompt.text import lone_surrogate

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase


@dataclass(frozen=True)
class Template:
    """Text with names of columns in braces; `{{` and `}}` stand for braces."""

    text: str

    @cached_property
    def parts(self) -> list[tuple[str, str | None]]:
        """Literal text and the field behind it, in order.

        Raises:
            ConfigError: braces that do not match, or more than a name between them.
        """
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ConfigError(f"the template {self.text!r} is wrong: {error}; write {{{{ for a brace") from None
        for _, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or not name.replace("_", "a").replace("-", "a").isalnum()):
                raise ConfigError(f"the template {self.text!r} is wrong at {{{name}}}: only names of columns go in braces")
        return [(literal, name) for literal, name, _, _ in parsed]

    @property
    def fields(self) -> list[str]:
        """Names of columns it needs, each once, in order."""
        return list(dict.fromkeys(name for _, name in self.parts if name is not None))

    def fill(self, row: Row, where: str = "the row") -> str:
        """The text for a row.

        Raises:
            DataError: the row lacks a field or it is no text or number.
        """
        return "".join(literal + ("" if name is None else _text(row, name, where)) for literal, name in self.parts)


def _text(row: Row, name: str, where: str) -> str:
    if name not in row:
        raise DataError(f"{where} has no field {name!r}, which the template needs{nearest(name, row)}")
    value = row[name]
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f"{where}: the field {name!r} holds {repr(value)[:60]}; text or a number is needed: {excerpt(row)}")
    return str(value)


def excerpt(row: Row) -> str:
    """The beginning of a row, to find it by in its file: its number may count in a split."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class Inputs:
    """Token ids of inputs, and how many had to be cut to fit the context."""

    ids: list[list[int]]
    truncated: int


@dataclass(frozen=True)
class Form:
    """Templates, labels and bounds of a task."""

    task: str
    input: Template
    target: Template
    labels: tuple[str, ...] | None
    metric: str
    max_new_tokens: int
    instruction: str | None = None

    @classmethod
    def of_config(cls, config: TaskConfig) -> Form:
        """The form of a task file.

        Raises:
            ConfigError: a template is wrong.
        """
        form = cls._of(config, config.task or "task", config.metric_name)
        if not form.input.fields:
            raise ConfigError(f"input: the template {config.input!r} has no column in braces, such as {{text}}")
        if len(form.target.fields) != 1:
            raise ConfigError(
                f"target: the template {config.target!r} must have exactly one column in braces, such as {{label}}"
            )
        return form

    @classmethod
    def of_card(cls, card: Card) -> Form:
        """The form that a prompt was tuned with."""
        return cls._of(card, card.task, card.metric)

    @classmethod
    def _of(cls, source: TaskConfig | Card, task: str, metric: str) -> Form:
        templates = Template(source.input), Template(source.target)
        return cls(task, *templates, source.labels, metric, source.max_new_tokens, source.instruction)

    @property
    def target_field(self) -> str:
        """The column that holds the answer."""
        return self.target.fields[0]

    def answer(self, row: Row, where: str) -> str:
        """The answer in a row: a listed label, or free text.

        Raises:
            DataError: no answer there, or a label that is not listed.
        """
        text = _text(row, self.target_field, where)
        if self.labels is not None and text not in self.labels:
            listed = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
            raise DataError(
                f"{where}: the label {text[:60]!r} is not among `labels` ({listed}); list it or mend the row: {excerpt(row)}"
            )
        return text

    def verbalize(self, answer: str) -> str:
        """An answer as the model must say it."""
        return self.target.fill({self.target_field: answer})

    def unwrap(self, text: str) -> str:
        """What the model says without the words that the target puts around an answer, in whatever case and spacing they
        come; all of it where they do not come."""
        before, behind = _around(self.target)
        return behind.sub("", before.sub("", text.strip(), count=1), count=1).strip()

    def row_of(self, text: str) -> Row:
        """A request's text as a row: the text itself for a template with one column, else a JSON object with them all.

        Raises:
            DataError: several columns are needed and the text is no such object, or holds half of a character.
        """
        fields = self.input.fields
        if len(fields) == 1:
            return {fields[0]: text}
        example = json.dumps(dict.fromkeys(fields, "..."))
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"task {self.task!r} has inputs of {len(fields)} columns; give a JSON object such as {example}")
        if half := lone_surrogate(row):  # JSON can escape what no text can hold
            raise DataError(f"an input for task {self.task!r} holds {half!r}, half of a surrogate pair; mend it")
        return row

    def zero_shot_text(self) -> str:
        """The text prompt that a soft prompt is compared with."""
        if self.instruction is not None:
            return self.instruction
        if self.labels is None:
            return "Complete the answer."
        return f"Classify the text as one of: {', '.join(self.labels)}."

    def encode_labels(self, base: FrozenBase) -> tuple[tuple[int, ...], ...]:
        """Token ids of each label as the model must say it.

        Where one label's tokens begin another's, all end with the base's end token: the longer one's score would be the
        shorter one's and more, so that it could never win.

        Raises:
            DataError: two labels have the same tokens, one has none, or one begins another on a base without an end token.
        """
        assert self.labels is not None
        ids = base.encode([self.verbalize(label) for label in self.labels])
        seen: dict[tuple[int, ...], str] = {}
        for label, tokens in zip(self.labels, ids, strict=True):
            if not tokens:
                raise DataError(
                    f"task {self.task!r}: the label {label!r} has no tokens in the vocabulary of {base.name}; rename it"
                )
            other = seen.setdefault(tuple(tokens), label)
            if other is not label:
                raise DataError(
                    f"task {self.task!r}: the labels {other!r} and {label!r} have the same tokens on {base.name}; "
                    "rename one of them"
                )
        begun = next((pair for pair in itertools.pairwise(sorted(seen)) if pair[1][: len(pair[0])] == pair[0]), None)
        if begun is None:
            return tuple(seen)
        end = base.end_id if base.end_id is not None else min(base.end_ids, default=None)
        if end is None:
            short, long = (seen[tokens] for tokens in begun)
            raise DataError(
                f"task {self.task!r}: the tokens of the label {short!r} begin those of {long!r}, which could never win, and "
                f"{base.name} has no end token to tell them apart; rename one, or end the target with a mark: "
                '`target: " {label}."`'
            )
        return tuple((*tokens, end) for tokens in seen)

    def output_length(self, base: FrozenBase) -> int:
        """Tokens that the longest answer takes."""
        if self.labels is None:
            return self.max_new_tokens
        return max(len(ids) for ids in self.encode_labels(base))

    def encode_inputs(
        self, base: FrozenBase, rows: Sequence[Row], num_virtual_tokens: int, *, prepend: str = "", where: str = "row"
    ) -> Inputs:
        """Token ids of the inputs of rows, each within the context beside the prompt and the longest answer.

        An input that is too long loses the end of its longest column, so that the template stays whole; it is counted.

        Raises:
            DataError: a row lacks a field or its input is empty.
            ContextError: the template alone does not fit.
        """
        try:
            limit = base.budget(num_virtual_tokens, self.output_length(base))
        except ContextError as error:
            raise ContextError(f"task {self.task!r}: {error}") from None
        texts = [prepend + self.input.fill(row, f"{where} {index + 1}") for index, row in enumerate(rows)]
        ids = base.encode(texts)
        truncated = 0
        for index, tokens in enumerate(ids):
            if not tokens:
                raise DataError(f"{where} {index + 1}: the input is empty; give some text: {excerpt(rows[index])}")
            if limit is not None and len(tokens) > limit:
                ids[index] = self._shorten(base, rows[index], limit, prepend)
                truncated += 1
        return Inputs(ids, truncated)

    def _shorten(self, base: FrozenBase, row: Row, limit: int, prepend: str) -> list[int]:
        row = {name: _text(row, name, "the row") for name in self.input.fields}
        while True:
            (ids,) = base.encode([prepend + self.input.fill(row)])
            if len(ids) <= limit:
                return ids
            longest = max(row, key=lambda name: len(row[name]))
            if not row[longest]:
                raise ContextError(
                    f"the template of task {self.task!r} alone takes {len(ids)} tokens, and {limit} are left beside prompt "
                    "and output; use a shorter template or prompt"
                )
            (kept,) = base.encode([row[longest]])
            # A cut inside a character leaves U+FFFD, which may take as many tokens again; so a character goes at least.
            cut = base.decode(kept[: max(0, len(kept) - (len(ids) - limit))]).rstrip("\ufffd")
            row[longest] = cut if len(cut) < len(row[longest]) else row[longest][:-1]


@functools.cache
def _around(target: Template) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a target says before its answer and behind it, as patterns; where it says the answer twice, all from behind the
    first one on."""
    (first, _), *rest = target.parts
    before, gap = _spaced(first.strip()), r"(?:\s+|\Z)" if first[-1:].isspace() and first.strip() else ""
    behind = "".join(_spaced(literal) + ("" if name is None else ".*") for literal, name in rest)
    behind = behind.removesuffix(r"\s+").removeprefix(r"\s+")
    gap_behind = r"(?:\A|\s+)" if rest and rest[0][0][:1].isspace() and behind else ""
    flags = re.IGNORECASE | re.DOTALL
    return re.compile(rf"\A{before}{gap}", flags), re.compile(rf"{gap_behind}{behind}\Z", flags)


def _spaced(literal: str) -> str:
    """A pattern of a text, whatever its spacing."""
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", literal))


def form_fields(form: Form) -> dict[str, Any]:
    """What a card keeps of a form."""
    return vars(form) | {"input": form.input.text, "target": form.target.text}
