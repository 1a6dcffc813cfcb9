"""The lock of a home's worker: one at a time, and the system gives it up when the process ends, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

from softprompt.locks import lock_file


class WorkerLock:
    """Held by the one worker of a home."""

    def __init__(self, home: Path) -> None:
        self._file = home / "worker.lock"
        self._handle: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Take the lock, waiting so many seconds at most; False where another process has it."""
        deadline = time.monotonic() + patience
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not lock_file(handle, wait=False):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
            self._handle, handle = handle, -1
            return True
        finally:
            if handle >= 0:
                os.close(handle)

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
