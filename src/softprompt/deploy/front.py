"""What stands before the replicas: each request goes to one, and to another where that one is lost before it answers.

Plain ASGI. Bodies, headers, answers and errors pass as they are; only headers about the connection itself are ours, and
`x-forwarded-for` says who asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from softprompt.deploy.fleet import Fleet, Member
from softprompt.deploy.routing import REPEATABLE, task_of
from softprompt.errors import SoftPromptError
from softprompt.http.auth import comes_from_here
from softprompt.http.errors import RETRY_SOON_S, ApiError, bug, refusal, stopping
from softprompt.http.stream import ClientGone, event, while_connected
from softprompt.http.traffic import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("softprompt.http")

TRIES = 3
"""Replicas that a request is sent to, one after the other, before it is refused: it may be what ends them."""
LONGEST = 16 << 20
"""Bytes of an answer that is not a stream, up to which it is read whole before its first byte is passed on."""
END = b"\n\n"
"""Between two server-sent events."""

_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_SAFE = ("GET", "HEAD", "OPTIONS")


def lost(*, repeatable: bool) -> ApiError:
    """The refusal where replicas were lost that worked on a request."""
    if repeatable:
        return ApiError(
            503,
            f"{TRIES} replicas, one after the other, were lost while they worked on this request; try again later",
            code="replica_lost",
            retry_after=RETRY_SOON_S,
        )
    return ApiError(
        503,
        "the replica that worked on this request was lost, and perhaps it was done; look before you send it again",
        code="replica_lost",
        retry_after=RETRY_SOON_S,
        headers={"x-should-retry": "false"},  # or OpenAI's clients would send it again by themselves
    )


def cut() -> ApiError:
    """The last event of a stream whose replica was lost."""
    return ApiError(503, "the replica that answered was lost; send the request again", code="replica_lost")


@dataclass
class Body:
    """A request's body: read whole where the request may be sent again, else passed on as it comes."""

    read: bytes
    """What was read."""
    more: bool
    """Whether there is more."""
    receive: Receive
    begun: bool = False
    """Whether anything was sent on that cannot be sent again."""

    async def parts(self) -> AsyncIterator[bytes]:
        """What was read, and the rest."""
        self.begun = self.more
        yield self.read
        while self.more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.more = message.get("more_body", False)
            yield message.get("body", b"")


class Front:
    """The application behind the one address."""

    def __init__(self, fleet: Fleet, *, body_bytes: int) -> None:
        """Requests go to `fleet`. Bodies beyond `body_bytes` are not kept: replicas refuse them."""
        self.fleet, self.draining = fleet, False
        self._body_bytes, self._numbers = body_bytes, count()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "softprompt_front_requests", "Requests passed on, by replica.", ("replica",), registry=self.registry
        )
        self._again = Counter(
            "softprompt_front_repeated", "Requests sent to another replica, as theirs was lost.", registry=self.registry
        )
        self._broken = Counter("softprompt_front_broken", "Streams that ended with their replica.", registry=self.registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"softprompt_front_{name}", what, registry=self.registry)

        gauge("running", "Requests under way.").set_function(lambda: sum(each.running for each in fleet.members))
        gauge("waiting", "Requests that wait for a replica.").set_function(lambda: fleet.waiting)
        gauge("replicas_wanted", "Replicas that there should be.").set_function(lambda: fleet.wanted)
        gauge("replicas_ready", "Replicas that take requests.").set_function(lambda: len(fleet.ready))
        gauge("replicas_lost", "Replicas lost since the start.").set_function(lambda: fleet.lost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        begun = False

        async def tell(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            own = self._own(scope) if scope["method"] in _SAFE else None
            await (own(scope, receive, tell) if own else self._pass_on(scope, receive, tell))
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if begun or not self.draining:
                raise
            await stopping().response()(scope, receive, tell)  # the time for finishing is over
        except Exception as error:
            if begun:
                raise
            await (refusal(error) if isinstance(error, ApiError | SoftPromptError) else bug(error)).response()(
                scope, receive, tell
            )

    def _own(self, scope: Scope) -> Response | None:
        """The answer to what is asked of the front itself. Where replicas are is told on this machine alone."""
        path = scope["path"]
        if path in ("/health", "/healthz"):
            return _json({"status": "ok"})
        if path == "/readyz":
            if self.draining:
                return _json({"status": "stopping"}, 503)
            if not (ready := self.fleet.ready):
                return _json({"status": "no replica is ready"}, 503)
            first = ready[0].process.serving
            row: dict[str, object] = {"status": "ready", "base": first.base, "fingerprint": first.fingerprint}
            if comes_from_here(scope.get("client"), Headers(scope=scope)):
                row["replicas"] = [_told(each) for each in ready]
            return _json(row)
        if path == "/metrics":
            return Response(exposition(self.registry, tasks=True), media_type=CONTENT_TYPE)
        return None

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            raise stopping()
        repeatable = scope["method"] in _SAFE or (scope["method"] == "POST" and scope["path"] in REPEATABLE)
        body = await self._read(receive) if repeatable else Body(b"", True, receive)
        task = task_of(body.read) if scope["method"] == "POST" and not body.more else None
        if task is None:
            task = f"\0{next(self._numbers)}"  # by turns: no name of a task begins so
        tried: list[Member] = []
        while True:
            async with self.fleet.take(task, tried) as member:
                self._requests.labels(member.name).inc()
                if await self._try(member, scope, body, send, last=len(tried) + 1 == TRIES):
                    return
            tried.append(member)
            self._again.inc()

    async def _read(self, receive: Receive) -> Body:
        read, more = bytearray(), True
        while more and len(read) <= self._body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            read += message.get("body", b"")
            more = message.get("more_body", False)
        return Body(bytes(read), more, receive)

    async def _try(self, member: Member, scope: Scope, body: Body, send: Send, *, last: bool) -> bool:
        """Whether a replica answered; otherwise the request may be sent to another. `last`: it is not, then.

        Raises:
            ApiError: the replica was lost, and the request may not be sent again.
            ClientGone: nobody waits for the answer.
        """
        import httpx2

        unread = body.more
        try:
            async with self._asked(member, scope, body) as answer:
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._stream(answer, scope, send)
                    return True
                length = answer.headers.get("content-length", "")
                if length.isdigit() and int(length) > LONGEST:
                    await send(_start(answer))
                    async for part in answer.aiter_raw():
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    await send({"type": "http.response.body", "body": b""})
                    return True
                content = b"".join([part async for part in answer.aiter_raw()])
                if answer.status_code == 503 and b'"code": "stopping"' in content and not unread and not last:
                    return False
                await send(_start(answer))
                await send({"type": "http.response.body", "body": content})
                return True
        except httpx2.ConnectError:  # nothing was sent: whatever it is, it may be sent to another
            if body.begun or last:
                raise lost(repeatable=not unread) from None
            return False
        except httpx2.TransportError as error:
            log.warning("replica %s broke off: %s", member.name, error)
            if unread or last:
                raise lost(repeatable=not unread) from None
            return False

    @asynccontextmanager
    async def _asked(self, member: Member, scope: Scope, body: Body) -> AsyncIterator[httpx2.Response]:
        """A replica's answer, of which the headers have come. It is given up when the client goes."""
        import httpx2

        headers = [(name, value) for name, value in scope["headers"] if name not in _CONNECTION]
        by = (scope["client"][0] if scope.get("client") else "unknown").encode()
        handed_on = [value for name, value in headers if name == b"x-forwarded-for"]
        if not handed_on or handed_on[-1].rpartition(b",")[2].strip() != by:
            headers.append((b"x-forwarded-for", by))
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        query: bytes = scope["query_string"]
        url = member.client.base_url.copy_with(raw_path=path + (b"?" + query if query else b""))
        content = body.parts() if body.more else body.read
        framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        request = httpx2.Request(scope["method"], url, headers=headers, content=content if framed else None)
        async with while_connected(body.receive) if not body.more else _nothing():
            answer = await member.client.send(request, stream=True)
            try:
                yield answer
            finally:
                await answer.aclose()

    async def _stream(self, answer: httpx2.Response, scope: Scope, send: Send) -> None:
        """Pass events on as they come, whole ones only, so that an error can stand behind the last."""
        import httpx2

        await send(_start(answer))
        rest = b""
        try:
            async for part in answer.aiter_raw():
                whole, end, rest = (rest + part).rpartition(END)
                if end:
                    await send({"type": "http.response.body", "body": whole + end, "more_body": True})
        except httpx2.TransportError:
            self._broken.inc()
            rest = event(cut().body())
        except asyncio.CancelledError:
            if not self.draining:
                raise
            rest = event(stopping().body())
        await send({"type": "http.response.body", "body": rest})


def _start(answer: httpx2.Response) -> Message:
    """The beginning of an answer, without what is of the replica's connection."""
    headers = [(name.lower(), value) for name, value in answer.headers.raw]
    headers = [(name, value) for name, value in headers if name not in _CONNECTION and name != b"date"]
    return {"type": "http.response.start", "status": answer.status_code, "headers": headers}


def _told(member: Member) -> dict[str, object]:
    serving = member.process.serving
    return {"name": member.name, "url": serving.url, "pid": serving.pid, "running": member.running}


def _json(row: dict[str, object], status: int = 200) -> Response:
    return Response(json.dumps(row, separators=(",", ":")), status, media_type="application/json")


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
