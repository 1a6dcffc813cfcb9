"""What a request behind a pause hears of the registry is of no time before the pause."""

from __future__ import annotations

import threading
from typing import Any

from softprompt.serving.changes import Changes


class Slow:
    """A registry whose first answer comes when it is let go; it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.begun, self.go = 0, threading.Event(), threading.Event()

    def state(self) -> tuple[int, int]:
        self.asked += 1
        self.begun.set()
        self.go.wait(10)
        return self.asked, 0


def test_a_question_that_was_on_its_way_before_a_pause_is_asked_again_behind_it() -> None:
    now, registry = [0.0], Slow()
    any_registry: Any = registry
    changes = Changes(any_registry, fresh_s=1.0, clock=lambda: now[0], failed=lambda what, error: None)
    try:
        assert not changes.fresh()  # asks ahead, and is not answered yet
        assert registry.begun.wait(10)
        now[0] = 60.0
        registry.go.set()
        assert changes.settle()
        assert registry.asked == 2, "the answer to the question of a minute ago is none"
        assert changes.fresh()
    finally:
        changes.close()
