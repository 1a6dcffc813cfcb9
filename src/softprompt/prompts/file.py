"""The file that carries a soft prompt: safetensors with the card inside, every byte checked. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from softprompt.errors import PromptFileError
from softprompt.prompts.card import Card

CARD_KEY = "softprompt"
"""The one metadata key of a prompt file. One, because safetensors writes several in random order."""


def digest_of(data: bytes) -> str:
    """Name of a blob: SHA-256 of its bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Stored:
    """One tensor of a prompt file: safetensors dtype name, shape and little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def write_file(card: Card, tensors: dict[str, Stored]) -> bytes:
    """Bytes of a prompt file: safetensors with one metadata key. Equal content gives equal bytes.

    Written here and not by the safetensors library, because every byte is part of the digest and must not change with
    the library's version. The library reads it (a test does).
    """
    entries: dict[str, Any] = {}
    body = b""
    for name in sorted(tensors):
        stored = tensors[name]
        entries[name] = {
            "dtype": stored.dtype,
            "shape": list(stored.shape),
            "data_offsets": [len(body), len(body) + len(stored.data)],
        }
        body += stored.data
    return _header(card, entries, body) + body


def read_file(data: bytes) -> tuple[Card, dict[str, Stored]]:
    """Card and tensors of a prompt file, every byte of it checked. The inverse of :func:`write_file`; no torch.

    Raises:
        PromptFileError: no prompt file of ours, of a newer format, cut short, or any byte differs from what was written.
    """
    header, size = _read_header(data)
    metadata = header.get("__metadata__")
    text = metadata.get(CARD_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise PromptFileError(
            f"this safetensors file has no {CARD_KEY!r} card, so it is no softprompt file; "
            "for a PEFT folder use `softprompt import DIR --task NAME`"
        )
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    body = data[size:]
    tensors: dict[str, Stored] = {}
    try:
        card = Card.parse(json.dumps(json.loads(text)["card"]))
        if _header(card, entries, body) != data[:size]:  # which refuses NaN and half of a character: neither is ever written
            raise ValueError(_DAMAGED)
        for name, entry in entries.items():  # may be forged: a right checksum over no safetensors header
            start, end = entry["data_offsets"]
            tensors[name] = Stored(entry["dtype"], tuple(entry["shape"]), body[start:end])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PromptFileError(_DAMAGED) from None
    return card, tensors


def read_card(data: bytes) -> Card:
    """The card of a prompt file, the whole file checked as in :func:`read_file`.

    Raises:
        PromptFileError: as there.
    """
    return read_file(data)[0]


_DAMAGED = "this prompt file is damaged: its content and its checksum disagree; take it again from where it came from"
_OURS = "give one that softprompt has written"


def _header(card: Card, entries: dict[str, Any], body: bytes) -> bytes:
    described = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    checksum = digest_of("\n".join((card.canonical(), described, digest_of(body))).encode())
    metadata = {CARD_KEY: f'{{"card":{card.canonical()},"sha256":"{checksum}"}}'}
    text = json.dumps({"__metadata__": metadata, **entries}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise PromptFileError(f"not a prompt file: {len(data)} bytes, too short for safetensors; {_OURS}")
    size = 8 + int.from_bytes(data[:8], "little")
    if size > len(data):
        raise PromptFileError(f"not a prompt file, or cut short: its header claims {size} bytes of {len(data)}; {_OURS}")
    try:
        header = json.loads(data[8:size].decode("utf-8"))
    except (ValueError, RecursionError):
        raise PromptFileError(f"not a prompt file: its safetensors header is not JSON; {_OURS}") from None
    if not isinstance(header, dict):
        raise PromptFileError(f"not a prompt file: its safetensors header is not an object; {_OURS}")
    return header, size
