"""The files of a model's weights: those that transformers opens of all that lie in a folder, and their digest. No torch."""

from __future__ import annotations

import contextlib
import json
import mmap
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from softprompt.bases.files.locate import BIN, INDEX, SAFE, names_in_index, names_of_weights
from softprompt.bases.gguf.file import gguf_files, parts_of
from softprompt.errors import BaseModelError

_LFS = b"version https://git-lfs"


def find_weights(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The files that transformers opens for the weights of a saved model, which are not all that lie there. Of a GGUF file,
    all its parts.

    Raises:
        BaseModelError: there are none, or one that an index names is not there.
    """
    if folder.is_file():
        return parts_of(folder)
    first = names_of_weights(config)
    found = next((folder / name for name in first if (folder / name).is_file()), None)
    if found is None:
        raise BaseModelError(f"the folder {str(folder)!r} holds no weights: {_what_else(folder, first)}")
    files = [folder / name for name in names_in_index(found)] if found.name.endswith(INDEX) else [found]
    for file in files:
        if not file.is_file():
            raise BaseModelError(f"the folder {str(folder)!r} lacks {file.name}, which {found.name} names; fetch it again")
        with file.open("rb") as handle:
            if handle.read(len(_LFS)) == _LFS:
                raise BaseModelError(f"{file} is a Git LFS pointer and not the weights themselves; run `git lfs pull` there")
    return files


def _what_else(folder: Path, names: Iterable[str]) -> str:
    """Why a folder has no weights, by what it has in their place, and what to do."""
    cut = [name for name in names if (folder / name).is_symlink()]
    if cut:
        return f"{cut[0]} is a link to a file that is gone; fetch the model again"
    if models := gguf_files(folder):
        return f"there is a GGUF file; give that as the base, {str(models[0])!r}"
    other = sorted(file.name for kind in ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5") for file in folder.glob(kind))
    if other:
        return f"{other[0]} is none that transformers would open; call it {SAFE}, or save the model with save_pretrained"
    return f"neither {SAFE} nor {BIN} is there, and no index of several; fetch or save the model again, whole"


def check_whole(files: Iterable[Path]) -> None:
    """Refuse files of weights that are cut short, by what stands at their beginnings and ends.

    Raises:
        BaseModelError: one is, or is no such file.
    """
    for file in files:
        if file.suffix == ".safetensors":
            places_of_tensors(file)
            continue
        with file.open("rb") as handle:
            zipped = handle.read(4) == b"PK\x03\x04"  # as torch writes a pickle, older versions apart
        if file.stat().st_size == 0 or (zipped and not zipfile.is_zipfile(file)):
            raise BaseModelError(f"{file} is cut short; fetch it again")


def places_of_tensors(file: Path) -> list[tuple[str, str, int, int]]:
    """Of each tensor of a safetensors file its name, what it is in words, and where its bytes begin and end.

    Raises:
        BaseModelError: the file is damaged.
    """
    places: list[tuple[str, str, int, int]] = []
    length = file.stat().st_size
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        try:
            header = json.loads(handle.read(min(size, length)))
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    if not 0 <= start <= end <= length - 8 - size:
                        raise ValueError(name)
                    what = f"{name} {entry['dtype']} {entry['shape']}\n"
                    places.append((name, what, 8 + size + start, 8 + size + end))
        except (ValueError, KeyError, TypeError, MemoryError, AttributeError):
            raise BaseModelError(f"{file} is no safetensors file, or cut short; fetch it again") from None
    return places


def digest_tensors(digest: Any, files: list[Path]) -> None:
    """Add the tensors of safetensors files to a digest, in the order of their names, so that the number of files does not
    matter.

    Raises:
        BaseModelError: a file is damaged.
    """
    places = [(name, what, file, start, end) for file in files for name, what, start, end in places_of_tensors(file)]
    maps: dict[Path, mmap.mmap] = {}
    with contextlib.ExitStack() as stack:
        for _, what, file, start, end in sorted(places):
            digest.update(what.encode())
            if file not in maps:
                handle = stack.enter_context(file.open("rb"))
                maps[file] = stack.enter_context(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            with memoryview(maps[file]) as view, view[start:end] as part:
                digest.update(part)
