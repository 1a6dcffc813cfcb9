"""One request for an answer on its way: whose it is, what it may use, and what every answer to it has."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from softprompt.errors import ContextError, NameRefused, NotFound
from softprompt.http.auth import caller_of
from softprompt.http.errors import context_too_short, unknown_model
from softprompt.http.limits import Reservation
from softprompt.http.schemas import Generation, ModelBody, Usage
from softprompt.http.state import ServerState, state_of
from softprompt.http.stream import together, while_connected
from softprompt.serving.answers import Completion, Head
from softprompt.serving.stream import Stream


class Call:
    """One request for an answer."""

    def __init__(self, request: Request, body: ModelBody, field: str) -> None:
        """`field` is that of the body which holds the input."""
        self.state: ServerState = state_of(request)
        self.service, self.limits = self.state.service, self.state.limits
        self.caller = caller_of(request)
        self.tenant = self.caller.tenant
        self.body = body
        self._request, self._field = request, field
        self._notes: dict[str, Any] = request.state.notes
        self._notes["model"] = ascii(body.model)[1:-1]
        self._reservation = Reservation(None, 0)

    def settle(self, heads: Sequence[Head], output_tokens: int) -> Usage:
        """Count the tokens of an answer. A prompt counts once, however many answers it gets."""
        count = self.body.count if isinstance(self.body, Generation) else 1
        counts = Usage.of(sum(head.input_tokens for head in heads[::count]), output_tokens)
        self._reservation.settle(counts.total_tokens)
        self._notes["tokens"] = counts.total_tokens
        return counts

    async def run(self, asking: Sequence[Callable[[], Coroutine[Any, Any, Completion]]], tokens: int) -> Answers:
        """The answers to calls of the service that run at once, with tokens set aside meanwhile.

        Raises:
            ApiError: the service refuses one of them, and the others are given up.
        """
        with self.asking(tokens):
            async with self.connected():
                completions = await together([ask() for ask in asking])
            heads = [completion.head for completion in completions]
            return Answers(completions, self.settle(heads, sum(one.output_tokens for one in completions)))

    @contextmanager
    def asking(self, tokens: int) -> Iterator[None]:
        """Tokens are set aside meanwhile, and what the service refuses gets the name of the body's field.

        Raises:
            ApiError: it refuses.
        """
        with self._reserved(tokens), self._naming():
            yield

    def connected(self) -> Any:
        """A context that is cancelled as soon as the client has gone."""
        return while_connected(self._request.receive)

    async def open(self, opening: Sequence[Callable[[], Coroutine[Any, Any, Stream]]], tokens: int) -> OpenStreams:
        """Open streams, with tokens set aside until they are closed. What is refused is refused here.

        Raises:
            ApiError: too many streams are open, or the service refuses.
        """
        with ExitStack() as stack:
            stack.enter_context(self.state.meter.stream())
            stack.enter_context(self._reserved(tokens))
            with self._naming():
                async with self.connected():
                    streams = await together([call() for call in opening])
            return OpenStreams(self, streams, stack.pop_all())

    @contextmanager
    def _reserved(self, tokens: int) -> Iterator[None]:
        """Set tokens aside against the caller's rate, and give back in the end what was not settled."""
        self._reservation = self.state.meter.reserve(self.caller.name, tokens)
        try:
            yield
        finally:
            self._reservation.settle(0)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (NameRefused, NotFound) as error:
            raise unknown_model(error) from error
        except ContextError as error:
            raise context_too_short(error, self._field) from error

    def names(self, kind: str, head: Head) -> dict[str, Any]:
        """Fields of every answer that is generated: what it is called, and what made it."""
        return {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
            "routed": None if head.routed is None else head.routed.row(),
        }


@dataclass(frozen=True)
class Answers:
    """Whole answers to one request."""

    completions: list[Completion]
    usage: Usage

    @property
    def head(self) -> Head:
        """Of the first of them."""
        return self.completions[0].head


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
