"""Writing files so that no kill and no full disk leaves a part of one, and folders that survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file whole or not at all: nobody ever reads a part of it, and several may write at once.

    Args:
        path: the file; its folder must be there.
        data: all of its bytes.
        replace: whether to replace a file that is there; else the one that is there stays.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
        if replace:
            partial.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def cache_folder(name: str) -> Path:
    """Where something is kept that can be made again, by what it is: a folder in the user's cache, which need not be
    there. Raises `OSError` where this user has none."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if root.startswith("~"):  # as some containers run it
        raise FileNotFoundError(errno.ENOENT, "this user has no home")
    return Path(root) / "softprompt" / name


def make_folder(folder: Path) -> None:
    """Create a folder and those above it so that they survive a power cut. Raises `OSError`."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def make_home(folder: Path) -> None:
    """Create a library's home, its user's alone; one that is there stays as it is. Raises `OSError`."""
    if not folder.is_dir():
        make_folder(folder)
        make_private(folder)


def make_private(path: Path) -> None:
    """Close a folder (mode 0700) or a file (0600) to everyone but its owner, whatever the umask was; one of another user is
    left as it is. Raises `OSError`."""
    state = path.stat()
    if state.st_mode & 0o077 and state.st_uid == os.geteuid():
        path.chmod(0o700 if path.is_dir() else 0o600)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed and deleted in the folder survive a power cut. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
