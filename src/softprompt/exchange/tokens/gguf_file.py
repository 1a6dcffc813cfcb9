"""A GGUF file written again with prompts as tokens, tensor by tensor: what need not change keeps its bytes.

The table of embeddings becomes F32: its type goes for all rows, and blocks of few bits would round the vectors. Old rows are
what their blocks say, which is what an engine makes of them. The head keeps its type and its bytes; the new rows behind them
are the mean of the old ones, which is never the best (`table.py`), in that type where it can be written here, else all of
the head becomes F32. Where head and table were one, the head is the table's old bytes: llama.cpp takes `output.weight` where
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.bases.gguf.file import TYPES, GgufFile, Tensor, read_gguf
from softprompt.bases.gguf.numbers import Numbers, read_rows
from softprompt.exchange.tokens.kquants import pack_q6_k

TABLE, HEAD = "token_embd.weight", "output.weight"
_F32, _Q6_K = 0, 14
_CONTROL, _UNUSED, _NORMAL = 3, 5, 1
"""Kinds of tokens, by llama.cpp's numbers."""
_ALWAYS_TIED = ("gemma2",)
"""Architectures whose head llama.cpp takes from the table whatever the file has."""
_AT_ONCE = 1 << 24
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class _Written:
    """A tensor of the new file: its numbers' type and shape, and its bytes in parts."""

    name: str
    shape: tuple[int, ...]
    kind: int
    parts: Callable[[], Iterator[np.ndarray[Any, Any]]]

    @property
    def bytes(self) -> int:
        _, numbers, size = TYPES[self.kind]
        return int(np.prod(self.shape)) // numbers * size


def tied_in_llama(file: Path) -> str | None:
    """Why no engine could keep new rows of a GGUF file from being said, behind the file's name; None where it can."""
    architecture = read_gguf(file).architecture
    if architecture not in _ALWAYS_TIED:
        return None
    return (
        f"is of the architecture {architecture!r}, whose head llama.cpp takes from the table of embeddings, where the "
        "tokens of a prompt would be the best answers"
    )


def write_gguf(
    source: Path,
    target: Path,
    vectors_PD: Numbers,
    names: tuple[str, ...],
    *,
    chat_template: str | None,
    advance: Callable[[int, str], None],
) -> int:
    """Write a base's GGUF file with vectors as tokens behind its own. Gives the id of the first of them.

    Args:
        source: the file, or the first part of a split one; it becomes one file.
        target: the file that is made; none is there.
        vectors_PD: rows of the table, P x D.
        names: of the tokens, P.
        chat_template: in the place of the file's own; None keeps that.
        advance: hears of megabytes written.

    Raises:
        BaseModelError: the file is damaged.
        OSError: the file cannot be written.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    gguf = read_gguf(source)
    table = gguf.tensor(TABLE)
    assert table is not None
    written = _tensors(gguf, table, vectors_PD)
    writer = GGUFWriter(target, gguf.architecture)
    for key, (value, kind, inner) in _metadata(gguf, table.shape[0], names, chat_template).items():
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        else:
            writer.add_key_value(key, value, GGUFValueType(kind), None if inner is None else GGUFValueType(inner))
    for one in written:
        writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), one.bytes, GGMLQuantizationType(one.kind))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        out = writer.fout[0]
        for one in written:
            writer.write_padding(out, out.tell())
            start = out.tell()
            for part in one.parts():
                out.write(np.ascontiguousarray(part).data)
                advance(part.nbytes, one.name)
            assert out.tell() - start == one.bytes, one.name
            writer.write_padding(out, one.bytes)
    finally:
        writer.close()
    return table.shape[0]


def bytes_of(source: Path) -> int:
    """About how many bytes a file will have."""
    gguf = read_gguf(source)
    table = gguf.tensor(TABLE)
    return sum(tensor.bytes for tensor in gguf.tensors) + (4 * int(np.prod(table.shape)) if table else 0)


def _tensors(gguf: GgufFile, table: Tensor, vectors_PD: Numbers) -> list[_Written]:
    rows, width = table.shape[0] + len(vectors_PD), table.shape[1]
    head = gguf.tensor(HEAD)

    def table_parts() -> Iterator[np.ndarray[Any, Any]]:
        yield from read_rows(table)
        yield np.asarray(vectors_PD, np.float32)

    found = [
        _Written(TABLE, (rows, width), _F32, table_parts) if tensor is table else _as_it_is(tensor)
        for tensor in gguf.tensors
        if tensor is not head
    ]
    return [*found, _head_of(head or table, len(vectors_PD))]


def _as_it_is(tensor: Tensor) -> _Written:
    return _Written(tensor.name, tensor.shape, tensor.kind, lambda: _raw(tensor))


def _head_of(tensor: Tensor, count: int) -> _Written:
    rows, width = tensor.shape
    never_D = sum((part.sum(0, dtype=np.float64) for part in read_rows(tensor)), np.zeros(width)) / rows
    packed = _pack(never_D.astype(np.float32)[None], tensor.kind)
    kind = tensor.kind if packed is not None else _F32
    row = packed if packed is not None else never_D.astype(np.float32)[None]

    def parts() -> Iterator[np.ndarray[Any, Any]]:
        yield from _raw(tensor) if packed is not None else read_rows(tensor)
        yield np.repeat(row, count, axis=0)

    return _Written(HEAD, (rows + count, width), kind, parts)


def _pack(row_1D: Numbers, kind: int) -> np.ndarray[Any, Any] | None:
    """A row in a type; None where it cannot be written in it here."""
    import gguf

    if kind == _Q6_K:
        return pack_q6_k(row_1D)
    try:
        packed: np.ndarray[Any, Any] = gguf.quantize(row_1D, gguf.GGMLQuantizationType(kind))
    except NotImplementedError:
        return None
    return packed


def _raw(tensor: Tensor) -> Iterator[np.ndarray[Any, Any]]:
    for start in range(0, tensor.bytes, _AT_ONCE):
        yield np.fromfile(tensor.file, np.uint8, min(_AT_ONCE, tensor.bytes - start), offset=tensor.start + start)


def _metadata(
    gguf: GgufFile, rows: int, names: tuple[str, ...], chat_template: str | None
) -> dict[str, tuple[Any, int, int | None]]:
    """Values with the numbers of their types: those of the file, but for its tokens and what it puts around texts."""
    left = ("general.architecture",)
    found: dict[str, tuple[Any, int, int | None]] = {
        key: (value, *gguf.kinds[key])
        for key, value in gguf.metadata.items()
        if key not in left and not key.startswith("split.") and value != []
    }
    tokens = list(gguf.metadata[_TOKENS])
    fillers = [f"<|unused:{number}|>" for number in range(len(tokens), rows)]
    found[_TOKENS] = ([*tokens, *fillers, *names], *gguf.kinds[_TOKENS])
    kinds = gguf.metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    _put(found, gguf, "tokenizer.ggml.token_type", [*kinds, *[_UNUSED] * len(fillers), *[_CONTROL] * len(names)], _ARRAY_I32)
    if scores := gguf.metadata.get("tokenizer.ggml.scores"):
        more = [min(scores)] * (len(fillers) + len(names))  # which no text comes to by merging
        _put(found, gguf, "tokenizer.ggml.scores", [*scores, *more], _ARRAY_F32)
    if (size := f"{gguf.architecture}.vocab_size") in found:
        _put(found, gguf, size, rows + len(names), _U32)
    for end in ("bos", "eos"):
        _put(found, gguf, f"tokenizer.ggml.add_{end}_token", False, _BOOL)
    if chat_template is not None:
        _put(found, gguf, "tokenizer.chat_template", chat_template, _TEXT)
    return found


_Kind = tuple[int, int | None]
_ARRAY_I32: _Kind = (9, 5)
_ARRAY_F32: _Kind = (9, 6)
_U32: _Kind = (4, None)
_BOOL: _Kind = (7, None)
_TEXT: _Kind = (8, None)


def _put(found: dict[str, Any], gguf: GgufFile, key: str, value: Any, kind: _Kind) -> None:
    """A value in the type that the file has for it, or in a type of choice."""
    found[key] = (value, *gguf.kinds.get(key, kind))
