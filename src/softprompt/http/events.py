"""Pieces of answers as server-sent events, a chunk of OpenAI's each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from pydantic import BaseModel

from softprompt.engines.protocol import Piece
from softprompt.http.call import OpenStreams
from softprompt.http.schemas import Chunk
from softprompt.http.stream import EventStream, event, merge

DONE = b"data: [DONE]\n\n"

EVENTS = {"text/event-stream": {"schema": {"type": "string", "description": "With `stream`: chunks, then `[DONE]`."}}}
"""What a route that streams answers with, for the server's description of itself."""


class Pieces(Protocol):
    """Makes the choices of chunks from pieces of several streams. Each choice comes in a chunk of its own."""

    @property
    def chunk(self) -> Callable[..., Chunk]:
        """The kind of chunk."""

    def begin(self) -> Iterator[BaseModel]:
        """What comes before the first piece."""

    def choices(self, place: int, piece: Piece) -> Iterator[BaseModel]:
        """What a piece of the stream at `place` becomes."""


def event_stream(streams: OpenStreams, pieces: Pieces, names: Mapping[str, Any], *, include_usage: bool) -> EventStream:
    """An answer of chunks, which begin with `names`; the counts of tokens come before its end where they are asked for."""
    return EventStream(_events(streams, pieces, names, include_usage), streams.aclose)


async def _events(
    streams: OpenStreams, pieces: Pieces, names: Mapping[str, Any], include_usage: bool
) -> AsyncGenerator[bytes, None]:
    left_out = None if include_usage else {"usage"}

    def chunk(*choices: BaseModel, **more: Any) -> bytes:
        return event(pieces.chunk(**names, choices=list(choices), **more).model_dump(exclude=left_out))

    for choice in pieces.begin():
        yield chunk(choice)
    async with aclosing(merge(streams.streams)) as arriving:
        async for place, piece in arriving:
            streams.count(place, piece.count)
            for choice in pieces.choices(place, piece):
                yield chunk(choice)
    usage = streams.settle()
    if include_usage:
        yield chunk(usage=usage)
    yield DONE
