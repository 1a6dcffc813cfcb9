"""The replicas that there are: started, watched, replaced when lost, more or fewer by the load, exchanged for others.

All of it happens on one event loop. `Launcher` is what starts a replica: Ray on a cluster, threads in tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from softprompt.deploy.replica import Serving
from softprompt.deploy.routing import choose
from softprompt.deploy.scaling import Bounds, Scaler
from softprompt.errors import EngineBusy, EngineError, SoftPromptError
from softprompt.http.routes.health import ENGINE_ENDED
from softprompt.progress import Progress

if TYPE_CHECKING:
    from httpx2 import AsyncClient

LOOK_S = 1.0
"""Between two looks at the load."""
ASK_S, MISSES = 10.0, 3
"""Seconds between two questions whether a replica can answer, and for its answer; how many in a row may go unanswered."""
AGAIN_S = (0.5, 1.0, 2.0, 5.0, 15.0)
"""Pauses before a replica that could not be started is started again."""
IDLE_S = 30.0
"""Seconds that an idle connection to a replica is kept: less than the replica does, which would close it under a request."""


class Process(Protocol):
    """A replica's process, from its start to its end."""

    serving: Serving
    """What answers in it."""

    async def ended(self) -> None:
        """Return when the process is gone, however it ended."""

    async def stop(self, grace_s: float) -> None:
        """Let it finish what it does and end; after so many seconds, end it."""


class Launcher(Protocol):
    """What starts replicas."""

    async def start(self, source: str) -> Process:
        """Start one on a base, and wait until it can answer.

        Raises:
            SoftPromptError: it cannot; nothing of it is left.
        """


class State(StrEnum):
    """How a replica is."""

    ready = "ready"
    draining = "draining"
    lost = "lost"


@dataclass(eq=False)
class Member:
    """A replica that can answer, or could until just now."""

    name: str
    process: Process
    client: AsyncClient
    state: State = State.ready
    running: int = 0
    """Requests that it answers."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether it answers none."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While it answers a request."""
        self.running += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()


class Fleet:
    """Replicas on one base."""

    def __init__(
        self,
        launcher: Launcher,
        source: str,
        bounds: Bounds,
        progress: Progress,
        *,
        grace_s: float = 30.0,
        wait_s: float = 60.0,
        most_waiting: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """No replica yet.

        Args:
            source: the base.
            grace_s: seconds that a replica may finish what it answers when it is no longer wanted.
            wait_s: seconds that a request waits for a replica while there is none.
            most_waiting: requests that may wait so.
        """
        self.bounds, self.lost, self.started = bounds, 0, 0
        self.source, self.wanted, self.waiting = source, bounds.least, 0
        self.members: list[Member] = []
        """Those that are ready or drain."""
        self._launcher, self._progress, self._clock = launcher, progress, clock
        self._grace_s, self._wait_s, self._most_waiting = grace_s, wait_s, most_waiting
        self._starting = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling = asyncio.Lock()
        self._generation = 0
        self._ending = False

    @property
    def ready(self) -> list[Member]:
        """Those that take requests."""
        return [member for member in self.members if member.state is State.ready]

    @property
    def requests(self) -> int:
        """Requests under way or waiting."""
        return self.waiting + sum(member.running for member in self.ready)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the replicas, and keep as many as are wanted while the block runs.

        Raises:
            SoftPromptError: one cannot be started.
        """
        try:
            self.members += await self._start_all(self.source, self.wanted)
            for member in self.members:
                self._watch(member)
            self._spawn(self._scale())
            yield
        finally:
            self._ending = True
            for task in [*self._tasks]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(self._end(member) for member in self.members), return_exceptions=True)

    @asynccontextmanager
    async def take(self, task: str, but: Collection[Member] = ()) -> AsyncIterator[Member]:
        """A replica for a request for a task, none of `but`. The request counts as under way until the block ends.

        Raises:
            EngineBusy: too many wait for a replica.
            EngineError: there is none, and none came in time.
        """
        if not (others := self._others(but)):
            await self._wait(but)
            others = self._others(but)
        chosen = choose(task, {member.name: member.running for member in others}, self.bounds.target)
        member = next(each for each in others if each.name == chosen)
        with member.busy():
            yield member

    def _others(self, but: Collection[Member]) -> list[Member]:
        return [member for member in self.ready if member not in but]

    async def _wait(self, but: Collection[Member]) -> None:
        if self.waiting >= self._most_waiting:
            raise EngineBusy(f"no replica can answer, and {self.waiting} requests wait for one; try again later")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s), self._changed:
                await self._changed.wait_for(lambda: bool(self._others(but)))
        except TimeoutError:
            raise EngineError(f"no replica can answer, and none came within {self._wait_s:g} s; try again later") from None
        finally:
            self.waiting -= 1

    async def lose(self, member: Member) -> None:
        """Take no account any more of a replica that does not answer; what is left of it is ended."""
        if member.state is State.lost:
            return
        wanted, member.state = member.state is State.ready, State.lost
        self.members.remove(member)
        self._spawn(self._end(member, 0))
        if wanted:
            self.lost += 1
            self._progress.note(f"replica {member.name} was lost; another is started")
            self._fill()

    async def exchange(self, source: str) -> None:
        """Replace all replicas by others on another base: those are up and ready before one of these takes no more requests.

        Raises:
            SoftPromptError: one cannot be started; these go on.
        """
        async with self._rolling:
            fresh = await self._start_all(source, self.wanted)
            old = [*self.members]
            self._generation += 1
            self.source = source
            self.members = [*old, *fresh]
            for member in fresh:
                self._watch(member)
            for member in old:
                self._drain(member)
            await self._tell()
            self._fill()

    async def _start_all(self, source: str, number: int) -> list[Member]:
        """So many, or none."""
        starts = [asyncio.create_task(self._start(source)) for _ in range(number)]
        try:
            return [*await asyncio.gather(*starts)]
        except BaseException:
            for start in starts:
                start.cancel()
            done = await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.gather(*(self._end(each) for each in done if isinstance(each, Member)), return_exceptions=True)
            raise

    async def _start(self, source: str) -> Member:
        from httpx2 import AsyncClient, AsyncHTTPTransport, Limits

        process = await self._launcher.start(source)
        self.started += 1
        limits = Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=IDLE_S)
        transport = AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)
        client = AsyncClient(transport=transport, base_url=process.serving.url, timeout=None, trust_env=False)
        return Member(f"r{self.started}", process, client)

    def _fill(self) -> None:
        """Start what is missing."""
        missing = self.wanted - len(self.ready) - self._starting
        for _ in range(missing):
            self._starting += 1
            self._spawn(self._add())

    async def _add(self) -> None:
        """One more replica, tried again and again while it is wanted."""
        tries = 0
        try:
            while len(self.ready) + self._starting <= self.wanted:
                generation = self._generation
                try:
                    member = await self._start(self.source)
                except SoftPromptError as error:
                    pause = AGAIN_S[min(tries, len(AGAIN_S) - 1)]
                    tries += 1
                    self._progress.note(f"a replica could not be started: {error}; again in {pause:g} s")
                    await asyncio.sleep(pause)
                    continue
                if generation != self._generation:  # for a base that is served no more
                    await self._end(member)
                    continue
                self.members.append(member)
                self._watch(member)
                self._progress.note(f"replica {member.name} is ready")
                await self._tell()
                return
        finally:
            self._starting -= 1

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _watch(self, member: Member) -> None:
        async def watch() -> None:
            await member.process.ended()
            await self.lose(member)

        member.idle.set()
        self._spawn(watch())
        self._spawn(self._ask(member))

    async def _ask(self, member: Member) -> None:
        """Ask a replica now and then whether it can answer: its engine may end, or its machine hang, and it be there."""
        from httpx2 import HTTPError

        misses = 0
        while True:
            await asyncio.sleep(ASK_S)
            if member.state is not State.ready:
                return
            try:
                async with asyncio.timeout(ASK_S):
                    answer = await member.client.get("/readyz")
            except (HTTPError, TimeoutError):
                misses += 1
            else:
                misses = MISSES if ENGINE_ENDED in answer.text else 0
            if misses >= MISSES:
                await self.lose(member)

    async def _scale(self) -> None:
        scaler = Scaler(self.bounds)
        while True:
            await asyncio.sleep(LOOK_S)
            before, self.wanted = self.wanted, scaler.wanted(self.requests, self._clock(), self.wanted)
            if self.wanted > before:
                self._progress.note(f"{self.requests} requests are under way; {self.wanted} replicas are wanted")
            self._fill()
            for member in self.ready[self.wanted :]:
                self._progress.note(f"replica {member.name} is no longer needed")
                self._drain(member)

    def _drain(self, member: Member) -> None:
        if member.state is not State.ready:
            return
        member.state = State.draining

        async def drain() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    await member.idle.wait()
            if member.state is State.draining:
                member.state = State.lost
                self.members.remove(member)
                await self._end(member)

        self._spawn(drain())

    async def _end(self, member: Member, grace_s: float | None = None) -> None:
        member.state = State.lost
        await member.process.stop(self._grace_s if grace_s is None else grace_s)
        await member.client.aclose()

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        if self._ending:
            task.cancel()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
