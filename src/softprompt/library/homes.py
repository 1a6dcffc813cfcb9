"""Homes: the folder that holds a library, and what is said where there is none."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from softprompt.errors import LibraryError, NotFound

DEFAULT_HOME = "softprompt-home"
REGISTRY = "registry.db"

_LOOKED_AT = 1000
"""Folders beside a wrong one that are looked at for a library."""


def home_of(home: str | os.PathLike[str] | None) -> Path:
    """The folder of a library: the one that is named, or that of the environment, or `./softprompt-home`."""
    # A shell leaves the tilde of `--home=~/prompts` as it is.
    return Path(os.path.expanduser(home or os.environ.get("SOFTPROMPT_HOME") or DEFAULT_HOME)).absolute()


def check_home(folder: Path) -> None:
    """Refuse a home that cannot be made, before the work whose outcome it is to keep.

    Raises:
        LibraryError: a file stands in its place, or it would be made where nothing may be.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    why = None if there.is_dir() else errno.ENOTDIR
    if why is None and not os.access(there, os.W_OK | os.X_OK):
        why = errno.EACCES
    if why is not None:
        raise no_home(folder, os.strerror(why))


def no_home(folder: Path, why: str | None) -> LibraryError:
    """That a home cannot be made."""
    return LibraryError(f"cannot create the home {folder}: {why}; choose another folder with --home or SOFTPROMPT_HOME")


def no_library(folder: Path) -> NotFound:
    """That there is no library in a folder: what is there in its place, where there is one, and what to do."""
    if any((folder / "blobs").glob("*")):
        return NotFound(
            f"the home {folder} has blobs and no {REGISTRY}: the registry was lost, or is elsewhere; put it back from a "
            "copy, or name it with --registry or SOFTPROMPT_REGISTRY"
        )
    what = "is no folder" if not folder.exists() else f"holds no {REGISTRY}"
    libraries = sorted({str(path) for path in _libraries_near(folder)}, key=lambda path: _likeness(path, str(folder)))
    known = f"; there is one in {libraries[-1]!r}" if libraries else ""
    return NotFound(
        f"there is no library in {folder}, which {what}{known}; name its home with --home or SOFTPROMPT_HOME, or train or "
        "import a prompt, which makes one there"
    )


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _libraries_near(folder: Path) -> Iterator[Path]:
    named = [home_of(None), home_of(DEFAULT_HOME)]
    inside = [folder / DEFAULT_HOME, folder.parent]
    with contextlib.suppress(OSError):
        inside += itertools.islice(folder.parent.iterdir(), _LOOKED_AT)
    with contextlib.suppress(OSError):
        yield from (path for path in (*named, *inside) if path != folder and (path / REGISTRY).is_file())
