"""Values of rows: what a row is, and the one rule by which a value becomes text. No torch."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

Row = dict[str, Any]


def is_missing(value: object) -> bool:
    """Whether a value stands for none: null, or NaN and its like, which differ from themselves. Of pandas' NA nobody knows
    whether it differs, not even itself: the answer is NA again."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # nor has NA a truth value
        return (value != value) is value
    except ValueError:  # an array has none
        return False


def is_empty(value: object) -> bool:
    """Whether a value is missing, or a text of nothing but spaces."""
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def text_of(value: object) -> str:
    """The text of a value, in templates, as a label and as an answer alike.

    Text is as it is; a truth value is `true` or `false`, as JSON writes it; a number is as Python writes it (7, 0.5, 1.0);
    a date or time is in ISO 8601; bytes are the text that they hold in UTF-8.

    Raises:
        ValueError: it has no text: missing, infinite, a list or an object; the message says which.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_missing(value):
        raise ValueError("it is missing")
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError("it is infinite")
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, bytes):
        return _text_in(value)
    if isinstance(value, Mapping):
        raise ValueError("it is an object")
    if isinstance(value, list | tuple | set | frozenset):
        raise ValueError("it is a list")
    if getattr(value, "ndim", None) == 0:  # NumPy's own truth values
        return text_of(value.item())  # type: ignore[attr-defined]
    raise ValueError(f"it is of type {type(value).__name__}")


def _text_in(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("it is bytes and no text") from None


def plain(value: object) -> Any:
    """A value of a library in the types of JSON: dates and decimals as their text, NaN as null, also inside lists and
    objects. Bytes that are no text stay bytes, which nothing reads."""
    if isinstance(value, str | bool | int):
        return value
    if is_missing(value):
        return None
    if isinstance(value, float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(str(value))  # as it is written: 0.1 in single precision is 0.1
    if getattr(value, "ndim", None) == 0:
        return plain(value.item())  # type: ignore[attr-defined]
    try:
        return text_of(value)
    except ValueError:
        return value


def short(value: object, length: int = 60) -> str:
    """The beginning of a value, for a message."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def kind_of_json(value: object) -> str:
    """What a value of JSON or YAML is, in words."""
    if isinstance(value, Mapping):
        return "an object" if value else "an empty object"
    known = {list: "a list", str: "a text", type(None): "null", bool: "a truth value", int: "a number", float: "a number"}
    return known.get(type(value), f"of type {type(value).__name__}")


def listing(names: Sequence[str], length: int = 100) -> str:
    """The first of some names, for a message, each cut where it is long."""
    shown: list[str] = []
    taken = 0
    for name in names:
        word = name if len(name) <= 40 else name[:37] + "..."
        taken += len(word) + 2
        if shown and taken > length:
            return ", ".join(shown) + f" and {len(names) - len(shown)} more"
        shown.append(word)
    return ", ".join(shown)
