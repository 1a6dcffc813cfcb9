"""Rows of an upload: JSON Lines in one of three shapes, each line checked and told by its number. No torch.

Columns as they are (`{"text": ..., "label": ...}`), a prompt with its completion, or a chat that ends with an answer. The
last two become rows with the columns `prompt` and `completion`; messages before the answer are joined by newlines, as
they are when a chat is served.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.errors import FieldError
from softprompt.tasks.rows import Row, canonical, unique_keys

Shape = Literal["columns", "completion", "chat"]

ROLES = ("system", "developer", "user", "assistant")

MOST_LABELS = 20
LONGEST_LABEL = 40
"""With more distinct answers, or with longer ones, the task generates them."""


@dataclass(frozen=True)
class UploadedRows:
    """The rows of a file."""

    shape: Shape
    rows: list[Row]
    lines: list[int]
    """The line that each row stands on."""


def read_upload(data: bytes, filename: str) -> UploadedRows:
    """Rows of an uploaded file.

    Raises:
        FieldError: not UTF-8, no rows, a line that is no row, or lines of several shapes; with the number of the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong(filename, line, f"no UTF-8 text ({error.reason}); convert the file") from None
    rows: list[Row] = []
    lines: list[int] = []
    for number, written in enumerate(text.split("\n"), start=1):
        if written.strip():
            rows.append(_parse(written, filename, number))
            lines.append(number)
    if not rows:
        raise FieldError(f"{filename} has no rows; write one JSON object on each line", "file")
    shape = _shape(rows[0])
    for row, number in zip(rows, lines, strict=True):
        if _shape(row) != shape:
            first = "messages" if shape == "chat" else "prompt and completion" if shape == "completion" else "columns"
            raise _wrong(filename, number, f"another shape than line {lines[0]}, which has {first}; keep to one shape")
    if shape != "columns":
        convert = _completion if shape == "completion" else _chat
        rows = [convert(row, filename, number) for row, number in zip(rows, lines, strict=True)]
    return UploadedRows(shape, rows, lines)


def infer_labels(answers: Sequence[str]) -> tuple[str, ...] | None:
    """The labels that answers are chosen from, sorted: few, short, and each seen at least twice. None for free text."""
    counts = Counter(answers)
    if not 2 <= len(counts) <= MOST_LABELS or min(counts.values()) < 2:
        return None
    if any(len(answer) > LONGEST_LABEL or "\n" in answer or not answer.strip() for answer in counts):
        return None
    return tuple(sorted(counts))


def _wrong(filename: str, line: int, message: str) -> FieldError:
    return FieldError(f"{filename}, line {line}: {message}", "file")


def _parse(line: str, filename: str, number: int) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
        if isinstance(row, dict):
            canonical(row)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise _wrong(filename, number, f"{half!a} is half of a surrogate pair and no character; mend the row") from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON ({error})"
        raise _wrong(filename, number, f"{problem}; write one JSON object on each line") from None
    if not isinstance(row, dict) or not row:
        kind = "an empty object" if row == {} else type(row).__name__
        raise _wrong(filename, number, f"an object with columns is needed, and this is {kind}")
    return row


def _shape(row: Row) -> Shape:
    if "messages" in row:
        return "chat"
    return "completion" if "prompt" in row and "completion" in row else "columns"


def _completion(row: Row, filename: str, number: int) -> Row:
    for key in ("prompt", "completion"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise _wrong(filename, number, f"{key} must be a text that is not empty, and is {_shown(row[key])}")
    return {"prompt": row["prompt"], "completion": row["completion"].strip()}


def _chat(row: Row, filename: str, number: int) -> Row:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _wrong(filename, number, f"messages must be a list of objects, and is {_shown(messages)}")
    roles = [message.get("role") for message in messages]
    for role in roles:
        if role not in ROLES:
            raise _wrong(filename, number, f"the role {_shown(role)} is not known; known: {', '.join(ROLES)}")
    if "user" not in roles or roles[-1] != "assistant":
        problem = f"messages must hold a user's and end with an assistant's; the roles are {', '.join(roles) or 'none'}"
        raise _wrong(filename, number, problem)
    *turns, answer = (_content(message, filename, number) for message in messages)
    return {"prompt": "\n".join(turns), "completion": answer.strip()}


def _content(message: dict[str, Any], filename: str, number: int) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        problem = f"the content of the {message['role']} message must be a text that is not empty, and is {_shown(content)}"
        raise _wrong(filename, number, problem)
    if message.get("weight", 1) != 1:
        raise _wrong(filename, number, "an assistant message with weight 0 teaches nothing; leave the row out")
    if message.get("tool_calls") or message.get("function_call"):
        raise _wrong(filename, number, "calls of tools are not trained; leave the row out")
    return content


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
