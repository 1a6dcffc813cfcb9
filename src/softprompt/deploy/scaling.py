"""How many replicas there should be, by the requests under way. No torch."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Between how many replicas, and by which load."""

    least: int = 2
    most: int = 2
    target: int = 32
    """Requests under way at a replica, beyond which there should be more replicas."""
    idle_s: float = 60.0
    """Seconds for which fewer replicas must have been enough before there are fewer."""


@dataclass
class Scaler:
    """What the load of the last while asks for. More replicas at once, fewer only when they were too many all the time."""

    bounds: Bounds
    _asked: deque[tuple[float, int]] = field(default_factory=deque)

    def wanted(self, requests: int, now: float, there: int) -> int:
        """Replicas that there should be.

        Args:
            requests: under way or waiting, at all replicas.
            now: seconds of a clock that never goes back.
            there: replicas that there should have been until now.
        """
        bounds = self.bounds
        needed = min(bounds.most, max(bounds.least, math.ceil(requests / bounds.target)))
        self._asked.append((now, needed))
        while self._asked[0][0] < now - bounds.idle_s:
            self._asked.popleft()
        if needed >= there:
            return needed
        long_enough = now - self._asked[0][0] >= bounds.idle_s * 0.9
        return max(needed for _, needed in self._asked) if long_enough else there
