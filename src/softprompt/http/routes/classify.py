"""`/v1/classify`: the likeliest label of each input, through a task's template."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call
from softprompt.http.schemas import Fingerprint, Input, ModelBody, RoutedTo, Usage, or_hint
from softprompt.serving.answers import Choice
from softprompt.tasks.answers.kinds import NUMBER, SET

router = APIRouter(route_class=StrictRoute, tags=["answers"])


class ClassifyRequest(ModelBody):
    """Give each input the likeliest label of a task, through its template."""

    input: Annotated[
        Input | Annotated[list[Input], Field(min_length=1)], or_hint("give a text, or a list of texts, none of them empty")
    ] = Field(description="A text, or a list of texts.", examples=["Who wrote Faust?"])

    @property
    def inputs(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifiedRow(BaseModel):
    """The answer to one input."""

    index: int
    label: str
    scores: dict[str, float] = Field(description="The probability of each label.")


class ClassifiedSet(ClassifiedRow):
    """The answer to one input of a task whose answers are sets of labels."""

    label: str = Field(description="The labels that hold, with a semicolon between them; empty where none does.")
    scores: dict[str, float] = Field(description="The probability of each label by itself.")
    labels: list[str] = Field(description="The labels that hold.")


class ClassifiedNumber(ClassifiedRow):
    """The answer to one input of a task whose answers are numbers."""

    label: str = Field(description="The nearest of the ordered labels; without labels what was generated.")
    scores: dict[str, float] = Field(description="The probability of each label; empty without labels.")
    value: float | None = Field(description="The number, within its range; null where none was generated.")


class ClassifyAnswer(BaseModel):
    """The likeliest label of each input."""

    id: str
    object: Literal["list"] = "list"
    model: str = Field(description="What answered: `task@3`.")
    system_fingerprint: Fingerprint
    data: list[ClassifiedSet | ClassifiedNumber | ClassifiedRow]
    truncated: int = Field(description="Inputs that were cut to fit the context.")
    usage: Usage
    routed: RoutedTo = None


def _row(at: int, row: Choice, problem_type: str | None) -> ClassifiedRow:
    """An answer in the shape of its kind."""
    if problem_type == SET:
        return ClassifiedSet(index=at, label=row.label, scores=row.scores, labels=list(row.said.labels or ()))
    if problem_type == NUMBER:
        return ClassifiedNumber(index=at, label=row.label, scores=row.scores, value=row.said.value)
    return ClassifiedRow(index=at, label=row.label, scores=row.scores)


@router.post("/v1/classify", response_model=ClassifyAnswer, dependencies=[Depends(need("predict"))])
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """The likeliest label of each input, and the probability of each label; of sets all labels that hold, and of numbers the
    number."""
    call = Call(request, body, "input")
    call.limits.check_rows(len(body.inputs), "input")
    with call.asking(0):
        async with call.connected():
            answer = await call.service.classify(call.tenant, body.model, body.inputs, **call.asker)
        usage = call.settle([answer.head], 0)
    return respond(
        ClassifyAnswer(
            id=call.name("classify", answer.head),
            model=answer.head.model,
            system_fingerprint=answer.head.system_fingerprint,
            data=[_row(at, row, answer.problem_type) for at, row in enumerate(answer.rows)],
            truncated=answer.truncated,
            usage=usage,
            routed=None if answer.head.routed is None else answer.head.routed.row(),
        )
    )
