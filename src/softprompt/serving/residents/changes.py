"""Whether anything changed in a registry, whatever the tenant: one question for all who want to know. No torch."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from softprompt.errors import RegistryError

if TYPE_CHECKING:
    from softprompt.registry.registry import Registry

T = TypeVar("T")

PATIENCE_S = 2.0
"""Seconds that a request whose prompt is there waits to hear whether it is still the right one."""
AWAY_S = 5.0
"""Seconds after an answer that failed, or did not come, in which nobody waits for the next one."""


class Changes:
    """Counts the changes of a registry. Safe from any thread.

    While somebody asks, the registry is asked ahead of time, and nobody waits for it; after a pause the first one does.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        fresh_s: float,
        patience_s: float = PATIENCE_S,
        away_s: float = AWAY_S,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str, Exception], None],
    ) -> None:
        """Look at a registry.

        Args:
            registry: any tenant's.
            fresh_s: seconds for which its last word holds.
            patience_s: seconds that its next one is waited for.
            away_s: seconds after a failure in which it is not waited for.
            clock: seconds that never go back.
            failed: told what failed.
        """
        self.number = 0
        """Changes seen."""
        self.patience_s, self.away_s = patience_s, away_s
        self._registry, self._fresh_s, self._clock, self._failed = registry, fresh_s, clock, failed
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="changes")
        self._state: tuple[int, int] | None = None
        self._asking: Future[None] | None = None
        self._asked_at = self._failed_at = -math.inf
        self._closed = False

    @property
    def away(self) -> bool:
        """Whether there is no use in waiting for the registry: it failed a moment ago, or this is closed."""
        return self._closed or self._clock() - self._failed_at < self.away_s

    def fresh(self) -> bool:
        """Whether the registry's last word holds, so that `number` may be gone by; a new one is asked for ahead of time."""
        age = self._clock() - self._asked_at
        if age >= self._fresh_s / 2:
            self._ask_soon()
        return age < self._fresh_s

    def settle(self) -> bool:
        """Wait for the registry's word, unless the last one holds or there is no use in it. Whether it came."""
        now = self._clock()
        if now - self._asked_at < self._fresh_s:
            return True
        for _ in range(2):  # a question that was on its way already may be as old as the last word
            if self.away or (asking := self._ask_soon()) is None:
                return False
            try:
                asking.result(self.patience_s / 2)
            except TimeoutError:
                self._fail("the registry does not answer", RegistryError(f"nothing came within {self.patience_s / 2:g} s"))
            if self._asked_at >= now - self._fresh_s / 2:
                return True
        return False

    async def since(self, seen: int) -> int | None:
        """The number of changes where there are more than those `seen`; None where there are none, or the registry is away,
        for which nobody waits."""
        if not (self.fresh() or self.away):
            await asyncio.to_thread(self.settle)
        number = self.number  # before the look-up that follows: what changes from here on is looked at again
        return None if number == seen or self.away else number

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to another question to the registry, asked in the same thread.

        Raises:
            TimeoutError: it does not come in time.
            RuntimeError: this is closed.
        """
        return self._pool.submit(question).result(self.patience_s / 2)

    def close(self) -> None:
        """Stop the thread. What is known stays as it is."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask_soon(self) -> Future[None] | None:
        """The question on its way; None once closed."""
        with self._lock:
            if self._asking is None and not self._closed:
                self._asking = self._pool.submit(self._ask)
            return self._asking

    def _ask(self) -> None:
        began = self._clock()
        try:
            state = self._registry.state()
        except Exception as error:
            self._fail("the registry cannot be asked", error)
        else:
            with self._lock:
                self.number += state != self._state
                self._state = state
                self._asked_at, self._failed_at = began, -math.inf
        finally:
            with self._lock:
                self._asking = None

    def _fail(self, what: str, error: Exception) -> None:
        self._failed(what, error)  # counted before anybody hears that it is away
        self._failed_at = self._clock()
