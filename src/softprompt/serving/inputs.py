"""From what clients send to what the base reads: templates, conversations, and what fits the context."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softprompt.errors import ContextError, DataError, reason_of
from softprompt.tasks.answers.schema import grammar_of
from softprompt.tasks.wording.conversation import text_of_turns, word_conversation
from softprompt.tasks.wording.template import Template
from softprompt.text import Parts, plain

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.engines.protocol import Sampling
    from softprompt.rows.sources import Row
    from softprompt.serving.answers import Message
    from softprompt.serving.residents.resident import Resident
    from softprompt.tasks.form import Form
    from softprompt.tasks.wording.inputs import Inputs


@dataclass(frozen=True)
class EncodedInput:
    """An input as the base reads it."""

    ids: tuple[int, ...]
    """Token ids of the text in its task's template; of a placed prompt, those behind it."""
    truncated: bool
    """Whether the input was cut to fit the context."""
    front: tuple[int, ...] = ()
    """What stands before a placed prompt."""


def check_text(text: str, what: str, *, blank: bool = False) -> None:
    """Refuse what is no text or has no content, and half characters, which Python makes of bytes that are not UTF-8.

    Args:
        what: the text's name for messages.
        blank: whether white space is content.

    Raises:
        DataError: it is refused.
    """
    if not isinstance(text, str):
        raise DataError(f"{what} is {type(text).__name__}, not text; give a string")
    if not blank and not text.strip():
        raise DataError(f"{what} is empty; give some text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{what} is not valid Unicode text (near {shown!r}); send UTF-8") from None


def check_room(base: FrozenBase, prompt: int, length: int, max_tokens: int) -> None:
    """Refuse what does not fit the context: the prompt's, the input's and the answer's tokens.

    Raises:
        ContextError: with the three numbers and the limit.
    """
    room = base.room(prompt + length)
    if room is not None and max_tokens > room:
        raise ContextError(
            f"{prompt} virtual tokens of the prompt, {length} of the input and {max_tokens} asked for make "
            f"{prompt + length + max_tokens}, and the context of {base.name} is {base.context} tokens; "
            "shorten the input or ask for fewer"
        )


def fill_template(base: FrozenBase, form: Form, text: str) -> tuple[Parts, Parts]:
    """A text as the input of a task, in parts: what stands before the prompt where it is placed, and what behind it. For a
    template with several columns it is a JSON object.

    Raises:
        DataError: empty, no Unicode, or a column is missing.
    """
    check_text(text, f"an input for task {form.task!r}")
    before, behind = form.input.around_prompt or (Template(""), form.input)
    row = form.with_passages(form.row_of(text))
    if form.converses:
        return before.fill_parts(row, "the input"), word_conversation(base, behind, row, "the input")
    return before.fill_parts(row, "the input"), behind.fill_parts(row, "the input")


def text_of_input(form: Form, given: str | Mapping[str, Any], where: str = "the input") -> str:
    """A text as it is, or a row as the text that stands for it: its one column, or a JSON object of those it needs.

    Raises:
        DataError: a column is missing, or holds no text or number.
    """
    if not isinstance(given, Mapping):
        return given  # what is no text is refused with the others
    texts = form.texts(dict(given), where)
    if len(texts) == 1:
        return next(iter(texts.values()))
    plain = {
        name: given[name] if type(given[name]) in (str, bool, int, float, list) else text for name, text in texts.items()
    }
    return json.dumps(plain, ensure_ascii=False)


def encode_inputs(base: FrozenBase, resident: Resident, texts: Sequence[str]) -> list[EncodedInput]:
    """Texts in a task's template.

    Raises:
        DataError: one is empty, no Unicode, or lacks a column.
        ContextError: the template alone does not fit.
    """
    form = resident.form

    def encode(rows: Sequence[Row]) -> Inputs:
        length = resident.columns - resident.front
        return form.encode_inputs(base, rows, length, name=lambda index: f"input {index + 1}")

    for text in texts:
        check_text(text, f"an input for task {form.task!r}")
    rows = [form.with_passages(form.row_of(text)) for text in texts]
    together = encode(rows)
    if not together.truncated:
        return [_encoded(together, place, False) for place in range(len(rows))]
    return [_encoded(alone, 0, alone.truncated > 0) for alone in (encode([row]) for row in rows)]


def _encoded(inputs: Inputs, place: int, truncated: bool) -> EncodedInput:
    return EncodedInput(tuple(inputs.ids[place]), truncated, tuple(inputs.fronts[place]))


async def held_to(base: FrozenBase, sampling: Sampling, form: Form | None, schema: str | None) -> Sampling:
    """How an answer is drawn that must be JSON of a schema, or of its task's where the request has none.

    Raises:
        ConfigError: the schema cannot be compiled for the base.
    """
    if schema is None and (form is None or form.output_schema is None):
        return sampling
    name = "output_schema" if schema is None else "response_format"
    if form is not None:
        return replace(sampling, grammar=await asyncio.to_thread(grammar_of, form, base, schema, name))
    assert schema is not None
    return replace(sampling, grammar=await asyncio.to_thread(base.grammars.compile, schema, name=name))


def raw_input(text: str) -> str:
    """An input of a task as it is without a template: a JSON object's values, joined by newlines."""
    row: Any = None
    if text.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            row = json.loads(text)
    return "\n".join(str(value) for value in row.values()) if isinstance(row, dict) and row else text


def chat_input(messages: Sequence[Message], *, conversation: bool = False, roles: bool = False) -> str:
    """What a task reads of a chat: the last message, which must be the user's; for a task that was tuned on whole
    conversations all messages, joined by newlines, or where its input has `{messages}`, with their `roles`. The words of
    other roles are no part of the input otherwise.

    Raises:
        DataError: the last message is another's, or has no text.
    """
    last = messages[-1] if messages else None
    if last is None or last.role != "user":
        ends = f"the last message is of the role {last.role!r}" if last is not None else "there is no message"
        raise DataError(f"{ends}; a task reads the last message of the user: end with it")
    check_text(last.content, "the last message of the user")
    if roles:
        return text_of_turns([{"role": message.role, "content": message.content} for message in messages])
    return "\n".join(message.content for message in messages) if conversation else last.content


def chat_text(base: FrozenBase, messages: Sequence[Message]) -> Parts:
    """A conversation in the base's chat template, in parts; where it has none, the contents joined by newlines.

    Control tokens come from the template alone, whatever the messages say.

    Raises:
        DataError: the template refuses it.
    """
    if getattr(base.tokenizer, "chat_template", None) is None:
        return plain("\n".join(message.content for message in messages))
    said = base.spelling.break_controls
    turns = [{"role": said(message.role), "content": said(message.content)} for message in messages]
    try:
        text: str = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates come with models, and raise whatever they like
        raise DataError(
            f"the chat template of {base.name} refuses this conversation: {reason_of(error)}; change its messages"
        ) from None
    return base.spelling.parts_of(text)
