"""Completions, chats and classifications: bodies of requests to calls of the live service, and its answers to bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from fastapi import Request
from starlette.responses import Response

from softprompt.engines.protocol import Sampling
from softprompt.http.answers import ChatAnswer, CompletionAnswer, chat_choice, classified, completion_choice
from softprompt.http.call import Call, OpenStreams, whole
from softprompt.http.errors import ApiError
from softprompt.http.events import ChatEvents, CompletionEvents, events
from softprompt.http.schemas import ChatRequest, ClassifyRequest, CompletionRequest
from softprompt.http.stream import EventStream, together
from softprompt.serving.service import AUTO, Completion, Message

CHAT_TOKENS = 256
"""Most tokens of the base's answer to a conversation where the client does not say; a task has a bound of its own."""


async def complete(request: Request, body: CompletionRequest) -> Response:
    """Answer `/v1/completions`."""
    call = Call(request, body, "prompt")
    sampling = body.sampling()
    call.limits.check_max_tokens(sampling.max_tokens)
    prompts = body.prompts
    call.limits.check_rows(len(prompts) * body.count, "prompt")
    if body.model == AUTO and len(prompts) > 1:
        raise ApiError(
            400, "model 'auto' takes one prompt in a request; send one each", param="prompt", code="invalid_value"
        )
    rows = [(prompt, one) for prompt in prompts for one in _drawn(sampling, body.count)]
    reserved = len(rows) * sampling.max_tokens
    if body.stream:
        ask = partial(call.live.stream, call.tenant, body.model)
        streams = await call.open([partial(ask, *row) for row in rows], reserved)
        return _stream(CompletionEvents(streams, body), body)
    with call.asking(reserved):
        async with call.connected():
            told = await together([call.live.complete(call.tenant, body.model, *row) for row in rows])
        counts = call.settle([one.head for one in told], _output(told))
    choices = [completion_choice(at, one, with_logprobs=body.logprobs is not None) for at, one in enumerate(told)]
    return whole(CompletionAnswer(**call.names("cmpl", told[0].head), choices=choices, usage=counts))


async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer `/v1/chat/completions`."""
    call = Call(request, body, "messages")
    if body.asked is not None:
        field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        call.limits.check_max_tokens(body.asked, field)
    call.limits.check_rows(body.count, "n")
    messages = [Message(turn.role, turn.text) for turn in body.messages]
    drawn = _drawn(body.sampling(min(CHAT_TOKENS, call.limits.max_tokens)), body.count)
    reserved, own = body.count * (body.asked or 0), body.asked is None
    if body.stream:
        ask = partial(call.live.stream_chat, call.tenant, body.model, messages, own_bound=own)
        streams = await call.open([partial(ask, one) for one in drawn], reserved)
        return _stream(ChatEvents(streams, body), body)
    with call.asking(reserved):
        async with call.connected():
            told = await together([call.live.chat(call.tenant, body.model, messages, one, own_bound=own) for one in drawn])
        counts = call.settle([one.head for one in told], _output(told))
    choices = [chat_choice(at, one, with_logprobs=bool(body.logprobs)) for at, one in enumerate(told)]
    return whole(ChatAnswer(**call.names("chatcmpl", told[0].head), choices=choices, usage=counts))


async def classify(request: Request, body: ClassifyRequest) -> Response:
    """Answer `/v1/classify`."""
    call = Call(request, body, "input")
    call.limits.check_rows(len(body.inputs), "input")
    with call.asking(0):
        async with call.connected():
            told = await call.live.classify(call.tenant, body.model, body.inputs)
        call.settle([told.head], 0)
    return whole(classified(told))


def _stream(kind: CompletionEvents | ChatEvents, body: CompletionRequest | ChatRequest) -> Response:
    streams: OpenStreams = kind.streams
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    return EventStream(events(kind, include_usage=wanted), streams.aclose)


def _drawn(sampling: Sampling, count: int) -> list[Sampling]:
    """How each of the answers to one prompt is drawn: the first with the seed that was given, the others with the next."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=sampling.seed + at) for at in range(count)]


def _output(told: Sequence[Completion]) -> int:
    return sum(one.output_tokens for one in told)
