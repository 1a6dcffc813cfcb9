"""What happens to every request before its route sees it, and after.

A request's id, the drain, who asks, rates, the length of the body, the log, and the answer to what nobody foresaw. Plain
ASGI: streams pass through unbuffered, and a request without a key is refused before its body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.errors import RegistryError
from softprompt.http.auth import Caller, host_of, is_loopback
from softprompt.http.errors import ApiError, bug, refusal, stopping
from softprompt.http.state import ServerState
from softprompt.http.stream import ClientGone

log = logging.getLogger("softprompt.http")

GONE = 499
"""What the log shows where the client left before the answer."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_DRAIN_BYTES = 64 << 20
_DRAIN_S = 2.0


class Middleware:
    """Wraps the routes."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        """`app` answers what `state` lets in."""
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


class _Exchange:
    """One request and its answer."""

    def __init__(self, outer: Middleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.app, self.state = outer.app, outer.state
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        core = secrets.token_hex(12)
        self.id = given if _ID.fullmatch(given) else f"req_{core}"
        self.notes: dict[str, Any] = {"request_id": self.id, "core": core, "mark": "", "model": "-", "tokens": 0}
        self.caller: Caller | None = None
        self.status = 0
        self.most = self.state.limits.body_bytes
        self.read = 0
        self.unread = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        self.body_over = False
        self.gone = False

    async def run(self) -> None:
        """Answer, count and log the request."""
        began = time.perf_counter()
        self.scope.setdefault("state", {})["notes"] = self.notes
        running = self.state.traffic.running
        running.inc()
        try:
            await self._answer()
        finally:
            running.dec()
            self.status = GONE if self.gone else self.status
            seconds = time.perf_counter() - began
            route = getattr(self.scope.get("route"), "path", "(none)")
            method = self.scope["method"] if self.scope["method"] in _METHODS else "(other)"
            self.state.traffic.count(method, route, self.status, seconds)
            log.info(
                "%s %s model=%s status=%d ms=%.1f tokens=%d id=%s",
                method, ascii(self.scope["path"])[1:-1][:200], self.notes["model"], self.status, seconds * 1000,
                self.notes["tokens"], self.id,
            )  # fmt: skip

    async def _answer(self) -> None:
        try:
            await self._admit()
            await self.app(self.scope, self.receive, self.send)
        except ClientGone:
            self.gone = True
        except asyncio.CancelledError:
            if not self.state.draining:
                raise
            await self._refuse(stopping())  # the time for finishing is over
        except (ApiError, RegistryError) as error:
            await self._refuse(refusal(error))
        except Exception as error:
            await self._refuse(bug(error))

    async def _refuse(self, error: ApiError) -> None:
        if self.status:  # the answer has begun: all that can be done is to break it off
            log.warning("the answer to %s was broken off: %s", self.id, error)
            raise ConnectionAbortedError(str(error))
        await error.response()(self.scope, self.receive, self.send)

    async def _admit(self) -> None:
        """Raises `ApiError` for what is refused unread."""
        path: str = self.scope["path"]
        if path in ("/health", "/healthz", "/readyz"):
            return
        if self.state.draining:
            raise stopping()
        if not await self.state.keyring.needed():
            self._refuse_strangers()
        if path.startswith("/v1/") or path == "/v1":
            self.caller = await self.state.keyring.identify(self.headers.get("authorization"))
            self.scope["state"]["caller"] = self.caller
            self.state.meter.admit(self.caller.account)
        if path in ("/v1/files", "/console/train"):
            self.most = self.state.limits.upload_bytes
        length = self.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > self.most):
            raise ApiError(413, self._too_long())

    def _refuse_strangers(self) -> None:
        # A page in a browser on this machine can send requests here: by a name of its own that leads to 127.0.0.1, or
        # across origins. Without keys nothing else would stop it.
        for name in ("host", "origin"):
            value = self.headers.get(name)
            if value is not None and not is_loopback(host_of(value)):
                raise ApiError(
                    403,
                    f"without API keys this server answers this machine only, and the request's {name} is {value!r}; "
                    "send it to 127.0.0.1, or ask whoever runs this server for a key",
                    code="not_local",
                )

    def _too_long(self) -> str:
        return f"the body is longer than {self.most} bytes, the most that is taken; send less at once"

    async def receive(self) -> Message:
        """The body's next part, within its bounds."""
        if self.body_over:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self.state.limits.body_s)
        except TimeoutError:
            raise HTTPException(408, f"nothing of the body came for {self.state.limits.body_s:g} s") from None
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        self.read += len(message.get("body", b""))
        if self.read > self.most:
            raise HTTPException(413, self._too_long())
        self.body_over = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send the answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self.id == f"req_{self.notes['core']}":  # one of the client's own stays as it is
                self.id += self.notes["mark"]
            headers["x-request-id"] = self.id
            if self.unread and not self.body_over:
                headers["connection"] = "close"
            if self.caller is not None:
                for name, value in self.state.meter.account(self.caller.account).headers().items():
                    headers[name] = value
        elif self.unread and not self.body_over and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._swallow()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _swallow(self) -> None:
        """Read on for a while, so that a client which first sends all it has gets to see the answer: closing a connection
        with bytes unread resets it."""
        left = _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
