"""Writing prompts of a library for other programs and libraries, over nothing that is not an export of the same task.

No torch unless a PEFT folder is written.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.errors import LibraryError, PromptFileError
from softprompt.exchange.card_file import CARD, CENTROID, read_card_file
from softprompt.files import write_whole

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


class Format(StrEnum):
    """Shape of an exported prompt."""

    PEFT = "peft"
    SOFTPROMPT = "softprompt"
    MLFLOW = "mlflow"
    TOKENS = "tokens"
    GGUF = "gguf"


@dataclass(frozen=True)
class Exported:
    """A version that was written, and where."""

    version: Version
    path: Path
    """The folder, or the one file in it."""
    replaced: tuple[str, ...] = ()
    """Files that were there and are others now."""


def export_prompt(
    library: Library, ref: str, folder: str | Path, form: Format = Format.PEFT, *, force: bool = False
) -> Exported:
    """Write a version to a folder: as a PEFT adapter, as our one file, as an MLflow model, or as tokens of its base
    (:func:`~softprompt.exchange.tokens.export.export_tokens` takes several). An earlier export of the same task is replaced,
    but for a model, which goes to an empty folder; with `force`, so is whatever has the names of the files that are written.

    Raises:
        NotFound: no such version, or its bytes are gone.
        LibraryError: the folder cannot be written, holds something else (a base, another task's export, files that
            softprompt did not make) and no force is used, or the library fails.
        BaseModelError: the built-in base that PEFT shall load is not there.
        ConfigError: MLflow is not installed; or it is a prompt that cannot be tokens.
        FingerprintMismatch: its tokens would be those of another base.
    """
    if form in (Format.TOKENS, Format.GGUF):
        from softprompt.exchange.tokens.export import export_tokens

        made = export_tokens(library, [ref], folder, gguf_alone=form is Format.GGUF, force=force)
        return Exported(made.carried[0].version, made.folder)
    version = library.registry.resolve(ref)
    data = library.read(version)
    target = Path(folder)
    if form is Format.MLFLOW:
        from softprompt.exchange.mlflow import save_model

        return Exported(version, save_model(library, version.ref, target))
    try:
        if not force and (reason := _in_the_way(target, version, data, form)):
            raise LibraryError(f"{str(folder)!r} {reason}; choose another folder, or add --force to write there anyway")
        if form is Format.PEFT:
            return Exported(version, target, _replace_adapter(version, data, target))
        target.mkdir(parents=True, exist_ok=True)
        file = target / _file_name(version)
        replaced = (file.name,) if file.exists() and file.read_bytes() != data else ()
        write_whole(file, data)
        return Exported(version, file, replaced)
    except OSError as error:
        raise LibraryError(f"cannot write to {str(folder)!r}: {error.strerror or error}; choose another folder") from error


def _file_name(version: Version) -> str:
    return f"{version.ref}.safetensors"


_ADAPTER = (WEIGHTS, CENTROID, CARD, "README.md", CONFIG)
"""The files of an exported adapter."""


_OF_A_BASE = {
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
}


def _in_the_way(folder: Path, version: Version, data: bytes, form: Format) -> str | None:
    """Why a folder is not to be written to, behind its name; None where nothing is lost."""
    if not folder.exists():
        return None
    there = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if _OF_A_BASE & {*there} or any(name.endswith(".gguf") for name in there):
        return "holds a base, which would not be the same with a prompt beside it"
    if form is Format.SOFTPROMPT:
        file = folder / _file_name(version)
        if CONFIG in there:
            return "holds an adapter"
        return f"has another {file.name}" if file.exists() and file.read_bytes() != data else None
    if not there:
        return None
    try:
        owner = read_card_file(folder / CARD).task
    except PromptFileError:
        what = "holds an adapter" if CONFIG in there or WEIGHTS in there else "holds " + _listed(there)
        return f"{what}, which softprompt did not export"
    if owner != version.task:
        return f"holds the export of task {owner!r}"
    others = [name for name in there if name not in _ADAPTER]
    return f"holds {_listed(others)} beside the export of {owner!r}" if others else None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _replace_adapter(version: Version, data: bytes, folder: Path) -> tuple[str, ...]:
    """Write an adapter beside its folder, then put it there: what is read meanwhile is the old one, none or the new one."""
    from softprompt.bases.files.locate import BUILTIN, locate, split_revision

    # PEFT knows no built-in bases, but it can load their folder.
    base, revision = split_revision(str(locate(version.base)) if version.base in BUILTIN else version.base)
    there = folder.exists()
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the disk of the folder, which may be a mount point.
    made = (folder if there else folder.parent) / f".{folder.name[:200]}.{secrets.token_hex(4)}"
    made.mkdir()  # where that cannot be, it is told before torch is loaded
    try:
        from softprompt.exchange.peft import save_peft
        from softprompt.prompts.prompt import SoftPrompt

        save_peft(SoftPrompt.from_bytes(data, digest=version.digest), made, base, revision)
        if not there:
            made.rename(folder)
            return ()
        names = sorted(os.listdir(made), key=lambda name: name == CONFIG)  # a folder without it is no adapter
        replaced = tuple(name for name in names if (folder / name).exists())
        (folder / CONFIG).unlink(missing_ok=True)
        (folder / CENTROID).unlink(missing_ok=True)  # not every prompt has one
        for name in names:
            (made / name).replace(folder / name)
        return replaced
    finally:
        shutil.rmtree(made, ignore_errors=True)
