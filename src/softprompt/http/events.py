"""Pieces of answers as OpenAI's chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from softprompt.engines.protocol import Piece
from softprompt.http.answers import chat_logprobs, completion_logprobs
from softprompt.http.call import OpenStreams
from softprompt.http.schemas import ChatRequest, CompletionRequest
from softprompt.http.stream import DONE, event, merge


class CompletionEvents:
    """Chunks of `/v1/completions`."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(self, streams: OpenStreams, body: CompletionRequest) -> None:
        self.streams = streams
        self._logprobs = body.logprobs is not None
        self._offsets = [0] * len(streams.streams)

    def first(self) -> Iterator[dict[str, Any]]:
        """What is said before the first piece."""
        return iter(())

    def choices(self, place: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The choices of a piece, a chunk each."""
        logprobs = None
        if self._logprobs:
            logprobs = completion_logprobs(piece.tokens, self._offsets[place]).model_dump()
            self._offsets[place] += sum(len(token.text) for token in piece.tokens)
        yield {"index": place, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}


class ChatEvents:
    """Chunks of `/v1/chat/completions`."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def __init__(self, streams: OpenStreams, body: ChatRequest) -> None:
        self.streams = streams
        self._logprobs = bool(body.logprobs)

    def first(self) -> Iterator[dict[str, Any]]:
        """Each answer begins with its role."""
        for place in range(len(self.streams.streams)):
            yield self._choice(place, {"role": "assistant", "content": ""}, None, None)

    def choices(self, place: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The choices of a piece, a chunk each: text, then why it is the last."""
        if piece.text or piece.tokens:
            logprobs = chat_logprobs(piece.tokens).model_dump() if self._logprobs else None
            yield self._choice(place, {"content": piece.text}, logprobs, None)
        if piece.finish is not None:
            yield self._choice(place, {}, None, piece.finish)

    def _choice(self, place: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


async def events(kind: CompletionEvents | ChatEvents, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """Server-sent events of streams; the last one is `[DONE]`, with the counts of tokens before it where they are wanted."""
    streams = kind.streams
    names = streams.call.names(kind.prefix, streams.head) | {"object": kind.kind}
    if include_usage:
        names["usage"] = None
    for choice in kind.first():
        yield event(names | {"choices": [choice]})
    async with aclosing(merge(streams.streams)) as pieces:
        async for place, piece in pieces:
            streams.count(place, piece.count)
            for choice in kind.choices(place, piece):
                yield event(names | {"choices": [choice]})
    counts = streams.settle()
    if include_usage:
        yield event(names | {"choices": [], "usage": counts.model_dump()})
    yield DONE
