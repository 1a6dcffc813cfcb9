"""How much memory a piece of work takes at most."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from pathlib import Path
from types import TracebackType

import torch

_PROCESS = Path("/proc/self")
MIB = 2**20


class Meter:
    """A context manager: seconds of wall-clock time, and the most memory that the process held meanwhile, the base in it; of
    a GPU what torch had allocated there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def __enter__(self) -> Meter:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _PROCESS.exists():
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no part of it
            (_PROCESS / "clear_refs").write_text("5")  # the high-water mark begins anew
        self._began = time.perf_counter()
        return self

    def lap(self) -> None:
        """The time is over; memory is measured until the end."""
        self.seconds = time.perf_counter() - self._began

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.peak_mb = self._peak() / MIB

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if _PROCESS.exists():
            lines = (_PROCESS / "status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
