"""`/v1/chat/completions`: chats, answered through a task's template, or by the base in its tokenizer's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictBool, StrictInt, StrictStr, model_validator
from starlette.responses import Response

from softprompt.engines.protocol import Piece, TokenProbability
from softprompt.http.auth import need
from softprompt.http.body import StrictRoute
from softprompt.http.call import EVENTS, Call
from softprompt.http.schemas import (
    MOST_LOGPROBS,
    UNSUPPORTED_IN_MESSAGES,
    Body,
    Chunk,
    Finish,
    Generated,
    Generation,
    Hint,
    MaxTokens,
    Unsupported,
    or_hint,
    refuse_unsupported,
    refused,
)
from softprompt.serving.answers import Completion, Message
from softprompt.serving.monitor import Whole

CHAT_TOKENS = 256
"""Most tokens of the base's answer to a conversation where the client does not say; a task has a bound of its own."""

router = APIRouter(route_class=StrictRoute, tags=["answers"])


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"] = Field(description="Only text is supported.")
    text: StrictStr


class ChatMessage(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        StrictStr | Annotated[list[TextPart], Field(min_length=1)],
        or_hint('give a text, or a list of parts such as {"type": "text", "text": "..."}; nothing but text is supported'),
    ]
    name: StrictStr | None = Field(None, description="Not shown to the model.")
    annotations: Unsupported
    audio: Unsupported
    function_call: Unsupported
    refusal: Unsupported
    tool_calls: Unsupported

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        # Messages that were answers come back with all fields that the client's version knows, most of them null.
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name in ("role", "content")}

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> ChatMessage:
        refuse_unsupported(self, UNSUPPORTED_IN_MESSAGES)
        return self

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """Answer the last message of a conversation, the user's, through the task's template; the base reads all of it."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)] = Field(
        examples=[[{"role": "user", "content": "Who wrote Faust?"}]]
    )
    max_tokens: MaxTokens | None = Field(None, description="Most tokens of the answer; the task's own bound.")
    max_completion_tokens: MaxTokens | None = Field(None, description="The newer name of max_tokens.")
    logprobs: StrictBool | None = Field(None, description="Give the log-probability of each token.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="And of so many of the likeliest in its place."
    )
    audio: Unsupported
    frequency_penalty: Unsupported
    function_call: Unsupported
    functions: Unsupported
    logit_bias: Unsupported
    modalities: Unsupported
    parallel_tool_calls: Unsupported
    prediction: Unsupported
    presence_penalty: Unsupported
    reasoning_effort: Unsupported
    prompt_cache_key: Hint
    prompt_cache_options: Hint
    prompt_cache_retention: Hint
    safety_identifier: Hint
    service_tier: Unsupported
    store: Unsupported
    tool_choice: Unsupported
    tools: Unsupported
    verbosity: Unsupported
    web_search_options: Unsupported

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise refused("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("top_logprobs", "top_logprobs needs logprobs; set logprobs to true, too")
        return self

    @property
    def bound(self) -> int | None:
        """Most tokens of the answer, where the client says."""
        return self.max_completion_tokens or self.max_tokens


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="In UTF-8; null for a token that is part of a character, or no text.")


class TokenLogprob(TopLogprob):
    """A token of an answer, with the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenProbability]) -> ChatLogprobs:
        """Of an engine's tokens."""

        def likely(text: str, logprob: float) -> TopLogprob:
            encoded = None if not text or "\ufffd" in text else list(text.encode())
            return TopLogprob(token=text, logprob=logprob, bytes=encoded)

        return cls(
            content=[
                TokenLogprob(
                    **dict(likely(token.text, token.logprob)),
                    top_logprobs=[likely(text, logprob) for _, text, logprob in token.top],
                )
                for token in tokens
            ]
        )


class ChatTurn(BaseModel):
    """An answer to a conversation."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatTurn
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class ChatAnswer(Generated):
    """Answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatDelta(BaseModel):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=lambda value: value is None)
    content: str | None = Field(default=None, exclude_if=lambda value: value is None)


class ChunkChoice(BaseModel):
    """A part of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(Chunk):
    """A part of an answer to a conversation."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]


class ChatShape:
    """Answers to conversations, whole or in pieces."""

    kind, answer, chunk = "chatcmpl", ChatAnswer, ChatChunk

    def __init__(self, count: int, *, with_logprobs: bool) -> None:
        """For so many answers at once."""
        self._count, self._with_logprobs = count, with_logprobs

    def _logprobs(self, tokens: Sequence[TokenProbability]) -> ChatLogprobs | None:
        return ChatLogprobs.of(tokens) if self._with_logprobs else None

    def whole(self, place: int, completion: Completion) -> ChatChoice:
        """The choice of a whole answer."""
        turn, logprobs = ChatTurn(content=completion.text), self._logprobs(completion.tokens)
        return ChatChoice(index=place, message=turn, logprobs=logprobs, finish_reason=completion.finish)

    def begin(self) -> Iterator[ChunkChoice]:
        """Each answer begins with its role."""
        for place in range(self._count):
            yield ChunkChoice(index=place, delta=ChatDelta(role="assistant", content=""))

    def choices(self, place: int, piece: Piece) -> Iterator[ChunkChoice]:
        """The choices of a piece, a chunk each: text, then why it is the last."""
        if piece.text or piece.tokens:
            logprobs = self._logprobs(piece.tokens)
            yield ChunkChoice(index=place, delta=ChatDelta(content=piece.text), logprobs=logprobs)
        if piece.finish is not None:
            yield ChunkChoice(index=place, delta=ChatDelta(), finish_reason=piece.finish)


@router.post(
    "/v1/chat/completions",
    response_model=ChatAnswer,
    responses={200: {"content": EVENTS}},
    dependencies=[Depends(need("predict"))],
)
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer the last message, the user's, through the task's template; a task with labels answers with the likeliest. A
    task that was tuned on whole conversations, and the base, read all of it."""
    call = Call(request, body, "messages")
    if body.bound is not None:
        call.limits.check_max_tokens(
            body.bound, "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        )
    call.limits.check_rows(body.count, "n")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    draws = body.draws(body.bound or min(CHAT_TOKENS, call.limits.max_tokens), logprobs)
    messages = [Message(turn.role, turn.text) for turn in body.messages]
    about = (call.tenant, body.model, messages)
    tokens = body.count * (body.bound or 0)
    how: dict[str, Any] = {"own_bound": body.bound is None, "schema": body.schema_asked, "whole": Whole(body.count)}
    how |= call.asker
    shape = ChatShape(body.count, with_logprobs=bool(body.logprobs))
    if body.stream:
        opening = [partial(call.service.stream_chat, *about, one, repeat=at > 0, **how) for at, one in enumerate(draws)]
        return await call.stream(shape, opening, tokens, include_usage=body.wants_usage)
    asking = [partial(call.service.chat, *about, one, repeat=at > 0, **how) for at, one in enumerate(draws)]
    return await call.answer(shape, asking, tokens)
