"""Killing work at random moments, for tests of what is left behind."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable


def kill_now_and_then(work: Callable[[], None], newest: Callable[[], int], most: int) -> int:
    """Run work in one child after another until one ends by itself; kill each soon after it has left a newer checkpoint,
    `most` times in all. Returns how many were killed. For a process in which nothing has run a thread yet.

    Args:
        newest: when the last checkpoint was written.
    """
    draw = random.Random(0)
    kills = 0
    while True:
        before = newest()
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        while kills < most and newest() == before:
            time.sleep(0.002)
        if kills < most:
            time.sleep(draw.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return kills
        kills += 1
