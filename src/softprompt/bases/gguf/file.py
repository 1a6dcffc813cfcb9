"""The format of GGUF files: metadata and where each tensor lies, of one file or of all parts of a split one. No torch."""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from softprompt.errors import BaseModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)

TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip
"""The types of tensors that can be read, by number: a name, how many numbers a block has, and how many bytes."""

# How metadata values of a fixed size are packed, by the number of their type. There are strings and arrays beside them.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]
    """As torch counts: rows first."""
    kind: int
    """The number of its type."""
    file: Path
    start: int
    """Of its bytes in the file."""
    bytes: int


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says, all its parts together."""

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    kinds: dict[str, tuple[int, int | None]] = field(repr=False)
    """The numbers of the types of the metadata: a value's, and what an array holds."""
    tensors: tuple[Tensor, ...] = field(repr=False)

    @property
    def architecture(self) -> str:
        """What kind of model it holds, in llama.cpp's words."""
        return str(self.metadata.get("general.architecture", ""))

    def of_model(self, key: str) -> Any:
        """The metadata of the model, below its architecture; None where there is none."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def tensor(self, name: str) -> Tensor | None:
        """The tensor of a name, or None."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def first_part(file: Path) -> Path:
    """The file that a split GGUF file is known by, whichever part is given: its first; of any other, itself."""
    found = _PART.fullmatch(file.name)
    return file.with_name(f"{found[1]}-00001-of-{found[3]}.gguf") if found else file


def parts_of(file: Path) -> list[Path]:
    """All files of a GGUF file, by its name: one, or the parts of a split one.

    Raises:
        BaseModelError: a part is not there.
    """
    found = _PART.fullmatch(file.name)
    if found is None:
        return [file]
    parts = [file.with_name(f"{found[1]}-{number:05d}-of-{found[3]}.gguf") for number in range(1, int(found[3]) + 1)]
    lacking = [part.name for part in parts if not part.is_file()]
    if file not in parts:
        raise BaseModelError(f"{str(file)!r} is called a part of {len(parts)} that there is not; give it its name again")
    if lacking:
        raise BaseModelError(
            f"{str(file)!r} is one part of {len(parts)} of a split GGUF file, and {', '.join(lacking[:3])}"
            f"{' and others are' if len(lacking) > 3 else ' is' if len(lacking) == 1 else ' are'} not beside it; "
            "fetch all parts to one folder"
        )
    return parts


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF files of a folder, of a split one the first part alone."""
    return sorted({first_part(file) for file in folder.iterdir() if file.suffix.lower() == ".gguf"})


def is_gguf(file: Path) -> bool:
    """Whether a file is a GGUF file, or would be one by its name."""
    if file.suffix.lower() == ".gguf":
        return True
    try:
        with file.open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf(file: Path) -> GgufFile:
    """What a GGUF file says, with all parts where it is split.

    Raises:
        BaseModelError: it is none, of a version that is not read, cut short or damaged; or a part is not there.
    """
    parts = [_Reader(part).read() for part in parts_of(file)]
    count = parts[0].metadata.get("split.count", 0)
    if max(count, 1) != len(parts):
        raise BaseModelError(
            f"{str(file)!r} is part {parts[0].metadata.get('split.no', 0) + 1} of {count} of a split GGUF file by what it "
            "says, and not by its name; name the parts NAME-00001-of-0000N.gguf again, and give one of them"
        )
    for number, part in enumerate(parts):
        if len(parts) > 1 and (part.metadata.get("split.no"), part.metadata.get("split.count")) != (number, len(parts)):
            raise BaseModelError(
                f"{part.files[0]} is not part {number + 1} of {len(parts)}, as it is called; fetch it again"
            )
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise BaseModelError(f"{str(file)!r} is damaged: it has two tensors of one name; fetch it again")
    return GgufFile(tuple(part.files[0] for part in parts), parts[0].metadata, parts[0].kinds, tensors)


class _Reader:
    """Walks through the head of one file. Whatever it meets is checked against the size of the file first."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.at = 0

    def read(self) -> GgufFile:
        try:
            with self.file.open("rb") as handle:
                self._refuse_others(handle.read(64))
                with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as self.data:
                    return self._read()
        except OSError as error:
            raise BaseModelError(
                f"{str(self.file)!r} cannot be read ({error.strerror}); mend that, or fetch it again"
            ) from None
        except UnicodeDecodeError:
            raise self._damaged("a text in its metadata is not UTF-8") from None

    def _refuse_others(self, head: bytes) -> None:
        if head.startswith(b"version https://git-lfs"):
            raise BaseModelError(
                f"{str(self.file)!r} is a Git LFS pointer and not the file itself; run `git lfs pull` there"
            )
        if head[:4] != MAGIC:
            what = f"it begins with {head[:4]!r} in the place of {MAGIC!r}" if head else "it is empty"
            raise BaseModelError(f"{str(self.file)!r} is no GGUF file: {what}; fetch it again, or give another")
        if len(head) < 24:
            raise self._cut("behind its first bytes")
        (version,) = struct.unpack_from("<I", head, 4)
        if version & 0xFFFF == 0:
            raise BaseModelError(
                f"{str(self.file)!r} is a GGUF file of big-endian machines, which is not read; fetch the little-endian one"
            )
        if version not in VERSIONS:
            raise BaseModelError(
                f"{str(self.file)!r} is a GGUF file of version {version}, and versions {' and '.join(map(str, VERSIONS))} "
                "are read; convert the model again with a current llama.cpp"
            )

    def _read(self) -> GgufFile:
        self.at = 8
        tensor_count, value_count = self._unpack("QQ")
        metadata: dict[str, Any] = {}
        kinds: dict[str, tuple[int, int | None]] = {}
        for _ in range(value_count):
            key = self._string()
            (kind,) = self._unpack("I")
            metadata[key], inner = self._value(kind)
            kinds[key] = kind, inner
        infos = [self._info() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}")
        base = -(-self.at // alignment) * alignment
        tensors = tuple(self._place(*info, base) for info in infos)
        return GgufFile((self.file,), metadata, kinds, tensors)

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (rank,) = self._unpack("I")
        if rank > 4:
            raise self._damaged(f"the tensor {name[:80]!r} has {rank} dimensions")
        shape = tuple(reversed(self._unpack("Q" * rank)))  # the fastest one comes first there
        kind, offset = self._unpack("IQ")
        return name, shape, kind, offset

    def _place(self, name: str, shape: tuple[int, ...], kind: int, offset: int, base: int) -> Tensor:
        if kind not in TYPES:
            known = ", ".join(label for label, *_ in TYPES.values())
            raise BaseModelError(
                f"{str(self.file)!r} keeps the tensor {name!r} in a type that is not read, number {kind} of GGML; give a "
                f"file whose tensors are of {known}"
            )
        label, numbers, size = TYPES[kind]
        if shape and shape[-1] % numbers:
            raise self._damaged(
                f"the rows of the tensor {name!r} have {shape[-1]} numbers, no multiple of {label}'s {numbers}"
            )
        count = prod(shape) // numbers * size
        if base + offset + count > len(self.data):
            raise self._cut(f"before the end of the tensor {name!r}")
        return Tensor(name, shape, kind, self.file, base + offset, count)

    def _value(self, kind: int) -> tuple[Any, int | None]:
        if kind in _FIXED:
            return self._unpack(_FIXED[kind])[0], None
        if kind == _STRING:
            return self._string(), None
        if kind != _ARRAY:
            raise self._damaged(f"a value in its metadata is of the type {kind}, which there is not")
        inner, count = self._unpack("IQ")
        if inner in _FIXED:
            return list(self._unpack(_FIXED[inner], count)), inner
        if inner != _STRING:
            raise self._damaged(f"an array in its metadata is of the type {inner}, which there is not")
        if count > len(self.data):
            raise self._cut("in its metadata")
        return [self._string() for _ in range(count)], inner

    def _unpack(self, form: str, count: int | None = None) -> tuple[Any, ...]:
        """Numbers at this place; `count` of them where `form` is one sign."""
        size = struct.calcsize(f"<{form}") * (1 if count is None else count)
        if self.at + size > len(self.data):
            raise self._cut("in its metadata")
        values = struct.unpack_from(f"<{form}" if count is None else f"<{count}{form}", self.data, self.at)
        self.at += size
        return values

    def _string(self) -> str:
        start = self.at + 8
        end = start + int.from_bytes(self.data[self.at : start], "little")
        if end > len(self.data):
            raise self._cut("in its metadata")
        self.at = end
        return self.data[start:end].decode()

    def _cut(self, where: str) -> BaseModelError:
        return BaseModelError(f"{str(self.file)!r} is a GGUF file that is cut short: it ends {where}; fetch it again, whole")

    def _damaged(self, what: str) -> BaseModelError:
        return BaseModelError(f"{str(self.file)!r} is a damaged GGUF file: {what}; fetch it again")
