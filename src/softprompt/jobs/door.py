"""The door of a training: when jobs that wait may join those that run. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable


class Door:
    """Open while steps have had as long as all else since the last jobs came in: those that run wait while others are
    prepared and judged, and so half of the time is theirs, however many come.

    What was there before the first step is nobody's who waited."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._at: float | None = None
        self._steps = self._aside = 0.0

    def count(self, *, step: bool) -> None:
        """Count the time since the last call: of a step, or of all else."""
        before, self._at = self._at, self._clock() if step or self._at is not None else None
        if before is not None and self._at is not None:
            if step:
                self._steps += self._at - before
            else:
                self._aside += self._at - before

    @property
    def open(self) -> bool:
        """Whether others may come in, behind the first step."""
        return self._at is not None and self._steps >= self._aside

    def shut(self) -> None:
        """Some have come in: count anew."""
        self._steps = self._aside = 0.0
