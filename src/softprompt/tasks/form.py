"""The form of a task: how a row becomes an input, and which answers there are. Made from a config or from a card, so that
training and serving word their inputs alike. No torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.prompts.card import Card
from softprompt.rows.places import Name, Place
from softprompt.rows.sources import Row, find_file
from softprompt.rows.tables import row_in
from softprompt.rows.values import is_missing
from softprompt.tasks.chat import text_place, with_text
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.labels import Spellings, compose
from softprompt.tasks.task_file import read_instruction
from softprompt.tasks.template import Template, around, excerpt, field_text
from softprompt.text import Parts, plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase

ANSWERS, BEHIND = "answers", "as they stand behind an input"
"""What a card's recipe says where answers encoded alone would have begun with a word mark, and do not."""


@dataclass(frozen=True)
class Inputs:
    """Token ids of inputs."""

    ids: list[list[int]]
    cut: list[int]
    """The places of those that had to be cut to fit the context."""

    @property
    def truncated(self) -> int:
        """How many were cut."""
        return len(self.cut)


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
    fold_labels: bool = False
    """Whether answers that differ from a label by case, spaces or the spelling of a number alone are that label."""
    id2label: tuple[tuple[str, str], ...] = ()
    """Labels for answers as rows have them, such as a word for a number."""
    may_lack_answers: bool = False
    """Whether rows without an answer are read, as training by a teacher needs none."""
    apart: bool = field(default=False, compare=False)
    """Whether answers are encoded as if they stood alone, with a word mark where the tokenizer puts one before every text:
    as prompts of before were trained."""

    @classmethod
    def of_config(cls, config: TaskConfig) -> Form:
        """The form of a task file.

        Raises:
            ConfigError: a template is wrong.
        """
        form = cls._of(config, config.task or "task", config.metric_name, config.model_dump(include=set(_OF_RECIPE)))
        if form.labels is not None:
            form = replace(form, labels=tuple(map(compose, form.labels)))
        form = replace(form, may_lack_answers=config.objective_name == "distillation")
        if not form.input.fields:
            raise ConfigError(f"input: the template {config.input!r} names no column; write one in braces, such as {{text}}")
        if len(form.target.fields) != 1:
            raise ConfigError(
                f"target: the template {config.target!r} names {plural(len(form.target.fields), 'column')}; "
                "write exactly one in braces, such as {label}"
            )
        return form

    @classmethod
    def of_card(cls, card: Card) -> Form:
        """The form that a prompt was tuned with."""
        return replace(cls._of(card, card.task, card.metric, card.recipe), apart=card.recipe.get(ANSWERS) != BEHIND)

    @classmethod
    def _of(cls, source: TaskConfig | Card, task: str, metric: str, recipe: Mapping[str, Any]) -> Form:
        templates = Template(source.input), Template(source.target)
        words = tuple(sorted((recipe.get("id2label") or {}).items()))
        fold = bool(recipe.get("fold_labels"))
        return cls(task, *templates, source.labels, metric, source.max_new_tokens, source.instruction, fold, words)

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
        text = field_text(row, self.target_field, where)
        if self.labels is None:
            if not text.strip():
                raise DataError(f"{where}: the field {self.target_field!r} is empty; give an answer: {excerpt(row)}")
            return text
        label = self.spellings.label_of(text)
        if label is None:
            listed = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
            like = self.spellings.like(text)
            mend = "" if like is None else f"`fold_labels: true` takes it for {like!r}, or "
            raise DataError(
                f"{where}: the label {text[:60]!r} is not among `labels` ({listed}); {mend}list it or mend the row: "
                f"{excerpt(row)}"
            )
        return label

    def lacks_answer(self, row: Row) -> bool:
        """Whether a row has no answer, and need not have one."""
        return self.may_lack_answers and _is_empty(row.get(self.target_field))

    @property
    def answered(self) -> Form:
        """The same form for what needs an answer in every row."""
        return replace(self, may_lack_answers=False) if self.may_lack_answers else self

    @cached_property
    def spellings(self) -> Spellings:
        """Which label an answer is."""
        return Spellings(self.labels or (), self.id2label, self.fold_labels)

    @property
    def reads(self) -> tuple[object, ...]:
        """What it reads of rows: forms that agree in it split them alike."""
        read = (*sorted(self.input.fields), self.target_field, self.labels, self.fold_labels, self.id2label)
        return (*read, self.may_lack_answers)

    def columns(self, row: Row, where: object) -> dict[str, str]:
        """The texts of a row that the templates read, by column.

        Raises:
            DataError: one is not there, or is no text or number.
        """
        names = self.input.fields if self.lacks_answer(row) else (*self.input.fields, self.target_field)
        return {self.target_field: ""} | {name: field_text(row, name, where) for name in names}

    def is_blank(self, row: Row) -> bool:
        """Whether nothing stands in any column of a row's input."""
        return all(_is_empty(row.get(name)) for name in self.input.fields)

    def gap(self, row: Row) -> str | None:
        """The first column of a row's input in which nothing stands, where something stands in another."""
        empty = [name for name in self.input.fields if _is_empty(row.get(name))]
        return empty[0] if 0 < len(empty) < len(self.input.fields) else None

    def encode_answers(self, base: FrozenBase, answers: Sequence[str], name: Name | None = None) -> list[list[int]]:
        """Token ids of answers as the model must say them, behind an input.

        Raises:
            DataError: one takes a token for which the base has no embedding.
        """
        parts = [self.target.fill_parts({self.target_field: answer}) for answer in answers]
        return base.encode(parts, behind=not self.apart, name=name)

    def unwrap(self, text: str) -> str:
        """What the model says without the words that the target puts around an answer, in whatever case and spacing they
        come; all of it where they do not come."""
        before, behind = around(self.target)
        return behind.sub("", before.sub("", text.strip(), count=1), count=1).strip()

    def row_of(self, text: str) -> Row:
        """A request's text as a row: the text itself for a template with one column, else a JSON object with them all.

        Raises:
            DataError: several columns are needed and the text is no such object, has a key twice, or half of a character.
        """
        fields = self.input.fields
        if len(fields) == 1:
            return {fields[0]: text}
        example = json.dumps(dict.fromkeys(fields, "..."), ensure_ascii=False)
        row = row_in(text, f"an input for task {self.task!r}")
        if row is None:
            raise DataError(f"task {self.task!r} has inputs of {len(fields)} columns; give a JSON object such as {example}")
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
        labels = self.labels
        ids = self.encode_answers(base, labels, lambda number: f"task {self.task!r}: the label {labels[number]!r}")
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
        if base.end_id is None:
            short, long = (seen[tokens] for tokens in begun)
            raise DataError(
                f"task {self.task!r}: the tokens of the label {short!r} begin those of {long!r}, which could never win, and "
                f"{base.name} has no end token to tell them apart; rename one, or end the target with a mark: "
                '`target: " {label}."`'
            )
        return tuple((*tokens, base.end_id) for tokens in seen)

    def rules(self, base: FrozenBase) -> dict[str, str]:
        """What a card says of how text becomes tokens, where there is something to say."""
        rules = text_rules(base)
        if self.labels is not None and all(ids[-1] == base.end_id for ids in self.encode_labels(base)):
            rules["label_end"] = base.tokenizer.convert_ids_to_tokens(base.end_id)
        return rules

    def output_length(self, base: FrozenBase) -> int:
        """Tokens that the longest answer takes."""
        if self.labels is None:
            return self.max_new_tokens
        return max(len(ids) for ids in self.encode_labels(base))

    def encode_inputs(
        self, base: FrozenBase, rows: Sequence[Row], num_virtual_tokens: int, *, prepend: str = "", name: Name | None = None
    ) -> Inputs:
        """Token ids of the inputs of rows, each within the context beside the prompt and the longest answer.

        An input that is too long loses the end of its longest column, so that the template stays whole; it is counted.

        Args:
            prepend: a text prompt, in front of what the user says: :func:`text_place` says where that is.
            name: what messages call a row, by its place in `rows`.

        Raises:
            DataError: a row lacks a field or its input is empty.
            ContextError: the template alone does not fit.
        """
        try:
            limit = base.budget(num_virtual_tokens, self.output_length(base))
        except ContextError as error:
            raise ContextError(f"task {self.task!r}: {error}") from None
        name = name or _numbered
        word = self._wording(base, prepend)
        ids = base.encode([word(row, Place(name, index)) for index, row in enumerate(rows)], name=name)
        cut = []
        for index, tokens in enumerate(ids):
            if not tokens:
                raise DataError(f"{name(index)}: the input is empty; give some text: {excerpt(rows[index])}")
            if limit is not None and len(tokens) > limit:
                ids[index] = self._shorten(base, rows[index], limit, word)
                cut.append(index)
        return Inputs(ids, cut)

    def _wording(self, base: FrozenBase, prepend: str) -> Callable[[Row, object], Parts]:
        """What words a row, a text prompt in its place."""
        if not prepend:
            return self.input.fill_parts
        at = text_place(self.input, base)
        return lambda row, where: with_text(self.input.fill_parts(row, where), prepend, at)

    def _shorten(self, base: FrozenBase, row: Row, limit: int, word: Callable[[Row, object], Parts]) -> list[int]:
        row = {name: field_text(row, name, "the row") for name in self.input.fields}
        while True:
            (ids,) = base.encode([word(row, "the row")])
            if len(ids) <= limit:
                return ids
            longest = max(row, key=lambda name: len(row[name]))
            if not row[longest]:
                raise ContextError(
                    f"the template of task {self.task!r} alone takes {plural(len(ids), 'token')}, and {limit} are left "
                    "beside prompt and output; use a shorter template or prompt"
                )
            (kept,) = base.encode([row[longest]])
            # A cut inside a character leaves U+FFFD, which may take as many tokens again; so a character goes at least.
            cut = base.decode(kept[: max(0, len(kept) - (len(ids) - limit))]).rstrip("\ufffd")
            if not row[longest].startswith(cut) and row[longest].startswith(f" {cut}"):  # a decoder left a word mark out
                cut = f" {cut}"
            row[longest] = cut if len(cut) < len(row[longest]) else row[longest][:-1]


def _is_empty(value: object) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def _numbered(index: int) -> str:
    return f"row {index + 1}"


def with_instruction(config: TaskConfig, folder: Path) -> TaskConfig:
    """A config with the text of its instruction file, which is looked for as data are, in the place of the file's name.

    Raises:
        ConfigError: it is not there, or is no text.
    """
    if (file := config.instruction_file) is None:
        return config
    text = read_instruction(find_file(file, folder), file)
    return config.model_copy(update={"instruction": text, "instruction_file": None})


def text_rules(base: FrozenBase) -> dict[str, str]:
    """What a card says of a base's own ways with text: that answers are encoded as they stand behind an input, where they
    would begin with a word mark alone; and what the tokenizer would begin texts with, which is left out."""
    rules = {ANSWERS: BEHIND} if base.spelling.marks_words else {}
    return rules | ({"left_out": base.spelling.begins_with} if base.spelling.begins_with is not None else {})


def form_fields(form: Form) -> dict[str, Any]:
    """What a card keeps of a form as its own fields; the rest is in its recipe."""
    kept = {field.name: getattr(form, field.name) for field in fields(form) if field.name not in _OF_RECIPE}
    return kept | {"input": form.input.text, "target": form.target.text}


_OF_RECIPE = ("fold_labels", "id2label", "apart", "may_lack_answers")
"""What a form takes from a card's recipe, where prompts of before had none of it, or what is of no prompt."""
