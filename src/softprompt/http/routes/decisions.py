"""`/v1/decisions`: questions about an input, answered with probabilities; in the shape of OpenAI's."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from softprompt.http.auth import need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.call import Call
from softprompt.http.routes.questions import DecisionRequest
from softprompt.http.schemas import Fingerprint, RoutedTo
from softprompt.serving.decisions.answers import Answer

router = APIRouter(route_class=StrictRoute, tags=["answers"])


class PredicateAnswer(BaseModel):
    """How likely a statement is true."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class ChoiceProbability(BaseModel):
    """How likely a value is."""

    value: str | bool
    probability: float


class ChoiceAnswer(BaseModel):
    """The likeliest value."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: str | bool
    confidence: float = Field(description="The probability of the choice.")
    probabilities: list[ChoiceProbability] = Field(description="In the order of the choices.")


class ScoreProbability(BaseModel):
    """How likely a level is."""

    label: str
    value: int = Field(description="Its place among the levels, from 0.")
    probability: float


class ScoreAnswer(BaseModel):
    """Where on ordered levels the input lies."""

    type: Literal["score"] = "score"
    name: str | None
    score: float = Field(description="The expected value of the levels.")
    confidence: float = Field(description="The probability of the likeliest level.")
    probabilities: list[ScoreProbability] = Field(description="In the order of the levels.")


class RefusedAnswer(BaseModel):
    """A question that is not answered; the others are."""

    type: Literal["refusal"] = "refusal"
    name: str | None
    reason: str = Field(description="Why: the task was not tuned for it, or it does not fit the context.")


class InputTokens(BaseModel):
    """Tokens of caches: none are told apart."""

    cache_write_tokens: int = 0
    cached_tokens: int = 0


class OutputTokens(BaseModel):
    """Tokens of answers: none are written."""

    reasoning_tokens: int = 0


class DecisionUsage(BaseModel):
    """Tokens of a request: the input once, and each question that the base reads; those of soft prompts are not counted."""

    input_tokens: int
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class DecisionAnswer(BaseModel):
    """The answers to the questions, in order."""

    id: str
    object: Literal["decision"] = "decision"
    model: str = Field(description="What answered: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusedAnswer]
    truncated: bool = Field(description="Whether the input was cut to fit the context.")
    usage: DecisionUsage
    routed: RoutedTo = None


def _shape(answer: Answer) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusedAnswer:
    question, chances = answer.question, answer.probabilities
    if answer.refusal is not None:
        return RefusedAnswer(name=question.name, reason=answer.refusal)
    if question.type == "predicate":
        return PredicateAnswer(name=question.name, probability=chances[0])
    if question.type == "choice":
        pairs = zip(question.values, chances, strict=True)
        return ChoiceAnswer(
            name=question.name,
            choice=answer.choice,
            confidence=answer.confidence,
            probabilities=[ChoiceProbability(value=value, probability=chance) for value, chance in pairs],
        )
    levels = zip(question.values, chances, strict=True)
    return ScoreAnswer(
        name=question.name,
        score=answer.score,
        confidence=answer.confidence,
        probabilities=[
            ScoreProbability(label=str(label), value=place, probability=chance)
            for place, (label, chance) in enumerate(levels)
        ],
    )


@router.post("/v1/decisions", response_model=DecisionAnswer, dependencies=[Depends(need("predict"))])
async def decide(request: Request, body: DecisionRequest) -> Response:
    """Probabilities for questions about an input: predicates, choices and scores. A task answers the question that it was
    tuned for, calibrated on its validation rows; the base's name answers any, untuned."""
    call = Call(request, body, "input")
    messages, questions = [item.message for item in body.input], [one.question for one in body.questions]
    with call.asking(0):
        async with call.connected():
            decided = await call.service.decide(call.tenant, body.model, messages, questions, **call.asker)
        usage = call.settle([decided.head], 0)
    return respond(
        DecisionAnswer(
            id=call.name("decision", decided.head),
            model=decided.head.model,
            system_fingerprint=decided.head.system_fingerprint,
            answers=[_shape(answer) for answer in decided.answers],
            truncated=decided.truncated,
            usage=DecisionUsage(input_tokens=usage.prompt_tokens, total_tokens=usage.total_tokens),
            routed=None if decided.head.routed is None else decided.head.routed.row(),
        )
    )
