"""How long a piece of work takes, and how much memory at most."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import time
from pathlib import Path
from types import TracebackType

import torch

from softprompt.bases.base import FrozenBase

_PROCESS = Path("/proc/self")
MIB = 2**20


class Meter:
    """A context manager that measures what is done on a base within it."""

    def __init__(self, base: FrozenBase) -> None:
        self._device = base.device
        tensors = (*base.model.parameters(), *base.model.buffers())
        self._weights = sum({one.data_ptr(): one.nbytes for one in tensors}.values())
        self.seconds = 0.0
        """Wall-clock time until the lap."""
        self.peak_mb = 0.0
        """The base's own weights, and the most memory that was taken beside them, in MiB. On a CPU that is by how much the
        process grew; on a GPU, what torch had allocated there."""

    def __enter__(self) -> Meter:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _PROCESS.exists():
            with contextlib.suppress(AttributeError, OSError):  # not every C library, nor every container
                ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no part of it
                (_PROCESS / "clear_refs").write_text("5")  # the high-water mark begins anew
        self._before = self._held("VmRSS")
        self._began = time.perf_counter()
        return self

    def lap(self) -> None:
        """The time is over; memory is measured until the end."""
        self.seconds = time.perf_counter() - self._began

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._device.type == "cuda":
            self.peak_mb = torch.cuda.max_memory_allocated(self._device) / MIB
        else:
            self.peak_mb = (self._weights + self._held("VmHWM") - self._before) / MIB

    def _held(self, name: str) -> int:
        """Bytes of memory of this process, by a name of Linux; elsewhere always the most so far."""
        if _PROCESS.exists():
            lines = (_PROCESS / "status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
