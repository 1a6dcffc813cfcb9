"""The lock of a home's worker: one at a time, and the system gives it up when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class WorkerLock:
    """Held by the one worker of a home."""

    def __init__(self, home: Path) -> None:
        self._file = home / "worker.lock"
        self._handle: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Take the lock, waiting so many seconds at most; False where another process has it."""
        deadline = time.monotonic() + patience
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(handle)
                    return False
                time.sleep(0.05)
            else:
                self._handle = handle
                return True

    def release(self) -> None:
        """Give the lock up."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_free(self) -> bool:
        """Whether nobody has it at this moment."""
        free = self.acquire()
        self.release()
        return free
