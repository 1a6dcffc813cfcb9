"""Writing prompts of a library for other programs and libraries. No torch unless a PEFT folder is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.errors import LibraryError
from softprompt.files import write_whole

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


class Format(StrEnum):
    """Shape of an exported prompt."""

    PEFT = "peft"
    SOFTPROMPT = "softprompt"


@dataclass(frozen=True)
class Exported:
    """A version that was written, and where."""

    version: Version
    path: Path
    """The PEFT folder, or the one file in the folder that was named."""


def export_prompt(library: Library, ref: str, folder: str | Path, form: Format = Format.PEFT) -> Exported:
    """Write a version to a folder: as a PEFT adapter, or as our one file.

    Raises:
        NotFound: no such version, or its bytes are gone.
        LibraryError: the folder cannot be written, or the library fails.
        BaseModelError: the built-in base that PEFT shall load is not there.
    """
    version = library.registry.resolve(ref)
    data = library.read(version)
    target = Path(folder)
    try:
        if form is Format.PEFT:
            return Exported(version, _as_peft(version, data, target))
        target.mkdir(parents=True, exist_ok=True)
        file = target / f"{version.ref}.safetensors"
        write_whole(file, data)
        return Exported(version, file)
    except OSError as error:
        raise LibraryError(f"cannot write to {str(folder)!r}: {error.strerror or error}; choose another folder") from error


def _as_peft(version: Version, data: bytes, folder: Path) -> Path:
    from softprompt.bases.locate import BUILTIN, locate, split_revision
    from softprompt.exchange.peft import save_peft
    from softprompt.prompts.prompt import SoftPrompt

    # PEFT knows no built-in bases, but it can load their folder.
    base, revision = split_revision(str(locate(version.base)) if version.base in BUILTIN else version.base)
    return save_peft(SoftPrompt.from_bytes(data, digest=version.digest), folder, base, revision)
