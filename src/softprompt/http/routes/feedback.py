"""`/v1/feedback`: what a client says of an answer: how good it was, and what would have been right."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from starlette.responses import Response

from softprompt.http.auth import caller_of, need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.schemas import Body, Input, Model, or_hint, refused
from softprompt.http.state import state_of
from softprompt.lifecycle.feedback import take
from softprompt.names import parse_own_ref

router = APIRouter(route_class=StrictRoute, tags=["feedback"])

Share = Annotated[StrictInt | StrictFloat, Field(ge=0, le=1)]
Number = StrictInt | StrictFloat


class Correction(Body):
    """An answer as it should have been. It is kept, to be learnt."""

    input: Annotated[
        Input | Annotated[dict[str, StrictStr | Number], Field(min_length=1)],
        or_hint("give the text that was sent, or an object with the columns of the task's input"),
    ]
    answer: Annotated[
        StrictStr | Number | Annotated[list[StrictStr], Field(min_length=1)],
        or_hint("give the right answer: a text or a number, or for sets of labels a list"),
    ]


class FeedbackRequest(Body):
    """Say how good an answer was. Which answer: by `id`, or by `model` and `user`."""

    id: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = Field(
        None, description="The answer's `id`, or its header `x-request-id`. What is said of one twice counts once."
    )
    model: Model | None = Field(None, description="What was asked for; needed where the id is one of the client's own.")
    user: StrictStr | None = Field(None, description="Whose request it was, where it had a `user`.")
    outcome: Annotated[StrictBool | Share, or_hint("give true or false, or a number from 0 to 1")] | None = Field(
        None, description="Whether it was good, or how good from 0 to 1."
    )
    comment: Annotated[StrictStr, Field(max_length=4000)] | None = None
    correct: Correction | None = Field(None, description="What would have been right.")

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackRequest:
        if self.id is None and self.model is None:
            raise refused("id", "id is missing; give the answer's id, or model and user")
        if self.outcome is None and self.correct is None and self.comment is None:
            raise refused("outcome", "nothing is said of the answer; give outcome, correct or comment")
        return self


class FeedbackAnswer(BaseModel):
    """What became of it."""

    id: str = Field(description="By which it is known again.")
    object: Literal["feedback"] = "feedback"
    model: str = Field(description="What had answered: `task@3`, or of a user's own `task~user@3`.")
    experiment: int | None = Field(description="Of which the answer was part.")
    arm: str | None = Field(description="`control` or `candidate`.")
    recorded: bool = Field(description="False where that answer has been spoken of before: then that stays.")
    counted: bool = Field(description="Whether the outcome counts in an experiment that runs.")


@router.post("/v1/feedback", response_model=FeedbackAnswer, dependencies=[Depends(need("predict"))])
async def feedback(request: Request, body: FeedbackRequest) -> Response:
    """Say how good an answer was, or what would have been right; any server of the library may be told."""
    caller = caller_of(request)
    library = state_of(request).service.residents.tenant_library(caller.tenant)
    user = caller.require_user(body.user)
    if body.model is not None:
        caller.require_user(parse_own_ref(body.model)[1])
    taken = await asyncio.to_thread(
        take,
        library,
        name=body.id,
        model=body.model,
        user=user,
        key=caller.name or None,
        outcome=None if body.outcome is None else float(body.outcome),
        comment=body.comment,
        correct=None if body.correct is None else body.correct.model_dump(),
    )
    return respond(
        FeedbackAnswer(
            id=taken.name,
            model=taken.ref,
            experiment=taken.experiment,
            arm=taken.arm,
            recorded=taken.new,
            counted=taken.counted,
        )
    )
