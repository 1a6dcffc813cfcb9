"""A GGUF file as a folder that transformers loads, kept for the next time under the digest of the file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.gguf.config import config_of, end_ids
from softprompt.bases.gguf.file import GgufFile, read_gguf
from softprompt.bases.gguf.tokenizer import tell_splits, tokenizer_of
from softprompt.bases.gguf.weights import write_weights
from softprompt.errors import BaseModelError, reason_of
from softprompt.files import cache_folder, sync_folder
from softprompt.locks import lock_file

_RULE = 2
"""Of how a folder is made; another one makes all of them again."""
_WHOLE = "whole.json"
"""What a folder's files were when it was made; written last."""


def folder_of_gguf(file: Path, source: str, digest: Callable[[], str], dtype: torch.dtype) -> Path:
    """The folder of a GGUF file: made the first time, whole or not at all, and taken as it is from then on, unless a file in
    it was changed.

    Args:
        file: the file, or the first part of a split one.
        source: what the user calls it.
        digest: what its bytes are known by; asked again when they were read, for they may have changed meanwhile.
        dtype: of the weights.

    Raises:
        BaseModelError: it cannot be made of what the file holds, or not be kept; or the file was changed meanwhile.
    """
    name = digest()
    made_by = [_RULE, *(importlib.metadata.version(package) for package in ("gguf", "transformers", "tokenizers"))]
    stem = f"{name}-{str(dtype).removeprefix('torch.')}"
    try:
        root = cache_folder("gguf")
    except OSError as error:
        raise BaseModelError(
            f"{source!r} cannot be unpacked: {error.strerror}; set XDG_CACHE_HOME to a folder that has room"
        ) from None
    folder = root / f"{stem}-{hashlib.sha256(repr(made_by).encode()).hexdigest()[:8]}"
    if _is_whole(folder):
        tell_splits(read_gguf(file), source)  # which nothing in the folder says any more
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{stem}.lock"):
            if not _is_whole(folder):  # another process may have made it meanwhile
                for old in [*root.glob(f"{stem}-*"), *root.glob(f".{stem}-*")]:
                    shutil.rmtree(old)
                with _made_whole(folder) as partial:
                    with _ours(source):
                        _write(read_gguf(file), source, dtype, partial)
                    if digest() != name:
                        raise BaseModelError(f"{source!r} was changed while it was read; load it again")
    except OSError as error:
        raise BaseModelError(
            f"{source!r} cannot be unpacked to {str(root)!r} ({error.strerror or error}); make room there, or set "
            "XDG_CACHE_HOME to a folder that has it"
        ) from None
    return folder


@contextlib.contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder of another name, which becomes this one if nothing fails, and else goes. What is in it is on the disk by
    then: after a power cut a file with holes could have its size and times."""
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir()
    try:
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(partial)
        (partial / _WHOLE).write_text(json.dumps(_stamps(partial)))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _ours(source: str) -> Iterator[None]:
    """Errors of transformers, gguf and tokenizers, for metadata that they do not expect, as one of ours."""
    try:
        yield
    except (BaseModelError, OSError):
        raise
    except Exception as error:
        raise BaseModelError(
            f"{source!r} cannot be read: {type(error).__name__}: {reason_of(error)}; fetch it again, or give the model as "
            "transformers saves it"
        ) from error


def write_tokenizer(file: Path, source: str, folder: Path) -> None:
    """Write what a folder of a GGUF file says of its tokenizer alone, which takes a second: its weights stay packed.

    Raises:
        BaseModelError: it cannot be made of what the file holds.
        OSError: it cannot be written.
    """
    gguf = read_gguf(file)
    with _ours(source):
        config_of(gguf, source).save_pretrained(folder)
        tokenizer_of(gguf, source).save_pretrained(folder)


def _write(gguf: GgufFile, source: str, dtype: torch.dtype, folder: Path) -> None:
    import transformers

    config = config_of(gguf, source)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    write_weights(gguf, model, folder / "model.safetensors", dtype, source)
    config.architectures, config.dtype = [type(model).__name__], dtype
    config.save_pretrained(folder)
    tokenizer_of(gguf, source).save_pretrained(folder)
    ends = end_ids(gguf) or config.eos_token_id
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": ends, "pad_token_id": config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def _is_whole(folder: Path) -> bool:
    """Whether all files of a folder are there, and as they were when it was made."""
    try:
        return bool(json.loads((folder / _WHOLE).read_text()) == _stamps(folder))
    except (OSError, ValueError):
        return False


def _stamps(folder: Path) -> list[list[Any]]:
    files = sorted(file for file in folder.iterdir() if file.name != _WHOLE)
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for name, stat in stats]


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for other processes that make the same folder."""
    with lock.open("w") as handle:
        lock_file(handle.fileno())
        yield
