"""`/v1/moderations`: which of a task's labels hold for texts, as OpenAI's clients ask whether a text is to be flagged."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call
from softprompt.http.schemas import Body, Fingerprint, Input, Model, ModelBody, RoutedTo, Usage, or_hint
from softprompt.serving.answers import Choice

router = APIRouter(route_class=StrictRoute, tags=["answers"])

MODERATION = "moderation"
"""The task that is asked where the client names none."""


class ModeratedText(Body):
    """A text, as OpenAI's clients send it where images may stand beside it."""

    type: Literal["text"] = Field(description="Only text is supported.")
    text: Input


class ModerationRequest(ModelBody):
    """Say of each text which labels of a task hold, through its template."""

    model: Model = Field(
        MODERATION, description=f"A task whose answers are sets of labels; without it the task called `{MODERATION}`."
    )
    input: Annotated[
        Input
        | Annotated[list[Input], Field(min_length=1)]
        | Annotated[list[ModeratedText], Field(min_length=1, max_length=1)],
        or_hint(
            'give a text, a list of texts, none of them empty, or one part such as {"type": "text", "text": "..."}; images '
            "are not supported"
        ),
    ] = Field(description="A text, a list of texts, or a list of one part.", examples=["Who wrote Faust?"])

    @property
    def inputs(self) -> list[str]:
        """The texts."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [one if isinstance(one, str) else one.text for one in given]


class ModeratedRow(BaseModel):
    """What is said of one text. The task's labels are in it and no others: what a task does not judge, it does not clear."""

    flagged: bool = Field(description="Whether any label holds.")
    categories: dict[str, bool] = Field(description="Whether each label holds.")
    category_applied_input_types: dict[str, list[Literal["text"]]]
    category_scores: dict[str, float] = Field(description="The probability of each label by itself.")


class ModerationAnswer(BaseModel):
    """What is said of texts, in order."""

    id: str
    model: str = Field(description="What answered: `task@3`.")
    system_fingerprint: Fingerprint
    results: list[ModeratedRow]
    truncated: int = Field(description="Inputs that were cut to fit the context.")
    usage: Usage
    routed: RoutedTo = None


def _row(row: Choice) -> ModeratedRow:
    held = row.said.labels or ()
    return ModeratedRow(
        flagged=bool(held),
        categories={label: label in held for label in row.scores},
        category_applied_input_types={label: ["text"] for label in row.scores},
        category_scores=row.scores,
    )


@router.post("/v1/moderations", response_model=ModerationAnswer, dependencies=[Depends(need("predict"))])
async def moderate(request: Request, body: ModerationRequest) -> Response:
    """Which labels of a task hold for each text, by the threshold that its training chose, and whether any does. The task's
    answers must be sets of labels, which are the categories; call them as OpenAI does and its clients find them by name."""
    call = Call(request, body, "input")
    call.limits.check_rows(len(body.inputs), "input")
    with call.asking(0):
        async with call.connected():
            answer = await call.service.classify(call.tenant, body.model, body.inputs, sets=True, **call.asker)
        usage = call.settle([answer.head], 0)
    return respond(
        ModerationAnswer(
            id=call.name("modr", answer.head),
            model=answer.head.model,
            system_fingerprint=answer.head.system_fingerprint,
            results=[_row(row) for row in answer.rows],
            truncated=answer.truncated,
            usage=usage,
            routed=None if answer.head.routed is None else answer.head.routed.row(),
        )
    )
