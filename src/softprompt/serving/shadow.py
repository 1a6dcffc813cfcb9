"""A candidate in the shadow: it answers too, once the client has its answer, and how often it says the same is counted. What
was asked and said is kept nowhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from softprompt.errors import SoftPromptError

if TYPE_CHECKING:
    from softprompt.registry.registry import Registry
    from softprompt.serving.routing.split import Share
    from softprompt.serving.stream import Stream

_LOG = logging.getLogger(__name__)
AFTER_S = 0.05
"""Seconds that the answer has to leave before the candidate is asked."""
MOST_WAITING = 64
"""Comparisons that may wait; more are left out, as they would hold up requests."""

COUNT_S = 5.0
"""Seconds after which comparisons are counted, however many wait."""

Again = Callable[[], Coroutine[Any, Any, Sequence[str]]]


class Shadow:
    """Compares candidates with controls, one answer at a time. For use on one event loop."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        """`registry` counts, of whatever tenant."""
        self._registry, self._clock, self._counted_at = registry, clock, clock()
        self._one = asyncio.Semaphore(1)
        self._running: set[asyncio.Task[None]] = set()
        self._left = 0
        self._compared: Counter[int] = Counter()
        self._agreed: Counter[int] = Counter()

    def follow(self, share: Share | None, said: Sequence[str], again: Again) -> None:
        """Have the candidate answer again what the control has `said`, where the request is part of such an experiment."""
        if share is None or not share.experiment.shadow or len(self._running) >= MOST_WAITING:
            return
        task = asyncio.create_task(self._compare(share.experiment.id, tuple(said), again))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def follow_stream(self, share: Share | None, stream: Stream, again: Again) -> Stream:
        """The same of an answer that comes in pieces, once it is whole."""
        if share is not None and share.experiment.shadow:
            stream.whole_text = lambda text: self.follow(share, (text,), again)
        return stream

    async def _compare(self, experiment: int, said: tuple[str, ...], again: Again) -> None:
        self._left += 1
        try:
            await asyncio.sleep(AFTER_S)
            async with self._one:
                try:
                    other = tuple(await again())
                    self._compared[experiment] += len(said)
                    self._agreed[experiment] += sum(one == two for one, two in zip(said, other, strict=True))
                except SoftPromptError as error:
                    _LOG.info("experiment %d: the candidate gave no answer in the shadow: %s", experiment, error)
                # Nobody else waits, or there is always somebody.
                if self._left == 1 or self._clock() - self._counted_at >= COUNT_S:
                    await self._count()
        finally:
            self._left -= 1

    async def _count(self) -> None:
        self._counted_at = self._clock()
        compared, self._compared = self._compared, Counter()
        agreed, self._agreed = self._agreed, Counter()
        for experiment, count in compared.items():
            try:
                took = self._registry.experiments.took_comparisons
                await asyncio.to_thread(took, experiment, count, agreed[experiment])
            except SoftPromptError as error:
                _LOG.warning("experiment %d: comparisons are not counted: %s", experiment, error)
