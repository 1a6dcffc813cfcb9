"""Lines of OpenAI's training files: conversations with weights, and pairs of a preferred and another answer. No torch.

A conversation becomes a row for each of its answers that is to be learnt, with all messages before it as its context: the
answers of weight 1 and those without a weight, as OpenAI has it. A pair becomes one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softprompt.errors import DataError
from softprompt.rows.sources import Row, canonical

MESSAGES = "messages"
"""The column of a conversation: a list of messages, each with its role and its content."""

GROUP = "conversation"
"""The column that rows of one conversation have in common."""

ROLES = ("system", "developer", "user", "assistant")

PAIR = ("input", "preferred_output", "non_preferred_output")
"""The keys of a line with a preference."""

Turn = dict[str, str]
"""A message: `role` and `content`."""

_ASKS_NOTHING: Mapping[str, tuple[object, ...]] = {"tools": ([],), "functions": ([],), "function_call": ("none",)}
_UNTRAINED = {
    "tool_calls": "calls of tools",
    "function_call": "calls of functions",
    "audio": "sounds",
    "refusal": "refusals apart from the content",
}
_KINDS = {"image_url": "images", "input_audio": "sounds", "audio": "sounds", "file": "files", "refusal": "refusals"}
_OF_TOOLS = ("tool", "function")


def turns_of(messages: object) -> list[Turn]:
    """A list of messages with their roles and contents alone, each content one text.

    Raises:
        DataError: it is none, or holds what is no text; with what to do.
    """
    if not isinstance(messages, list | tuple) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"messages is {_shown(messages)}; give a list of objects")
    turns = []
    for place, message in enumerate(messages, 1):
        role = message.get("role")
        if role in _OF_TOOLS:
            raise DataError(
                f"message {place} has the role {role!r}, and tools are not trained; leave the row out, or write the result "
                "into a message of the user"
            )
        if role not in ROLES:
            raise DataError(f"the role {_shown(role)} is not known; known: {', '.join(ROLES)}")
        for key, named in _UNTRAINED.items():
            if message.get(key):
                raise DataError(f"message {place} has {key!r}: {named} are not trained; leave the row out")
        turns.append({"role": role, "content": _content(message, place)})
    return turns


def conversation_rows(line: Row) -> list[Row]:
    """A row for each answer of a conversation that is to be learnt: `messages` before it, the same as one text (`prompt`),
    and the `completion`; `conversation` names what they come from.

    Raises:
        DataError: the line is no such conversation, or nothing of it is to be learnt.
    """
    _refuse_tools(line)
    messages = line[MESSAGES]
    turns = turns_of(messages)
    trained = _trained(messages)
    return [
        {**_context(turns[:place]), "completion": turns[place]["content"].strip(), GROUP: _name(turns[: trained[-1]])}
        for place in trained
    ]


def unlearnt(line: Row) -> int:
    """Answers of weight 0 in a conversation."""
    return sum(message["role"] == "assistant" and message.get("weight") == 0 for message in line[MESSAGES])


def preference_rows(line: Row) -> list[Row]:
    """The row of a preference: its `messages`, the same as one text (`prompt`), what is `chosen` and what is `rejected`.

    Raises:
        DataError: the line is no such pair.
    """
    asked = line["input"]
    if not isinstance(asked, dict) or MESSAGES not in asked:
        raise DataError(f"input is {_shown(asked)}; give an object with messages")
    _refuse_tools(asked)
    turns = turns_of(asked[MESSAGES])
    if not turns or turns[-1]["role"] != "user":
        last = f"ends with the {turns[-1]['role']}'s message" if turns else "has no message"
        raise DataError(f"input {last}; both answers follow a message of the user: end it with that")
    chosen, rejected = (_one_answer(line, key) for key in PAIR[1:])
    if chosen == rejected:
        raise DataError("preferred_output and non_preferred_output say the same; give two answers that differ")
    return [{**_context(turns), "chosen": chosen, "rejected": rejected, GROUP: _name(turns)}]


def _one_answer(line: Row, key: str) -> str:
    value = line[key]
    turns = turns_of([value] if isinstance(value, dict) else value)
    if [turn["role"] for turn in turns] != ["assistant"]:
        roles = ", ".join(turn["role"] for turn in turns) or "no message"
        raise DataError(f"{key} has {roles}; give exactly one message of the assistant")
    return turns[0]["content"].strip()


def _context(turns: Sequence[Turn]) -> Row:
    return {"prompt": "\n".join(turn["content"] for turn in turns), MESSAGES: list(turns)}


def _name(turns: Sequence[Turn]) -> str:
    """Names a conversation by what stands before its last answer, so that those that differ in that answer go together."""
    return hashlib.blake2b(canonical({MESSAGES: list(turns)}), digest_size=8).hexdigest()


def _refuse_tools(line: Mapping[str, Any]) -> None:
    for key, neutral in _ASKS_NOTHING.items():
        if line.get(key) is not None and line[key] not in neutral:
            raise DataError(f"{key} are not trained; leave the row out, or take {key!r} and what comes of it out of it")


def _trained(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the answers that are to be learnt.

    Raises:
        DataError: a weight is wrong, or nothing is to be learnt, or something without a user's message before it.
    """
    weights = dict(_weights(messages))
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    trained = [place for place in answers if weights.get(place, 1) == 1]
    shown = ", ".join(message["role"] for message in messages) or "none"
    if not answers or not any(message["role"] == "user" for message in messages):
        raise DataError(f"the roles of the messages are {shown}; there must be a user's, and an assistant's behind it")
    if not trained:
        raise DataError("all answers have weight 0, which teaches nothing; give one weight 1, or leave the row out")
    if "user" not in [message["role"] for message in messages[: trained[0]]]:
        raise DataError(
            f"message {trained[0] + 1} is to be learnt, and there must be a user's message before it; give it weight 0"
        )
    return trained


def _weights(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    for place, message in enumerate(messages):
        weight = message.get("weight")
        if weight is None:
            continue
        if isinstance(weight, bool) or weight not in (0, 1):
            raise DataError(f"message {place + 1} has weight {_shown(weight)}; a weight is 0 or 1")
        if message["role"] != "assistant":
            raise DataError(f"message {place + 1} has a weight and is the {message['role']}'s; only assistants' have one")
        yield place, int(weight)


def _content(message: Mapping[str, Any], place: int) -> str:
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in _KINDS:
                raise DataError(
                    f"message {place} has a part of the type {kind!r}: {_KINDS[kind]} are not trained; leave the row out"
                )
        if all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
        ):
            content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"the content of the {message['role']} message is {_shown(content)}; give a text that is not empty")
    return content


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
