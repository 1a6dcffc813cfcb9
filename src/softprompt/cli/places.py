"""Places for files that a command is to write, looked at before its work: what could not be written there in the end, or
would replace what nobody meant, is refused."""

from __future__ import annotations

import os
from pathlib import Path

from softprompt.errors import ConfigError


def check_new(file: Path | None, option: str, *, force: bool) -> None:
    """Refuse a place where a file is already, unless it may be replaced, or that has no folder.

    Raises:
        ConfigError: with the option, and what to do.
    """
    if file is None:
        return
    if file.exists() and not force:
        raise ConfigError(f"{option} {str(file)!r} is there already; name another file, or replace it with --force")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{option} {str(file)!r}: there is no folder {str(file.parent)!r}; make it first")
    _check_writable(file, option)


def check_page(file: Path | None, option: str) -> None:
    """Refuse a place for a page of charts, which is made anew each time: where anything but a page is. Folders are made.

    Raises:
        ConfigError: with the option, and what to do.
    """
    if file is None:
        return
    _check_writable(file, option)
    if file.exists():
        with file.open("rb") as there:
            if b"<html" not in there.read(200).lower():
                raise ConfigError(f"{option} {str(file)!r} is there already and is no page; name another file")


def _check_writable(file: Path, option: str) -> None:
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if file.is_dir():
        raise ConfigError(f"{option} {str(file)!r} is a folder; name a file in it")
    if not above.is_dir():
        raise ConfigError(f"{option} {str(file)!r}: {str(above)!r} is a file and no folder; name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {str(file)!r}: the folder {str(above)!r} may not be written; name another file")
