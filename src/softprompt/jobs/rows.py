"""Rows of an upload: JSON Lines in one of three shapes, each line checked and told by its number. No torch.

Columns as they are (`{"text": ..., "label": ...}`), a prompt with its completion, or a chat that ends with an answer. The
last two become rows with the columns `prompt` and `completion`; messages before the answer are joined by newlines, as
they are when a chat is served. Of several answers the one of weight 1 is trained, without weights the last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from softprompt.errors import DataError, FieldError
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import Row
from softprompt.rows.tables import unique_keys
from softprompt.rows.values import kind_of_json
from softprompt.text import lone_surrogate

Shape = Literal["columns", "completion", "chat"]
_NAMES = {"columns": "columns", "completion": "prompt and completion", "chat": "messages"}

Line = TypeVar("Line")
Done = TypeVar("Done")

ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class UploadedRows:
    """The rows of a file."""

    shape: Shape
    rows: list[Row]
    lines: list[int]
    """The line that each row stands on."""

    def placed(self, field: str) -> PlacedRows:
        """The rows with their places in the file, which a request calls so."""
        return PlacedRows(self.rows, lambda place: f"{field}, line {self.lines[place]}")


def read_upload(data: bytes, filename: str) -> UploadedRows:
    """Rows of an uploaded file.

    Raises:
        FieldError: not UTF-8, no rows, a line that is no row, or lines of several shapes; with the number of the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FieldError(f"{filename}, line {line}: no UTF-8 text ({error.reason}); convert the file", "file") from None
    texts = {number: line for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
    if not texts:
        raise FieldError(f"{filename} has no rows; write one JSON object on each line", "file")
    rows = _each(filename, texts, _parse)
    first = next(iter(rows))
    shape = _shape(rows[first])

    def check_shape(row: Row) -> None:
        if _shape(row) != shape:
            raise DataError(f"another shape than line {first}, which has {_NAMES[shape]}; keep to one shape")

    _each(filename, rows, check_shape)
    if shape != "columns":
        rows = _each(filename, rows, _completion if shape == "completion" else _chat)
    return UploadedRows(shape, list(rows.values()), list(rows))


def _each(filename: str, lines: Mapping[int, Line], work: Callable[[Line], Done]) -> dict[int, Done]:
    """What becomes of each line, by its number, which an error tells."""
    done = {}
    for number, line in lines.items():
        try:
            done[number] = work(line)
        except DataError as error:
            raise FieldError(f"{filename}, line {number}: {error}", "file") from None
    return done


def _parse(line: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
        half = lone_surrogate(row) if isinstance(row, dict) else None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON ({error})"
        raise DataError(f"{problem}; write one JSON object on each line") from None
    if half is not None:
        raise DataError(f"{half!a} is half of a surrogate pair and no character; mend the row")
    if not isinstance(row, dict) or not row:
        raise DataError(f"this is {kind_of_json(row)}; write one JSON object with columns on each line")
    return row


def _shape(row: Row) -> Shape:
    if "messages" in row:
        return "chat"
    return "completion" if "prompt" in row and "completion" in row else "columns"


def _completion(row: Row) -> Row:
    for key in ("prompt", "completion"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise DataError(f"{key} is {_shown(row[key])}; give a text that is not empty")
    return {"prompt": row["prompt"], "completion": row["completion"].strip()}


def _chat(row: Row) -> Row:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"messages is {_shown(messages)}; give a list of objects")
    roles = [message.get("role") for message in messages]
    for role in roles:
        if role not in ROLES:
            raise DataError(f"the role {_shown(role)} is not known; known: {', '.join(ROLES)}")
    trained = _trained(messages)
    if "user" not in roles[:trained] or roles[trained] != "assistant":
        shown = ", ".join(roles) or "none"
        raise DataError(f"the roles of the messages are {shown}; there must be a user's, and an assistant's at the end")
    *turns, answer = (_content(message) for message in messages[: trained + 1])
    return {"prompt": "\n".join(turns), "completion": answer.strip()}


def _trained(messages: Sequence[Mapping[str, Any]]) -> int:
    """The place of the message that is trained: the answer of weight 1, else the last. Those before are its context, and
    what comes behind does not matter to it.

    Raises:
        DataError: a weight is wrong, or none or several answers have weight 1.
    """
    weights = {at: message["weight"] for at, message in enumerate(messages) if message.get("weight") is not None}
    for at, weight in weights.items():
        if isinstance(weight, bool) or weight not in (0, 1):
            raise DataError(f"message {at + 1} has weight {_shown(weight)}; a weight is 0 or 1")
        if messages[at]["role"] != "assistant":
            raise DataError(f"message {at + 1} has a weight and is the {messages[at]['role']}'s; only assistants' have one")
    last = len(messages) - 1
    trained = [at for at, weight in weights.items() if weight == 1]
    if last not in weights and messages[last:] and messages[last]["role"] == "assistant":
        trained.append(last)  # as OpenAI has it, an answer without a weight counts
    if len(trained) > 1:
        places = " and ".join(str(at + 1) for at in trained)
        raise DataError(
            f"messages {places} are all to be trained, and a row trains one answer; give the earlier ones weight 0, or "
            "make a row of the messages up to each"
        )
    if not trained and weights:
        raise DataError("all answers have weight 0, which teaches nothing; give one weight 1, or leave the row out")
    return trained[0] if trained else last


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        role = message["role"]
        raise DataError(f"the content of the {role} message is {_shown(content)}; give a text that is not empty")
    if message.get("tool_calls") or message.get("function_call"):
        raise DataError("calls of tools are not trained; leave the row out")
    return content


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
