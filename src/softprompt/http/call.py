"""One request for an answer on its way: whose it is, what it may use, and its answer, whole or in pieces."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Protocol, TypedDict

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from softprompt.engines.protocol import Piece
from softprompt.errors import ContextError, DataError, NameRefused, NotFound
from softprompt.http.auth import caller_of
from softprompt.http.body import respond
from softprompt.http.errors import RETRY_SOON_S, ApiError, context_too_short, unknown_model
from softprompt.http.limits import Reservation
from softprompt.http.schemas import Chunk, Generated, Generation, ModelBody, Usage
from softprompt.http.state import state_of
from softprompt.http.stream import EventStream, event, merge, together, while_connected
from softprompt.serving.answers import Completion, Head
from softprompt.serving.stream import Stream

DONE = b"data: [DONE]\n\n"

EVENTS = {"text/event-stream": {"schema": {"type": "string", "description": "With `stream`: chunks, then `[DONE]`."}}}
"""What a route that streams answers with, for the server's description of itself."""


class Shape(Protocol):
    """Makes the choices of answers, and of chunks, from what the service gives. Each choice comes in a chunk of its own."""

    kind: str
    """What the ids of answers begin with."""

    @property
    def answer(self) -> Callable[..., Generated]:
        """The kind of a whole answer."""

    @property
    def chunk(self) -> Callable[..., Chunk]:
        """The kind of chunk."""

    def whole(self, place: int, completion: Completion) -> BaseModel:
        """What a whole answer becomes."""

    def begin(self) -> Iterable[BaseModel]:
        """What comes before the first piece."""

    def choices(self, place: int, piece: Piece) -> Iterator[BaseModel]:
        """What a piece of the stream at `place` becomes."""


class Asker(TypedDict):
    """Whose a request is."""

    user: str | None
    key: str
    """Of those that name no user."""


class Call:
    """One request for an answer."""

    def __init__(self, request: Request, body: ModelBody, field: str) -> None:
        """`field` is that of the body which holds the input.

        Raises:
            ApiError: the caller may not ask for the user that the body names.
        """
        self.state = state_of(request)
        self.service, self.limits = self.state.service, self.state.limits
        self.caller = caller_of(request)
        self.tenant = self.caller.tenant
        self.user = self.caller.require_user(body.user)
        self.body = body
        self._request, self._field = request, field
        self._notes: dict[str, Any] = request.state.notes
        self._notes["model"] = ascii(body.model)[1:-1]
        self._reservation = Reservation(None, 0)
        self.asker: Asker = {"user": self.user, "key": self.caller.name or self._notes["request_id"]}
        """Whose request it is, as the service is told: by the key, or else by its own id, where no user is named."""

    def name(self, kind: str, head: Head) -> str:
        """The id of an answer, which the request's own is like. While an experiment runs it says which version that was."""
        core: str = self._notes["core"]
        self._notes["mark"] = head.share.mark(core) if head.share is not None else ""
        return f"{kind}-{core}{self._notes['mark']}"

    def settle(self, heads: Sequence[Head], output_tokens: int) -> Usage:
        """Count the tokens of an answer. A prompt counts once, however many answers it gets."""
        count = self.body.count if isinstance(self.body, Generation) else 1
        counts = Usage.of(sum(head.input_tokens for head in heads[::count]), output_tokens)
        self._reservation.settle(counts.total_tokens)
        self._notes["tokens"] = counts.total_tokens
        return counts

    async def answer(
        self, shape: Shape, asking: Sequence[Callable[[], Coroutine[Any, Any, Completion]]], tokens: int
    ) -> Response:
        """The answers to calls of the service that run at once, with tokens set aside meanwhile.

        Raises:
            ApiError: the service refuses one of them, and the others are given up.
        """
        with self.asking(tokens):
            async with self.connected():
                completions = await together([ask() for ask in asking])
            heads = [completion.head for completion in completions]
            refuse_mixture(heads)
            usage = self.settle(heads, sum(one.output_tokens for one in completions))
        choices = [shape.whole(place, completion) for place, completion in enumerate(completions)]
        return respond(shape.answer(**self._names(shape.kind, heads[0]), choices=choices, usage=usage))

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

    async def stream(
        self, shape: Shape, opening: Sequence[Callable[[], Coroutine[Any, Any, Stream]]], tokens: int, *, include_usage: bool
    ) -> Response:
        """The same in chunks, with tokens set aside until their end; the counts of tokens come before it where they are
        asked for. What is refused is refused here.

        Raises:
            ApiError: too many streams are open, or the service refuses.
        """
        answer = await self.open(opening, tokens)
        fields = self._names(shape.kind, answer.heads[0])
        return EventStream(answer.events(shape, fields, include_usage), answer.aclose)

    async def open(self, opening: Sequence[Callable[[], Coroutine[Any, Any, Stream]]], tokens: int) -> Streams:
        """Streams of the service, opened at once, with tokens set aside until their end.

        Raises:
            ApiError: too many streams are open, or the service refuses.
        """
        with ExitStack() as stack:
            stack.enter_context(self.state.meter.stream())
            stack.enter_context(self._reserved(tokens))
            with self._naming():
                async with self.connected():
                    streams = await together([call() for call in opening])
            try:
                refuse_mixture([stream.head for stream in streams])
            except ApiError:
                for one in streams:
                    await one.aclose()
                raise
            return Streams(self, streams, stack.pop_all())

    def _names(self, kind: str, head: Head) -> dict[str, Any]:
        """Fields of every answer that is generated: what it is called, and what made it."""
        return {
            "id": self.name(kind, head),
            "created": int(time.time()),
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
            "routed": head.routed and head.routed.row(),
        }

    @contextmanager
    def _reserved(self, tokens: int) -> Iterator[None]:
        """Set tokens aside against the caller's rate, and give back in the end what was not settled."""
        self._reservation = self.state.meter.reserve(self.caller.account, tokens)
        try:
            yield
        finally:
            self._reservation.settle(0)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (NameRefused, NotFound) as error:
            raise unknown_model(error, lists=self.caller.allows("read")) from error
        except ContextError as error:
            raise context_too_short(error, self._field) from error
        except DataError as error:
            raise ApiError(400, str(error), code="invalid_value", param=self._field) from error


def refuse_mixture(heads: Sequence[Head]) -> None:
    """Raises `ApiError` 503 where an alias moved while the answers of one request began, so that two versions gave them."""
    models = sorted({head.model for head in heads})
    if len(models) > 1:
        raise ApiError(
            503, f"the model was changed just now: {' and '.join(models)} would answer; send the request again",
            code="model_changed", retry_after=RETRY_SOON_S,
        )  # fmt: skip


class Streams:
    """Streams of one request, with what is held for them."""

    def __init__(self, call: Call, streams: Sequence[Stream], held: ExitStack) -> None:
        self._call, self._streams, self._held = call, streams, held
        self._tokens = [0] * len(streams)

    async def events(self, shape: Shape, fields: dict[str, Any], include_usage: bool) -> AsyncGenerator[bytes, None]:
        """The chunks, each with these fields."""
        left_out = None if include_usage else {"usage"}

        def chunk(*choices: BaseModel, **more: Any) -> bytes:
            return event(shape.chunk(**fields, choices=list(choices), **more).model_dump(exclude=left_out))

        for choice in shape.begin():
            yield chunk(choice)
        async with aclosing(self.pieces()) as arriving:
            async for place, piece in arriving:
                for choice in shape.choices(place, piece):
                    yield chunk(choice)
        usage = self.settle()
        if include_usage:
            yield chunk(usage=usage)
        yield DONE

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all, each with the place of its stream, counted on the way."""
        async with aclosing(merge(self._streams)) as arriving:
            async for place, piece in arriving:
                so_far = self._tokens[place]
                self._tokens[place] = (
                    piece.count if piece.finish is not None else so_far + 1
                )  # the last has the count of all
                yield place, piece

    @property
    def heads(self) -> list[Head]:
        """What is known of each before its first piece."""
        return [stream.head for stream in self._streams]

    def settle(self) -> Usage:
        """Count the tokens that have come."""
        return self._call.settle([stream.head for stream in self._streams], sum(self._tokens))

    async def aclose(self) -> None:
        """Give up what still runs, and what is held."""
        try:
            for stream in self._streams:
                await stream.aclose()
            self.settle()
        finally:
            self._held.close()
