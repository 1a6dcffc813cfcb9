"""One request for an answer on its way: whose it is, what it may use, and what every answer to it says."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from softprompt.errors import ContextError, NameRefused, NotFound
from softprompt.http.answers import Usage, usage
from softprompt.http.auth import caller_of
from softprompt.http.errors import refusal, unknown_model
from softprompt.http.limits import Reservation
from softprompt.http.schemas import ClassifyRequest, Generation
from softprompt.http.state import ServerState, state_of
from softprompt.http.stream import open_together, while_connected
from softprompt.serving.service import Head, Stream


class Call:
    """One request for an answer."""

    def __init__(self, request: Request, body: Generation | ClassifyRequest, field: str) -> None:
        """`field` is that of the body which holds the input."""
        self.state: ServerState = state_of(request)
        self.live, self.limits = self.state.live, self.state.limits
        self.caller = caller_of(request)
        self.tenant = self.caller.tenant
        self.body = body
        self._request, self._field = request, field
        self._notes: dict[str, Any] = request.state.notes
        self._notes["model"] = ascii(body.model)[1:-1]
        self._reservation = Reservation(None, 0)

    def reserve(self, tokens: int) -> None:
        """Set tokens aside for the answer, against the caller's rate."""
        self._reservation = self.state.meter.reserve(self.caller.name, tokens)

    def settle(self, heads: Sequence[Head], output_tokens: int) -> Usage:
        """Count the tokens of an answer. A prompt counts once, however many answers it gets."""
        count = self.body.count if isinstance(self.body, Generation) else 1
        counts = usage(sum(head.input_tokens for head in heads[::count]), output_tokens)
        self._reservation.settle(counts.total_tokens)
        self._notes["tokens"] = counts.total_tokens
        return counts

    def release(self) -> None:
        """Give back what is still set aside."""
        self._reservation.settle(0)

    @contextmanager
    def asking(self, tokens: int) -> Iterator[None]:
        """Tokens are set aside meanwhile, and what the live service refuses gets the name of the body's field.

        Raises:
            ApiError: it refuses.
        """
        self.reserve(tokens)
        try:
            with self._naming():
                yield
        finally:
            self.release()

    def connected(self) -> Any:
        """A context that is cancelled as soon as the client has gone."""
        return while_connected(self._request.receive)

    async def open(self, opening: Sequence[Callable[[], Coroutine[Any, Any, Stream]]], tokens: int) -> OpenStreams:
        """Open streams, with tokens set aside until they are closed. What is refused is refused here.

        Raises:
            ApiError: too many streams are open, or the live service refuses.
        """
        with ExitStack() as stack:
            stack.enter_context(self.state.meter.stream())
            self.reserve(tokens)
            stack.callback(self.release)
            with self._naming():
                async with self.connected():
                    streams = await open_together([call() for call in opening])
            return OpenStreams(self, streams, stack.pop_all())

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (NameRefused, NotFound) as error:
            raise unknown_model(error) from error
        except ContextError as error:
            refused = refusal(error)
            refused.param = self._field
            raise refused from error

    def names(self, kind: str, head: Head) -> dict[str, Any]:
        """The fields that every generated answer begins with."""
        found: dict[str, Any] = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        if head.routed is not None:
            found["routed"] = head.routed.row()
        return found


class OpenStreams:
    """Streams of one request, with what is held for them."""

    def __init__(self, call: Call, streams: Sequence[Stream], held: ExitStack) -> None:
        self.call, self.streams = call, streams
        self._held = held
        self._tokens = [0] * len(streams)

    @property
    def head(self) -> Head:
        """Of the first of them."""
        return self.streams[0].head

    def count(self, place: int, tokens: int) -> None:
        """Count a piece of a stream; on the last, `tokens` is how many there were in all."""
        self._tokens[place] = tokens or self._tokens[place] + 1

    def settle(self) -> Usage:
        """Count the tokens of them all."""
        return self.call.settle([stream.head for stream in self.streams], sum(self._tokens))

    async def aclose(self) -> None:
        """Give up what still runs, and what is held."""
        try:
            for stream in self.streams:
                await stream.aclose()
            self.settle()
        finally:
            self._held.close()


def whole(body: BaseModel) -> Response:
    """An answer that is sent in one."""
    return Response(body.model_dump_json(), media_type="application/json")
