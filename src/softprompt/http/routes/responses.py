"""`/v1/responses`: OpenAI's newer shape of a chat, as text, one answer to a request and nothing kept."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictBool, StrictStr, model_validator
from starlette.responses import Response

from softprompt.bases.grammar import ANY_OBJECT
from softprompt.engines.protocol import Sampling
from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call, Streams
from softprompt.http.routes.chat import CHAT_TOKENS
from softprompt.http.schemas import (
    Body,
    Fingerprint,
    Hint,
    JsonObjectFormat,
    JsonSchema,
    MaxTokens,
    ModelBody,
    RoutedTo,
    Temperature,
    TextFormat,
    TopP,
    Unsupported,
    Usage,
    check_schema,
    or_hint,
    refuse_unsupported,
    refused,
)
from softprompt.http.stream import EventStream, event
from softprompt.serving.answers import Head, Message

router = APIRouter(route_class=StrictRoute, tags=["answers"])

_EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string", "description": "With `stream`: its events."}}}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "include": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "previous_response_id": (),
    "prompt": (),
    "reasoning": ({},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Fields that are not supported, with the values that ask for nothing."""


class InputText(Body):
    """A part of a message."""

    type: Literal["input_text", "output_text"] = Field(description="Only text is supported.")
    text: StrictStr
    annotations: Hint
    logprobs: Hint


class InputMessage(Body):
    """A turn of a conversation, also one that was an answer."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        StrictStr | Annotated[list[InputText], Field(min_length=1)],
        or_hint(
            'give a text, or a list of parts such as {"type": "input_text", "text": "..."}; nothing but text is supported'
        ),
    ]
    id: Hint
    status: Hint
    phase: Hint

    @property
    def message(self) -> Message:
        """As the service takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, text)


class ResponseSchemaFormat(JsonSchema):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextSettings(Body):
    """What the answer must be."""

    format: Annotated[TextFormat | JsonObjectFormat | ResponseSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Unsupported


class ResponseStreamOptions(Body):
    """Of streams."""

    include_obfuscation: StrictBool | None = Field(None, description="Taken and of no effect: nothing is padded.")


class ResponseRequest(ModelBody):
    """Answer an input through the task's template; the base reads all of it, in its tokenizer's chat template."""

    input: Annotated[
        Annotated[StrictStr, Field(min_length=1)] | Annotated[list[InputMessage], Field(min_length=1)],
        or_hint('give a text, or a list of messages such as {"role": "user", "content": "..."}; nothing else is supported'),
    ] = Field(examples=["Who wrote Faust ?"])
    instructions: StrictStr | None = Field(None, description="A system message in front; a task does not read it.")
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: StrictBool | None = Field(None, description="Send the answer in pieces, as server-sent events.")
    stream_options: ResponseStreamOptions | None = None
    text: TextSettings | None = None
    metadata: dict[str, Any] | None = Field(None, description="For the client's own book-keeping; comes back in the answer.")
    access_programs: Unsupported
    background: Unsupported
    background_options: Unsupported
    context_management: Unsupported
    conversation: Unsupported
    image: Unsupported
    include: Unsupported
    max_tool_calls: Unsupported
    moderation: Unsupported
    parallel_tool_calls: Unsupported
    previous_response_id: Unsupported
    prompt: Unsupported
    prompt_cache_key: Hint
    prompt_cache_options: Hint
    prompt_cache_retention: Hint
    reasoning: Unsupported
    safety_identifier: Hint
    service_tier: Unsupported
    store: Unsupported
    tool_choice: Unsupported
    tools: Unsupported
    top_logprobs: Unsupported
    truncation: Unsupported
    _schema: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> ResponseRequest:
        refuse_unsupported(self, _NEUTRAL)
        if self.text is not None:
            refuse_unsupported(self.text, {"verbosity": ()})
            if isinstance(self.text.format, JsonObjectFormat):
                self._schema = ANY_OBJECT
            elif isinstance(self.text.format, ResponseSchemaFormat):
                self._schema = check_schema(self.text.format.schema_, "text.format")
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "stream_options is for streams only; set stream to true, too")
        return self

    @property
    def schema_asked(self) -> str | None:
        """The schema that the answer must be of, as text."""
        return self._schema

    @property
    def messages(self) -> list[Message]:
        """The conversation."""
        first = [] if self.instructions is None else [Message("system", self.instructions)]
        given = self.input
        return first + ([Message("user", given)] if isinstance(given, str) else [turn.message for turn in given])


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


class OutputMessage(BaseModel):
    """An answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: str = Field(description="`in_progress`, `completed` or `incomplete`.")
    content: list[OutputText]


class ResponseUsage(BaseModel):
    """Tokens of a request; those of soft prompts are not counted."""

    input_tokens: int
    input_tokens_details: dict[str, int] = Field(default={"cached_tokens": 0, "cache_write_tokens": 0})
    output_tokens: int
    output_tokens_details: dict[str, int] = Field(default={"reasoning_tokens": 0})
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ResponseUsage:
        """The counts of a request."""
        return cls(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens)


class ResponseObject(BaseModel):
    """A response and how it stands."""

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix seconds.")
    completed_at: int | None = None
    status: str = Field(description="`in_progress`, `completed`, or `incomplete` where `max_output_tokens` cut it.")
    error: None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str = Field(description="What answered: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    routed: RoutedTo = None
    output: list[OutputMessage]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: str = "auto"
    tools: list[Any] = Field(default_factory=list)
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None


class _Shape:
    """One response, as it grows."""

    def __init__(self, call: Call, body: ResponseRequest, head: Head) -> None:
        self._body, self._head = body, head
        self._id, self.item = call.name("resp", head), call.name("msg", head)
        self._created = int(time.time())

    def message(self, text: str, finish: str | None) -> OutputMessage:
        """The answer; `finish` says why nothing more comes."""
        status = "in_progress" if finish is None else "completed" if finish == "stop" else "incomplete"
        return OutputMessage(id=self.item, status=status, content=[OutputText(text=text)])

    def whole(self, text: str | None = None, finish: str | None = None, usage: Usage | None = None) -> ResponseObject:
        """The response; without a text before any of it has come."""
        body, done = self._body, finish is not None
        asked = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
        return ResponseObject(
            id=self._id,
            created_at=self._created,
            completed_at=int(time.time()) if finish == "stop" else None,
            status="in_progress" if not done else "completed" if finish == "stop" else "incomplete",
            incomplete_details={"reason": "max_output_tokens"} if done and finish != "stop" else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=self._head.model,
            system_fingerprint=self._head.system_fingerprint,
            routed=self._head.routed.row() if self._head.routed is not None else None,
            output=[] if text is None else [self.message(text, finish)],
            temperature=float(body.temperature or 0.0),
            text={"format": {"type": "text"}} | asked,
            top_p=1.0 if body.top_p is None else float(body.top_p),
            usage=None if usage is None else ResponseUsage.of(usage),
        )


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses={200: {"content": _EVENTS}},
    dependencies=[Depends(need("predict"))],
)
async def respond_to(request: Request, body: ResponseRequest) -> Response:
    """Answer an input as `/v1/chat/completions` does, in the newer shape. Nothing is kept: a conversation is sent whole."""
    call = Call(request, body, "input")
    bound = body.max_output_tokens
    if bound is not None:
        call.limits.check_max_tokens(bound, "max_output_tokens")
    sampling = Sampling(
        max_tokens=bound or min(CHAT_TOKENS, call.limits.max_tokens),
        temperature=float(body.temperature or 0.0),
        top_p=1.0 if body.top_p is None else float(body.top_p),
    )
    about = (call.tenant, body.model, body.messages, sampling)
    how: dict[str, Any] = {"own_bound": bound is None, "schema": body.schema_asked, **call.asker}
    if body.stream:
        streams = await call.open([partial(call.service.stream_chat, *about, **how)], bound or 0)
        return EventStream(_events(_Shape(call, body, streams.heads[0]), streams), streams.aclose)
    with call.asking(bound or 0):
        async with call.connected():
            done = await call.service.chat(*about, **how)
        usage = call.settle([done.head], done.output_tokens)
    return respond(_Shape(call, body, done.head).whole(done.text, done.finish, usage))


async def _events(shape: _Shape, streams: Streams) -> AsyncGenerator[bytes, None]:
    """The events of a response, in the order in which OpenAI sends them."""
    place: dict[str, Any] = {"item_id": shape.item, "output_index": 0, "content_index": 0}
    number = 0

    def told(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": number - 1, **fields})

    yield told("response.created", response=shape.whole().model_dump())
    yield told("response.in_progress", response=shape.whole().model_dump())
    begun = {**shape.message("", None).model_dump(), "content": []}
    yield told("response.output_item.added", output_index=0, item=begun)
    yield told("response.content_part.added", **place, part=OutputText(text="").model_dump())
    said: list[str] = []
    finish = "stop"
    async with aclosing(streams.pieces()) as arriving:
        async for _, piece in arriving:
            if piece.text:
                said.append(piece.text)
                yield told("response.output_text.delta", **place, delta=piece.text, logprobs=[])
            finish = piece.finish or finish
    text = "".join(said)
    yield told("response.output_text.done", **place, text=text, logprobs=[])
    yield told("response.content_part.done", **place, part=OutputText(text=text).model_dump())
    yield told("response.output_item.done", output_index=0, item=shape.message(text, finish).model_dump())
    last = shape.whole(text, finish, streams.settle())
    yield told(f"response.{last.status}", response=last.model_dump())
