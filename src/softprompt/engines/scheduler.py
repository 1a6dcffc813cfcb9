"""Which jobs run next: a bounded queue, and admission by budgets. No torch, no threads; whoever shares one locks it.

Jobs that generate hold a row of the batch until they are done. Jobs of a single pass (scores, embeddings) hold nothing, so
they have a queue of their own and never wait behind long generations. Both queues are first in, first out: a job that does
not fit yet holds back those behind it, and a job that fits no budget at all runs as soon as it can run alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from softprompt.engines.protocol import Deliver, GenerateJob, Job
from softprompt.errors import ConfigError, EngineBusy
from softprompt.text import plural


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what an engine takes on."""

    max_rows: int = 64
    """Rows that generate at the same time."""
    max_waiting: int = 1024
    """Jobs in the queue."""
    token_budget: int = 4096
    """Tokens admitted in a step, of either kind of job."""
    cache_tokens: int = 1 << 17
    """Rows times the longest that any of them can become. The buffer of keys and values doubles in rows and in columns as it
    grows, so it may have room for four times as many."""


@dataclass(eq=False)
class Work:
    """A job on its way through an engine."""

    job: Job
    deliver: Deliver
    tokens: int
    """What its first pass runs."""
    columns: int = 0
    """The longest that a row that generates can become, its prompt included."""
    over: bool = field(default=False, init=False)
    """Nothing more is to be answered: it was given up, or has had its last result."""

    @property
    def generates(self) -> bool:
        """Whether it holds a row."""
        return isinstance(self.job, GenerateJob)


class Scheduler:
    """Queue and admission."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._rows: OrderedDict[int, Work] = OrderedDict()
        self._passes: OrderedDict[int, Work] = OrderedDict()
        self._running: dict[int, Work] = {}

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._rows) + len(self._passes)

    @property
    def running(self) -> int:
        """Jobs admitted and not finished."""
        return len(self._running)

    def add(self, works: Sequence[Work]) -> None:
        """Queue all of them, or none.

        Raises:
            EngineBusy: they would be more than may wait.
            ConfigError: they alone are more than may wait, now and later.
        """
        bound = self.limits.max_waiting
        if len(works) > bound:
            raise ConfigError(
                f"{len(works)} rows were handed in together, and the engine's queue holds {bound} at most; hand in fewer at "
                "once, or run the engine with a longer queue (serve --engine-queue)"
            )
        if self.waiting + len(works) > bound:
            raise EngineBusy(
                f"the engine's queue is full: {plural(self.waiting, 'job')} waiting, {self.running} running, {len(works)} "
                f"more handed in, and {bound} may wait; try again later"
            )
        for work in works:
            (self._rows if work.generates else self._passes)[id(work)] = work

    def admit(self) -> list[Work]:
        """The jobs to begin now, in the order in which they came; they count as running until :meth:`finish`."""
        admitted = self._admit_rows() + self._take(self._passes, len(self._passes))
        self._running.update((id(work), work) for work in admitted)
        return admitted

    def finish(self, work: Work) -> None:
        """A job is done with, however it ended. Harmless for one that is not here any more."""
        for place in (self._running, self._rows, self._passes):
            place.pop(id(work), None)

    def cancel(self, work: Work) -> None:
        """Give a job up: one that waits is gone at once, one that runs is marked, to leave at the next step."""
        work.over = True
        self._rows.pop(id(work), None)
        self._passes.pop(id(work), None)

    def clear(self) -> list[Work]:
        """Empty everything; the jobs there were, running ones first."""
        left = [*self._running.values(), *self._rows.values(), *self._passes.values()]
        for place in (self._running, self._rows, self._passes):
            place.clear()
        return left

    def _admit_rows(self) -> list[Work]:
        holding = [work for work in self._running.values() if work.generates]
        count = len(holding)
        longest = max((work.columns for work in holding), default=0)
        fit = 0
        for work in self._rows.values():
            longest = max(longest, work.columns)
            full = count + 1 > self.limits.max_rows or (count + 1) * longest > self.limits.cache_tokens
            if full and count:
                break
            count += 1
            fit += 1
        return self._take(self._rows, fit)

    def _take(self, queue: OrderedDict[int, Work], most: int) -> list[Work]:
        """From the front, as many as the token budget lets through; the first always."""
        taken: list[Work] = []
        left = self.limits.token_budget
        while queue and len(taken) < most:
            work = next(iter(queue.values()))
            if taken and work.tokens > left:
                break
            queue.popitem(last=False)
            taken.append(work)
            left -= work.tokens
        return taken
