"""The form of a task: how a row becomes an input, and which answers there are. Made from a config or from a card, so that
training and serving word their inputs alike. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from softprompt.bases.architectures import HeadLabels, MaskedLabels
from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.prompts.card import DECISION, Card
from softprompt.rows.openai_files import MESSAGES
from softprompt.rows.places import Name
from softprompt.rows.sources import Row
from softprompt.rows.tables import row_in
from softprompt.rows.values import is_empty, is_missing
from softprompt.tasks.answers.answering import Answering
from softprompt.tasks.answers.label_ids import distinct, with_ends
from softprompt.tasks.answers.labels import compose
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.retrieve import Retriever
from softprompt.tasks.wording.inputs import Inputs, Wording
from softprompt.tasks.wording.template import PASSAGES, PLACE, Template, excerpt, field_text
from softprompt.text import MASK, Parts, plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase

ANSWERS, BEHIND = "answers", "as they stand behind an input"
"""What a card's recipe says where answers encoded alone would have begun with a word mark, and do not."""

IN_TEMPLATE = "in the chat template"
"""What a card's recipe says of messages; in prompts of before a column of that name was text like any other."""


@dataclass(frozen=True, kw_only=True)
class Form(Answering):
    """Templates, labels and bounds of a task."""

    input: Template
    apart: bool = field(default=False, compare=False)
    """Whether answers are encoded as if they stood alone, with a word mark where the tokenizer puts one before every text:
    as prompts of before were trained."""
    retriever: Retriever | None = field(default=None, compare=False)
    """What fills `{passages}` where rows have none."""
    converses: bool = field(default=False, compare=False)
    """Whether its input has `{messages}`: a conversation in the base's chat template."""

    @classmethod
    def of_config(cls, config: TaskConfig) -> Form:
        """The form of a task file.

        Raises:
            ConfigError: a template is wrong.
        """
        form = cls._of(config, config.task or "task", config.metric_name, config.model_dump(include=set(_OF_RECIPE)))
        if form.labels is not None:
            form = replace(form, labels=tuple(map(compose, form.labels)))
        form.input.around_prompt  # noqa: B018  (which may be wrong)
        if PLACE in [name for _, name in form.target.parts]:
            raise ConfigError(f"target: {{{PLACE}}} is the place of the vectors in `input`; name the answer's column")
        if config.prompt_type == "prefix" and form.is_placed:
            raise ConfigError(f"input: a prefix stands before everything on each layer; take {{{PLACE}}} out of it")
        form = replace(form, may_lack_answers=config.objective_name == "distillation")
        form = replace(form, converses=MESSAGES in form.input.fields)
        if form.converses and form.is_placed:
            raise ConfigError(
                f"input: the vectors stand before {{{MESSAGES}}}, a whole conversation; take {{{PLACE}}} out of it"
            )
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
        made, settings = cls._of(card, card.task, card.metric, card.recipe), card.recipe.get("retrieve")
        return replace(
            made,
            apart=card.recipe.get(ANSWERS) != BEHIND,
            retriever=Retriever.of_card(settings) if settings else None,
            converses=card.recipe.get(MESSAGES) == IN_TEMPLATE,
        )

    @classmethod
    def _of(cls, source: TaskConfig | Card, task: str, metric: str, recipe: Mapping[str, Any]) -> Form:
        words = tuple(sorted((recipe.get("id2label") or {}).items()))
        fold = bool(recipe.get("fold_labels"))
        made = cls(
            task=task,
            target=Template(source.target),
            labels=source.labels,
            metric=metric,
            max_new_tokens=source.max_new_tokens,
            instruction=source.instruction,
            fold_labels=fold,
            id2label=words,
            input=Template(source.input, source.task_type == "MASKED_LM"),
        )
        kept = {key: recipe[key] for key in _OF_KIND if recipe.get(key) is not None}
        if "answer_range" in kept:
            kept["answer_range"] = tuple(kept["answer_range"])
        return replace(made, **kept)

    @property
    def reads(self) -> tuple[object, ...]:
        """What it reads of rows: forms that agree in it split them alike."""
        kind = (self.problem_type, self.label_separator) if self.problem_type else ()
        read = (*sorted(self.input.fields), self.target_field, self.labels, self.fold_labels, self.id2label, *kind)
        found = (self.retriever.find, *self.retriever.settings.items()) if self.retriever is not None else ()
        return (*read, self.may_lack_answers, self.no_answer, *found)

    @property
    def asked_columns(self) -> list[str]:
        """Columns that a row must have: those of the input, but for passages that are found for it, and of the question."""
        return list(dict.fromkeys([*self._own_columns, *(self.retriever.query.fields if self.retriever else ())]))

    @property
    def _own_columns(self) -> list[str]:
        return [name for name in self.input.fields if name != PASSAGES or self.retriever is None]

    def texts(self, row: Row, where: object) -> dict[str, str]:
        """The texts of a row that its input is made of, by column, and its own passages where it has some.

        Raises:
            DataError: one is not there, or is no text or number.
        """
        brought = (PASSAGES,) if self.retriever is not None and not is_missing(row.get(PASSAGES)) else ()
        return {name: field_text(row, name, where) for name in (*self.asked_columns, *brought)}

    def columns(self, row: Row, where: object) -> dict[str, str]:
        """The texts of a row that the templates read, by column.

        Raises:
            DataError: one is not there, or is no text or number.
        """
        own = self._own_columns  # passages that come or go move no row to another split
        read = {name: field_text(row, name, where) for name in own if name != self.target_field}
        return read | {self.target_field: "" if self.lacks_answer(row) else self._answer_text(row, where)}

    def is_blank(self, row: Row) -> bool:
        """Whether nothing stands in any column of a row's input."""
        return all(is_empty(row.get(name)) for name in self._own_columns)

    def gap(self, row: Row) -> str | None:
        """The first column of a row's input in which nothing stands, where something stands in another."""
        names = self.input.fields if PASSAGES in row else self._own_columns
        empty = [name for name in names if is_empty(row.get(name))]
        return empty[0] if 0 < len(empty) < len(names) else None

    def encode_answers(self, base: FrozenBase, answers: Sequence[str], name: Name | None = None) -> list[list[int]]:
        """Token ids of answers as the model must say them: behind an input, or of an encoder-decoder as a text of its own,
        without white space before it.

        Raises:
            DataError: one takes a token for which the base has no embedding.
        """
        parts = [self.target.fill_parts({self.target_field: answer}) for answer in answers]
        if base.task_type == "MASKED_LM":
            return self._spell_known(base, parts, name or _numbered)
        if base.task_type == "SEQ_2_SEQ_LM":
            parts = [[(author.lstrip(), user), *rest] for (author, user), *rest in parts]
        return base.encode(parts, behind=not self.apart and base.task_type != "SEQ_2_SEQ_LM", name=name)

    def _spell_known(self, base: FrozenBase, parts: Sequence[Parts], name: Name) -> list[list[int]]:
        rows = base.encode(parts, behind=not self.apart, name=name)
        unknown = base.tokenizer.unk_token_id
        if (wrong := next((number for number, ids in enumerate(rows) if unknown in ids), None)) is not None:
            said = "".join(author + user for author, user in parts[wrong])
            raise DataError(
                f"{name(wrong)}: {said.strip()[:60]!r} is no sequence of tokens of {base.name}, which reads some of it as "
                "its token for unknown text, and so cannot say it; use another word, with id2label where rows have this one"
            )
        return rows

    def row_of(self, text: str) -> Row:
        """A request's text as a row: the text itself for a template with one column, else a JSON object with them all.
        Where passages are found for it they may stand in the object too, beside one column as beside several.

        Raises:
            DataError: several columns are needed and the text is no such object, has a key twice, or half of a character.
        """
        fields = self.asked_columns
        row = row_in(text, f"an input for task {self.task!r}") if len(fields) > 1 or self.retriever is not None else None
        if len(fields) == 1:
            return row if row is not None and {fields[0], PASSAGES} <= {*row} else {fields[0]: text}
        example = json.dumps(dict.fromkeys(fields, "..."), ensure_ascii=False)
        if row is None:
            raise DataError(f"task {self.task!r} has inputs of {len(fields)} columns; give a JSON object such as {example}")
        return row

    def with_passages(self, row: Row, where: object = "the input") -> Row:
        """A row with its passages, found where it has none. Raises as :meth:`Retriever.fill` does."""
        return row if self.retriever is None else self.retriever.fill(row, where)

    def zero_shot_text(self) -> str:
        """The text prompt that a soft prompt is compared with."""
        if self.instruction is not None:
            return self.instruction
        if self.is_set:
            return f"Say yes or no for each of these, whether it holds for the text: {', '.join(self.labels or ())}."
        if self.labels is None:
            return "Answer with a number." if self.is_number else "Complete the answer."
        return f"Classify the text as one of: {', '.join(self.labels)}."

    def encode_labels(self, base: FrozenBase) -> tuple[tuple[int, ...], ...]:
        """Token ids of each label as the model must say it; of one that answers through a head, their numbers.

        Where one label's tokens begin another's, all end with the base's end token: the longer one's score would be the
        shorter one's and more, so that it could never win.

        Raises:
            DataError: two labels have the same tokens, one has none, or one begins another on a base without an end token.
        """
        assert self.labels is not None
        labels = self.asked
        if base.task_type == "SEQ_CLS":
            return HeadLabels.of(len(labels))
        ids = self.encode_answers(base, labels, lambda number: f"task {self.task!r}: the label {labels[number]!r}")
        where = f"task {self.task!r}"
        seen = distinct(labels, ids, where, base.name)
        if base.task_type == "MASKED_LM":
            return MaskedLabels(seen)
        return with_ends(seen, base.end_id, where, base.name, ', or end the target with a mark: `target: " {label}."`')

    def label_words(self, base: FrozenBase) -> list[list[int]]:
        """Token ids of the labels themselves, whatever is scored for them."""
        told = self.is_set or base.task_type == "SEQ_CLS"
        return self.encode_answers(base, self.labels or ()) if told else list(map(list, self.encode_labels(base)))

    def kind(self) -> dict[str, Any]:
        """What a task file says of its kind of answers, where it is not one label or free text."""
        return {"problem_type": self.problem_type} if self.problem_type is not None else {}

    def found(self) -> dict[str, Any]:
        """What a training found for it, as a card's recipe keeps it."""
        found: dict[str, Any] = {"threshold": self.threshold} if self.is_set else {}
        found |= {"retrieve": dict(self.retriever.settings)} if self.retriever is not None else {}
        return found | ({"answer_range": list(self.answer_range)} if self.answer_range is not None else {})

    def rules(self, base: FrozenBase) -> dict[str, Any]:
        """What a card says of how text becomes tokens, where there is something to say."""
        rules = text_rules(base) | ({MESSAGES: IN_TEMPLATE} if self.converses else {})
        if (
            self.labels is not None
            and base.task_type != "SEQ_CLS"
            and all(ids[-1] == base.end_id for ids in self.encode_labels(base))
        ):
            rules["label_end"] = base.tokenizer.convert_ids_to_tokens(base.end_id)
        return rules

    def output_length(self, base: FrozenBase) -> int:
        """Tokens that the longest answer takes; that of a head takes none."""
        if base.task_type == "SEQ_CLS":
            return 0
        if self.labels is None:
            return self.max_new_tokens
        return max(len(ids) for ids in self.encode_labels(base))

    @property
    def is_placed(self) -> bool:
        """Whether the template says where the vectors stand; else they are before everything."""
        return self.input.around_prompt is not None

    @property
    def front_varies(self) -> bool:
        """Whether columns of the rows stand before the vectors, so that nothing of them can be shared."""
        return self.input.around_prompt is not None and bool(self.input.around_prompt[0].fields)

    def encode_front(self, base: FrozenBase, row: Row) -> list[int]:
        """Token ids of what stands before the vectors, for a row; none where they are before everything."""
        if self.input.around_prompt is None:
            return []
        (ids,) = base.encode([self.input.around_prompt[0].fill_parts(row)])
        return ids

    def encode_inputs(
        self, base: FrozenBase, rows: Sequence[Row], num_virtual_tokens: int, *, prepend: str = "", name: Name | None = None
    ) -> Inputs:
        """Token ids of the inputs of rows, each within the context beside the prompt and the longest answer.

        Without a prompt, and with a text prompt, it is all one text; else what stands before the prompt is apart from it. An
        input that is too long loses the end of its longest column, so that the template stays whole; it is counted.

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
        if self.converses:
            wording = Wording.of_conversation(self.input, base, prepend)
        elif prepend or not num_virtual_tokens:
            wording = Wording.as_one(self.input, base, prepend)
        else:
            wording = Wording.around_prompt(self.input)
        fronts, ids = wording.encode(base, rows, name)
        cut = []
        for index, tokens in enumerate(ids):
            if base.task_type == "MASKED_LM" and tokens.count(base.tokenizer.mask_token_id) > 1:
                raise ConfigError(
                    f"task {self.task!r}: `input` has more than one mask ({MASK} or {base.tokenizer.mask_token}); an answer "
                    "of several tokens is given as many by itself: leave one"
                )
            if base.task_type == "MASKED_LM" and base.tokenizer.mask_token_id in fronts[index]:
                raise ConfigError(
                    f"task {self.task!r}: in `input` the mask ({MASK} or {base.tokenizer.mask_token}) stands before "
                    f"{{{PLACE}}}, and an answer is said behind the vectors; put it there"
                )
            if not tokens:
                raise DataError(f"{name(index)}: the input is empty; give some text: {excerpt(rows[index])}")
            if limit is not None and len(fronts[index]) + len(tokens) > limit:
                fronts[index], ids[index] = wording.shorten(base, rows[index], limit, self.task)
                cut.append(index)
        return Inputs(ids, cut, fronts)


def _numbered(index: int) -> str:
    return f"row {index + 1}"


def missing_start(base: FrozenBase, form: Form) -> str | None:
    """What the tokenizer of a causal base begins texts with, where the form's input does not begin with it. A base that was
    pretrained with it in front of everything may be at a loss without: on Gemma 3 270M a prompt tuned for 40 steps of 16
    rows of subjectivity has 0.54 without <bos>, 0.77 with it before the text, and 0.71 with it before the vectors."""
    token = base.spelling.begins_with if base.task_type == "CAUSAL_LM" else None
    return None if token is None or form.input.text.startswith(token) else token


def text_rules(base: FrozenBase) -> dict[str, Any]:
    """What a card says of a base's own ways with text: that answers are encoded as they stand behind an input, where they
    would begin with a word mark alone; what the tokenizer would begin texts with, which is left out, or what it puts around
    inputs, which is not; and what embeddings are multiplied by outside of their table."""
    rules: dict[str, Any] = {}
    if base.spelling.marks_words and base.task_type != "SEQ_2_SEQ_LM":
        rules[ANSWERS] = BEHIND
    if base.task_type == "CAUSAL_LM" and base.spelling.begins_with is not None:
        rules["left_out"] = base.spelling.begins_with
    if any(base.frame):
        rules["frame"] = [base.tokenizer.convert_ids_to_tokens(list(ids)) for ids in base.frame]
    return rules | ({"embedding_scale": base.embedding_scale} if base.embedding_scale != 1.0 else {})


def form_fields(form: Form) -> dict[str, Any]:
    """What a card keeps of a form as its own fields; the rest is in its recipe."""
    kept = {field.name: getattr(form, field.name) for field in fields(form) if field.name not in _OF_RECIPE}
    return kept | {"input": form.input.text, "target": form.target.text}


HOW_ASKED = ("fold_labels", "id2label", "problem_type", "label_separator", "no_answer", "output_schema", DECISION)
"""Keys of a task file that say how its prompt is asked, as a card's recipe has them: for another prompt to take over."""

_OF_KIND = ("problem_type", "label_separator", "threshold", "answer_range", "no_answer", "output_schema")
_OF_RECIPE = ("fold_labels", "id2label", "apart", "may_lack_answers", "retriever", "converses", *_OF_KIND)
"""What a form takes from a card's recipe, where prompts of before had none of it, or what is of no prompt."""
