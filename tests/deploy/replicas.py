"""Replicas in the test's own event loop that do as they are told: answer, hang, break off. And a front before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from softprompt.deploy.fleet import Fleet
from softprompt.deploy.front import Front
from softprompt.deploy.replica import Serving
from softprompt.deploy.scaling import Bounds
from softprompt.errors import EngineError
from softprompt.http.opening import bind, url_of
from softprompt.http.server import Server
from softprompt.progress import Silent

Answer = Callable[["Scripted", bytes, bytes, asyncio.StreamWriter], "asyncio.Future[None] | object"]


def framed(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """An answer of known length."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A part of a stream; the empty one ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@dataclass(eq=False)
class Scripted:
    """A replica's process."""

    number: int
    source: str
    answer: Answer
    serving: Serving = field(init=False)
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Heads and bodies of requests."""
    ready: bytes = framed(b'{"status":"ready"}')
    """What it says of itself."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def listen(self) -> None:
        """Begin to answer."""
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.serving = Serving(
            url=f"http://127.0.0.1:{port}", base=self.source, fingerprint="f" * 32, dtype="float32", pid=self.number
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(length)
                if b"/readyz" in head:
                    writer.write(self.ready)
                    continue
                self.asked.append((head, body))
                result = self.answer(self, head, body, writer)
                if asyncio.iscoroutine(result):
                    await result
                await writer.drain()

    def die(self) -> None:
        """As by kill -9: nothing listens, every connection is reset."""
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.gone.set()

    async def ended(self) -> None:
        """Return when it is gone."""
        await self.gone.wait()

    async def stop(self, grace_s: float) -> None:
        """End it."""
        self.die()


def says_who(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    """Answers with its number."""
    writer.write(framed(f'{{"replica":{replica.number}}}'.encode()))


class Here:
    """Starts scripted replicas."""

    def __init__(self, answer: Answer = says_who) -> None:
        self.answer, self.made = answer, list[Scripted]()
        self.refuse: str | None = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def start(self, source: str) -> Scripted:
        """Start one, as soon as nothing holds it back."""
        await self.hold.wait()
        if self.refuse:
            raise EngineError(self.refuse)
        replica = Scripted(len(self.made) + 1, source, self.answer)
        self.made.append(replica)
        await replica.listen()
        return replica


@dataclass
class Fronted:
    """A front that runs."""

    fleet: Fleet
    front: Front
    server: Server
    launcher: Here
    url: str
    http: httpx2.AsyncClient

    @property
    def alive(self) -> list[Scripted]:
        """Replicas that have not ended."""
        return [replica for replica in self.launcher.made if not replica.gone.is_set()]


@asynccontextmanager
async def fronted(
    launcher: Here, bounds: Bounds | None = None, *, wait_s: float = 20, body_bytes: int = 1 << 20, most_waiting: int = 1024
) -> AsyncIterator[Fronted]:
    """Replicas and a front, on a free port of this machine."""
    fleet = Fleet(launcher, "base", bounds or Bounds(), Silent(), grace_s=5, wait_s=wait_s, most_waiting=most_waiting)
    front = Front(fleet, body_bytes=body_bytes)
    ready = asyncio.Event()
    server = Server(front, front, grace_s=1, on_ready=ready.set)
    async with fleet.open():
        bound = bind("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve([bound]))
        try:
            await ready.wait()
            async with httpx2.AsyncClient(base_url=url_of(bound), timeout=30) as http:
                yield Fronted(fleet, front, server, launcher, url_of(bound), http)
        finally:
            server.end()
            await serving
            bound.close()
