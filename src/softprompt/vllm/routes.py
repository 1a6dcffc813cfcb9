"""Which of two servers a request is for, where both answer at one address: vLLM's, by the names that it serves, or ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, MutableMapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/softprompt"
"""Under this all of our routes are, whatever vLLM has by the same names."""

BY_MODEL = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/decisions", "/v1/embeddings")
"""Routes of both, or of some versions of vLLM: the model decides."""
OURS = ("/v1/classify", "/v1/feedback", "/v1/moderations")
"""Routes that vLLM has not."""
MODELS = "/v1/models"


class TwoServers:
    """Requests for vLLM's own models go to vLLM untouched; those for any other go to our routes."""

    def __init__(self, vllm: ASGIApp, ours: ASGIApp, own_names: Callable[[], Collection[str]]) -> None:
        """`own_names` are the models that vLLM itself serves at this moment."""
        self._vllm, self._ours, self._own_names = vllm, ours, own_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request over HTTP."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(f"{PREFIX}/"):
            path = path.removeprefix(PREFIX)
            await self._ours(_scope_of_ours(scope, path), receive, send)
        elif path in BY_MODEL and scope["method"] == "POST":
            body = await _read(receive)
            again = _replay(body, receive)
            if self._is_ours(body):
                await self._ours(_scope_of_ours(scope, path), again, send)
            else:
                await self._vllm(scope, again, send)
        elif path == MODELS and scope["method"] == "GET":
            await self._list_models(scope, path, receive, send)
        elif path in OURS or path.startswith(f"{MODELS}/"):
            await self._ours(_scope_of_ours(scope, path), receive, send)
        else:
            await self._vllm(scope, receive, send)

    def _is_ours(self, body: list[Message]) -> bool:
        """Whether a request names a model that vLLM has not; one that names none, or cannot be read, is for vLLM."""
        try:
            model = json.loads(b"".join(message.get("body", b"") for message in body))["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        return isinstance(model, str) and model not in self._own_names()

    async def _list_models(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        """The models of both. Each asks for a key of its own, where it asks for any: who has one of them sees that one's."""
        body = await _read(receive)
        told = _Answer()
        await self._vllm(dict(scope), _replay(body, receive), told)
        found = _Answer()
        await self._ours(_scope_of_ours(scope, path), _replay(body, receive), found)
        models = [*told.models(), *(model for model in found.models() if model.get("task") is not None)]
        if told.status != 200 and found.status != 200:
            await told.send_to(send)
            return
        await JSONResponse({"object": "list", "data": models})(scope, receive, send)


class _Answer:
    """Keeps what a server answers."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self._messages.append(message)

    @property
    def status(self) -> int:
        return int(self._messages[0]["status"])

    def models(self) -> list[dict[str, Any]]:
        """The models in it; none in a refusal."""
        if self.status != 200:
            return []
        return list(json.loads(b"".join(message.get("body", b"") for message in self._messages[1:]))["data"])

    async def send_to(self, send: Send) -> None:
        for message in self._messages:
            await send(message)


def _scope_of_ours(scope: Scope, path: str) -> MutableMapping[str, Any]:
    """A request's scope as our routes see it: they note things in its state, which vLLM's routes have no part in."""
    return {**scope, "path": path, "raw_path": path.encode(), "root_path": "", "state": dict(scope.get("state", {}))}


async def _read(receive: Receive) -> list[Message]:
    """All that comes of a body; the last message tells of a client that has gone."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replay(body: list[Message], receive: Receive) -> Receive:
    """Receives a body that was read, and then what comes behind it."""
    left = list(body)

    async def again() -> Message:
        return left.pop(0) if left else await receive()

    return again
