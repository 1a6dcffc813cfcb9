"""Answers that take a while: server-sent events, and clients that vanish meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from softprompt.engines.protocol import Piece
from softprompt.http.errors import refusal, stopping
from softprompt.serving.stream import Stream

T = TypeVar("T")

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ClientGone(Exception):
    """Nobody is left to answer."""


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + _encode(data).encode() + b"\n\n"


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client has gone. The request's body must have been read.

    Raises:
        ClientGone: it has.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


class EventStream(Response):
    """Sends events as they come. Errors on the way become the last event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]]) -> None:
        """Send these events; `close` is called in the end, whether or not the first of them was reached."""
        # Without the second header a proxy such as nginx keeps the events back to send many at once.
        super().__init__(None, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events, self._close = events, close
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            events = await stack.enter_async_context(aclosing(self._events))
            await stack.enter_async_context(while_connected(receive))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except asyncio.CancelledError:
                if not scope["app"].state.server.draining:
                    raise
                await send({"type": "http.response.body", "body": event(stopping().body()), "more_body": True})
            except Exception as error:
                await send({"type": "http.response.body", "body": event(refusal(error).body()), "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def merge(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of several streams as they come, each with its stream's place. Closing them is the caller's.

    Raises:
        EngineError: one of them failed.
    """
    arrived: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def pump(place: int) -> None:
        try:
            async for piece in streams[place]:
                arrived.put_nowait((place, piece))
        except Exception as error:
            arrived.put_nowait((place, error))
        else:
            arrived.put_nowait((place, None))

    pumps = [asyncio.create_task(pump(place)) for place in range(len(streams))]
    try:
        left = len(streams)
        while left:
            place, piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield place, piece
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def together(calls: Sequence[Awaitable[T]]) -> list[T]:
    """The results of calls that run at once. The first failure is raised; the others are cancelled then, and what they
    opened is closed."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Stream):
                await result.aclose()
        raise
