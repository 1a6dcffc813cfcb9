"""From what clients send to what the base reads: templates, conversations, and what fits the context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from softprompt.errors import ContextError, DataError
from softprompt.serving.answers import Message
from softprompt.serving.offline import check_text
from softprompt.serving.resident import Resident
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase


def check_room(base: FrozenBase, prompt: int, given: int, asked: int) -> None:
    """Refuse what does not fit the context, all of it in tokens.

    Raises:
        ContextError: with the three numbers and the limit.
    """
    if base.context is not None and prompt + given + asked > base.context:
        raise ContextError(
            f"{prompt} virtual tokens of the prompt, {given} of the input and {asked} asked for make "
            f"{prompt + given + asked}, and the context of {base.name} is {base.context} tokens; "
            "shorten the input or ask for fewer"
        )


def fill_template(form: Form, text: str) -> str:
    """A text as the input of a task: for a template with several columns, a JSON object.

    Raises:
        DataError: empty, no Unicode, or a column is missing.
    """
    check_text(text, f"an input for task {form.task!r}")
    return form.input.fill(form.row_of(text), "the input")


def encode_inputs(base: FrozenBase, resident: Resident, texts: Sequence[str]) -> list[tuple[tuple[int, ...], bool]]:
    """Token ids of texts in the task's template, and whether each had to be cut to fit the context.

    Raises:
        DataError: one is empty, no Unicode, or lacks a column.
        ContextError: the template alone does not fit.
    """
    form, length = resident.form, len(resident.vectors)
    for text in texts:
        check_text(text, f"an input for task {form.task!r}")
    rows = [form.row_of(text) for text in texts]
    together = form.encode_inputs(base, rows, length, where="input")
    if not together.truncated:
        return [(tuple(ids), False) for ids in together.ids]
    alone = [form.encode_inputs(base, [row], length, where="input") for row in rows]
    return [(tuple(one.ids[0]), one.truncated > 0) for one in alone]


def raw_input(text: str) -> str:
    """An input of a task as a request without a template would say it: a JSON object's values, joined by newlines."""
    found: Any = None
    if text.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
    return "\n".join(str(value) for value in found.values()) if isinstance(found, dict) and found else text


def say_conversation(base: FrozenBase, messages: Sequence[Message]) -> str:
    """A conversation as the base's tokenizer words it; where that has no template, the contents joined by newlines.

    Raises:
        DataError: the template refuses it.
    """
    if getattr(base.tokenizer, "chat_template", None) is None:
        return "\n".join(message.content for message in messages)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text: str = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates come with models, and raise whatever they like
        raise DataError(f"the chat template of {base.name} refuses this conversation: {error}") from None
    return text
