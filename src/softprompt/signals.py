"""Signals to this process, handled for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handling(handle: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handle these signals, and in the end as before. Nothing outside the main thread: others may not set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
