"""Conversations as inputs: what `{messages}` in a template stands for, as the base's chat template has it. No torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, DataError, reason_of
from softprompt.rows.openai_files import MESSAGES, ROLES, Turn
from softprompt.rows.sources import Row
from softprompt.tasks.wording.chat import ChatFrame, chat_frame, has_chat_template
from softprompt.tasks.wording.template import Template
from softprompt.text import Parts

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase

SYSTEM = ("system", "developer")
"""Roles of those who say how to answer; chat templates know the first of them alone."""


def turns_in(text: str) -> list[Turn]:
    """The messages that a text stands for: a JSON list of them, or what one user says."""
    found: Any = None
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
    if isinstance(found, list) and found and all(map(_is_turn, found)):
        return found
    return [{"role": "user", "content": text}]


def _is_turn(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and value["role"] in ROLES
        and isinstance(value["content"], str)
    )


def text_of_turns(turns: Sequence[Turn]) -> str:
    """The text that stands for messages."""
    return json.dumps(list(turns), ensure_ascii=False)


def word_conversation(base: FrozenBase, template: Template, row: Row, where: object, prepend: str = "") -> Parts:
    """A row's text in parts, its messages in the base's chat template, up to where the assistant's answer begins.

    Args:
        prepend: a text prompt, which goes in front of the user's first message.

    Raises:
        ConfigError: the base has no chat template, or none that a tuned answer can follow.
        DataError: a column is missing, or the template refuses the messages.
    """
    parts: list[tuple[str, str]] = []
    for (literal, value), (_, name) in zip(template.fill_parts(row, where), template.parts, strict=True):
        if name != MESSAGES:
            parts.append((literal, value))
            continue
        turns = turns_in(value)
        if prepend:
            first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), len(turns) - 1)
            turns[first] = turns[first] | {"content": prepend + turns[first]["content"]}
        parts += [(literal, ""), *_word(base, turns, where)]
    return parts


def _word(base: FrozenBase, turns: Sequence[Turn], where: object) -> Parts:
    tokenizer, said = base.tokenizer, base.spelling.break_controls
    if not has_chat_template(tokenizer):
        raise ConfigError(
            f"input: {{{MESSAGES}}} is a conversation in the base's chat template, and {base.name} has none; write "
            "{prompt}, which has the messages as one text"
        )
    try:
        frame = _frame(tokenizer, str(tokenizer.chat_template), frozenset(base.spelling.controls))
    except ConfigError as error:
        raise ConfigError(f"input: {{{MESSAGES}}} cannot be worded by the chat template of {base.name}: {error}") from None
    messages = [
        {"role": "system" if turn["role"] in SYSTEM else turn["role"], "content": said(turn["content"])} for turn in turns
    ]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:  # templates come with models, and raise whatever they like
        raise DataError(
            f"{where}: the chat template of {base.name} refuses the conversation: {reason_of(error)}; change its messages"
        ) from None
    if frame.prompted and text.endswith(frame.prompted):  # an answer begins where finished turns have theirs
        text = text[: len(text) - len(frame.prompted)] + frame.behind
    return base.spelling.parts_of(text)


@functools.lru_cache(maxsize=4)
def _frame(tokenizer: Any, template: str, controls: frozenset[str]) -> ChatFrame:
    """The frame of a chat template, which takes some milliseconds to find: requests come one by one."""
    return chat_frame(tokenizer, controls)


def forget(text: str) -> str | None:
    """A conversation without its oldest exchange: the system's messages and the last of the user stay. None where there is
    nothing to forget."""
    turns = turns_in(text)
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    if len(asked) < 2:
        return None
    kept = [turn for place, turn in enumerate(turns) if place >= asked[1] or turn["role"] in SYSTEM]
    return text_of_turns(kept)


def said_last(text: str) -> str:
    """What the last message of a conversation says."""
    return turns_in(text)[-1]["content"]


def say_last(text: str, content: str) -> str:
    """A conversation whose last message says something else."""
    turns = turns_in(text)
    return text_of_turns([*turns[:-1], turns[-1] | {"content": content}])
