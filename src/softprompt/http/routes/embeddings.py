"""`/v1/embeddings`: what the base makes of texts, behind a task's prompt or alone."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictInt
from starlette.responses import Response

from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call
from softprompt.http.errors import ApiError
from softprompt.http.routes.completions import Prompt, prompts_of
from softprompt.http.schemas import Fingerprint, ModelBody

router = APIRouter(route_class=StrictRoute, tags=["answers"])


class EmbeddingRequest(ModelBody):
    """Embed raw texts: no template is put around them."""

    input: Prompt = Field(description="Text, token ids, or a list of either.", examples=["Who wrote Faust ?"])
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, or their float32 in little-endian bytes as base64; `float`."
    )
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="The base's own width, and no other: nothing is cut."
    )


class EmbeddingObject(BaseModel):
    """The embedding of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Of the base's width; not normalised.")


class EmbeddingUsage(BaseModel):
    """Tokens of a request; those of soft prompts are not counted."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    """The embeddings of inputs, in order."""

    object: Literal["list"] = "list"
    model: str = Field(description="What they are of: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    data: list[EmbeddingObject]
    usage: EmbeddingUsage


@router.post("/v1/embeddings", response_model=EmbeddingAnswer, dependencies=[Depends(need("predict"))])
async def embed(request: Request, body: EmbeddingRequest) -> Response:
    """The mean of the base's last hidden states over the tokens of each input, behind the task's soft prompt, or alone by
    the base's own name. They are as the base has them, not normalised."""
    call = Call(request, body, "input")
    width = call.service.base.width
    if body.dimensions not in (None, width):
        raise ApiError(
            400, f"dimensions: embeddings of {call.service.base_name} have {width}, and are not cut to {body.dimensions}; "
            "leave it out", param="dimensions", code="unsupported_parameter",
        )  # fmt: skip
    inputs = prompts_of(body.input)
    call.limits.check_rows(len(inputs), "input")
    with call.asking(0):
        async with call.connected():
            found = await call.service.embed(call.tenant, body.model, inputs, **call.asker)
        usage = call.settle([found.head], 0)
    rows = [
        EmbeddingObject(index=place, embedding=_packed(values) if body.encoding_format == "base64" else list(values))
        for place, values in enumerate(found.rows)
    ]
    return respond(
        EmbeddingAnswer(
            model=found.head.model,
            system_fingerprint=found.head.system_fingerprint,
            data=rows,
            usage=EmbeddingUsage(prompt_tokens=usage.prompt_tokens, total_tokens=usage.total_tokens),
        )
    )


def _packed(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
