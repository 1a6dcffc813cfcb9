"""Homes: the folder that holds a library, and what is said where there is none."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from softprompt.errors import NotFound

DEFAULT_HOME = "softprompt-home"
REGISTRY = "registry.db"

_LOOKED_AT = 1000
"""Folders beside a wrong one that are looked at for a library."""


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
    named = [Path(os.path.expanduser(home)).absolute() for home in (os.environ.get("SOFTPROMPT_HOME"), DEFAULT_HOME) if home]
    inside = [folder / DEFAULT_HOME, folder.parent]
    with contextlib.suppress(OSError):
        inside += itertools.islice(folder.parent.iterdir(), _LOOKED_AT)
    with contextlib.suppress(OSError):
        yield from (path for path in (*named, *inside) if path != folder and (path / REGISTRY).is_file())
