"""Locks on open files, which the system gives up when their process ends, however it ends. POSIX: Linux and macOS."""

from __future__ import annotations

import sys

from softprompt.errors import LibraryError


def check_locks() -> None:
    """Do nothing on a system that has these locks.

    Raises:
        LibraryError: this system has none.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise LibraryError(
            f"softprompt runs on Linux and macOS, whose file locks a library needs, and this system ({sys.platform}) "
            "has none; run it there, in a container, or under WSL on Windows"
        ) from None


def lock_file(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file for oneself until it is closed; False, at once, where another has it and we do not `wait`.

    Raises:
        LibraryError: this system has no such locks.
        OSError: this file cannot be locked.
    """
    check_locks()
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
