"""`/v1/completions`: raw text or token ids, continued behind a task's prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictBool, StrictInt, model_validator
from starlette.responses import Response

from softprompt.engines.protocol import Piece, TokenProbability
from softprompt.http.auth import need
from softprompt.http.body import StrictRoute
from softprompt.http.call import EVENTS, Call
from softprompt.http.errors import ApiError
from softprompt.http.schemas import (
    MOST_LOGPROBS,
    Chunk,
    Finish,
    Generated,
    Generation,
    Ids,
    Input,
    MaxTokensOrNone,
    Unsupported,
    or_hint,
    refused,
)
from softprompt.names import AUTO
from softprompt.serving.answers import Completion
from softprompt.serving.monitor import Whole

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that does not say, as OpenAI's."""

router = APIRouter(route_class=StrictRoute, tags=["answers"])


Prompt = Annotated[
    Input | Annotated[list[Input], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)],
    or_hint("give a text, token ids, or a list of texts or of lists of token ids, none of them empty"),
]


def prompts_of(prompt: str | Sequence[Any]) -> Sequence[str | list[int]]:
    """The inputs, one for each prompt."""
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    return cast(Sequence[str | list[int]], [prompt] if one else prompt)


class CompletionRequest(Generation):
    """Continue raw text: no template is put around it."""

    prompt: Prompt = Field(
        description="Text, token ids, or a list of either.", examples=["Question: Who wrote Faust?\nType:"]
    )
    max_tokens: MaxTokensOrNone | None = Field(None, description=f"Most tokens of an answer; {COMPLETION_TOKENS}.")
    logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Log-probabilities of each token and of so many of the likeliest."
    )
    best_of: Unsupported
    echo: StrictBool | None = Field(
        None, description="Give the prompt back before its answer; with `logprobs`, those of its tokens, too."
    )
    frequency_penalty: Unsupported
    logit_bias: Unsupported
    presence_penalty: Unsupported
    suffix: Unsupported

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise refused("max_tokens", "max_tokens is 0, which asks for nothing without echo; give 1 or more")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The inputs, one for each prompt."""
        return prompts_of(self.prompt)


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a prompt, before which nothing stands."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    @classmethod
    def of(cls, tokens: Sequence[TokenProbability], offset: int = 0) -> CompletionLogprobs:
        """Of an engine's tokens; `offset` is where the first of them stands in the text."""
        offsets: list[int] = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return cls(
            tokens=[token.text for token in tokens],
            token_logprobs=[None if math.isnan(token.logprob) else token.logprob for token in tokens],
            top_logprobs=[None if math.isnan(token.logprob) else _likeliest(token) for token in tokens],
            text_offset=offsets,
        )


def _likeliest(token: TokenProbability) -> dict[str, float]:
    """The likeliest tokens by their texts, the one that came among them; of two with one text the likelier has it, and the
    other is named by its id."""
    found = {token.text: token.logprob}
    for number, text, value in token.top:
        if number != token.id:
            found[f"token_id:{number}" if text in found else text] = value
    return found


class CompletionChoice(BaseModel):
    """One continuation of one prompt, or a part of it."""

    index: int = Field(description="Counts the `n` answers to the first prompt, then those to the second, ...")
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None


class CompletionAnswer(Generated):
    """Continuations."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class CompletionChunk(Chunk):
    """A part of a continuation."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class CompletionShape:
    """Continuations, whole or in pieces."""

    kind, answer, chunk = "cmpl", CompletionAnswer, CompletionChunk

    def __init__(self, count: int, *, with_logprobs: bool) -> None:
        """For so many continuations at once."""
        self._with_logprobs = with_logprobs
        self._offsets = [0] * count

    def begin(self) -> Sequence[CompletionChoice]:
        """Nothing comes before the first piece."""
        return ()

    def whole(self, place: int, part: Completion | Piece) -> CompletionChoice:
        """The choice of a whole answer, or of the next piece of one."""
        logprobs = None
        if self._with_logprobs:
            logprobs = CompletionLogprobs.of(part.tokens, self._offsets[place])
            self._offsets[place] += sum(len(token.text) for token in part.tokens)
        return CompletionChoice(index=place, text=part.text, logprobs=logprobs, finish_reason=part.finish)

    def choices(self, place: int, piece: Piece) -> Iterator[CompletionChoice]:
        """The choice of a piece."""
        yield self.whole(place, piece)


@router.post(
    "/v1/completions",
    response_model=CompletionAnswer,
    responses={200: {"content": EVENTS}},
    dependencies=[Depends(need("predict"))],
)
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continue raw text or token ids behind a task's prompt; no template is put around them."""
    call = Call(request, body, "prompt")
    bound = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    call.limits.check_max_tokens(bound)
    prompts = body.prompts
    call.limits.check_rows(len(prompts) * body.count, "prompt")
    if body.model == AUTO and len(prompts) > 1:
        raise ApiError(
            400, "model 'auto' takes one prompt in a request; send one each", param="prompt", code="invalid_value"
        )
    draws = body.draws(bound, body.logprobs)
    rows = [((prompt, sampling), at > 0) for prompt in prompts for at, sampling in enumerate(draws)]
    tokens, shape = len(rows) * bound, CompletionShape(len(rows), with_logprobs=body.logprobs is not None)
    about = (call.tenant, body.model)
    how: dict[str, Any] = {
        "schema": body.schema_asked,
        "any_text": body.any_text_asked,
        "echo": bool(body.echo),
        "whole": Whole(len(rows)),
        **call.asker,
    }
    if body.stream:
        opening = [partial(call.service.stream, *about, *row, repeat=repeat, **how) for row, repeat in rows]
        return await call.stream(shape, opening, tokens, include_usage=body.wants_usage)
    asking = [partial(call.service.complete, *about, *row, repeat=repeat, **how) for row, repeat in rows]
    return await call.answer(shape, asking, tokens)
