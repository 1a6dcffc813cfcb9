"""`/v1/classify`: the likeliest label of each input, through a task's template."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictStr
from starlette.responses import Response

from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call
from softprompt.http.schemas import Fingerprint, Input, ModelBody, RoutedTo, Usage, or_hint

router = APIRouter(route_class=StrictRoute, tags=["answers"])


class ClassifyRequest(ModelBody):
    """Give each input the likeliest label of a task, through its template."""

    input: Annotated[
        Input | Annotated[list[Input], Field(min_length=1)], or_hint("give a text, or a list of texts, none of them empty")
    ] = Field(description="A text, or a list of texts.", examples=["Who wrote Faust?"])
    user: StrictStr | None = Field(None, description="For the client's own book-keeping; not looked at.")

    @property
    def inputs(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifiedRow(BaseModel):
    """The answer to one input."""

    index: int
    label: str
    scores: dict[str, float] = Field(description="The probability of each label.")


class ClassifyAnswer(BaseModel):
    """The likeliest label of each input."""

    object: Literal["list"] = "list"
    model: str = Field(description="What answered: `task@3`.")
    system_fingerprint: Fingerprint
    data: list[ClassifiedRow]
    truncated: int = Field(description="Inputs that were cut to fit the context.")
    usage: Usage
    routed: RoutedTo = None


@router.post("/v1/classify", response_model=ClassifyAnswer, dependencies=[Depends(need("predict"))])
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """The likeliest label of each input, and the probability of each label."""
    call = Call(request, body, "input")
    call.limits.check_rows(len(body.inputs), "input")
    with call.asking(0):
        async with call.connected():
            answer = await call.service.classify(call.tenant, body.model, body.inputs)
        usage = call.settle([answer.head], 0)
    return respond(
        ClassifyAnswer(
            model=answer.head.model,
            system_fingerprint=answer.head.system_fingerprint,
            data=[ClassifiedRow(index=at, label=row.label, scores=row.scores) for at, row in enumerate(answer.rows)],
            truncated=answer.truncated,
            usage=usage,
            routed=None if answer.head.routed is None else answer.head.routed.row(),
        )
    )
