"""What a request behind a pause hears of the registry is of no time before the pause."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from softprompt.errors import RegistryError
from softprompt.serving.residents.changes import Changes


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


class Told:
    """A registry whose state is what it was told last; None fails."""

    def __init__(self) -> None:
        self.now: tuple[int, int] | None = (1, 1)

    def state(self) -> tuple[int, int]:
        if self.now is None:
            raise RegistryError("the registry is away; look at it")
        return self.now


def test_changes_since_a_number_are_told_once_and_none_while_the_registry_is_away() -> None:
    registry = Told()
    any_registry: Any = registry
    now = [0.0]

    async def since(seen: int) -> int | None:
        now[0] += 60.0  # the last word is old by now, and the last failure over
        return await changes.since(seen)

    changes = Changes(any_registry, fresh_s=1.0, clock=lambda: now[0], failed=lambda what, error: None)
    try:
        assert asyncio.run(since(0)) == 1
        assert asyncio.run(since(1)) is None, "nothing changed"
        registry.now = (2, 2)
        assert asyncio.run(since(1)) == 2
        registry.now = None
        assert asyncio.run(since(1)) is None, "whether there are more cannot be asked"
        registry.now = (2, 2)
        assert asyncio.run(since(1)) == 2
    finally:
        changes.close()
