"""The bodies of answers, in OpenAI's shapes; `system_fingerprint` names base and prompt, `routed` what `auto` chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from softprompt.engines.protocol import TokenProbability
from softprompt.serving.service import Classified, Completion, ModelRow

Fingerprint = Annotated[str, Field(description="The base's fingerprint and the prompt's digest, shortened.")]
RoutedTo = Annotated[
    dict[str, str | float] | None,
    Field(description="With `auto`: the task that was chosen, and how near it is.", exclude_if=lambda value: value is None),
]


class Usage(BaseModel):
    """Tokens of a request; those of soft prompts are not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation of one prompt."""

    index: int = Field(description="Counts the `n` answers to the first prompt, then those to the second, ...")
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionAnswer(BaseModel):
    """Continuations."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str = Field(description="What answered: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    choices: list[CompletionChoice]
    usage: Usage | None = None
    routed: RoutedTo = None


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="In UTF-8; null for a token that is part of a character.")


class TokenLogprob(TopLogprob):
    """A token of an answer, with the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


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
    finish_reason: Literal["stop", "length"]


class ChatAnswer(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = Field(description="What answered: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    choices: list[ChatChoice]
    usage: Usage
    routed: RoutedTo = None


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


class ModelObject(BaseModel):
    """A model that requests may name: a task with a prompt on this base, or the base itself."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds; 0 for the base.")
    owned_by: str = Field(description="The tenant; `softprompt` for the base.")
    task: str | None = Field(description="null for the base.")
    version: int | None = Field(description="The version that `id` means.")
    versions: list[int] = Field(description="Each can be named `task@N`.")
    aliases: dict[str, int] = Field(description="Each can be named `task@alias`.")
    system_fingerprint: Fingerprint


class ModelList(BaseModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """The counts of a request."""
    return Usage(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=prompt_tokens + completion_tokens
    )


def model_object(row: ModelRow, tenant: str) -> ModelObject:
    """A model as it is listed."""
    return ModelObject(
        id=row.id,
        created=row.created,
        owned_by="softprompt" if row.task is None else tenant,
        task=row.task,
        version=row.version,
        versions=list(row.versions),
        aliases=row.aliases,
        system_fingerprint=row.system_fingerprint,
    )


def classified(answer: Classified) -> ClassifyAnswer:
    """The answer to a classification."""
    rows = [ClassifiedRow(index=at, label=row.label, scores=row.scores) for at, row in enumerate(answer.rows)]
    return ClassifyAnswer(
        model=answer.head.model,
        system_fingerprint=answer.head.system_fingerprint,
        data=rows,
        truncated=answer.truncated,
        usage=usage(answer.head.input_tokens, 0),
        routed=None if answer.head.routed is None else answer.head.routed.row(),
    )


def completion_logprobs(tokens: Sequence[TokenProbability], offset: int = 0) -> CompletionLogprobs:
    """Log-probabilities as completions give them; `offset` is where the first token stands in the text."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return CompletionLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        # Reversed, so that of two tokens with one text the likelier one stays.
        top_logprobs=[
            {token.text: token.logprob} | {text: value for _, text, value in reversed(token.top)} for token in tokens
        ],
        text_offset=offsets,
    )


def chat_logprobs(tokens: Sequence[TokenProbability]) -> ChatLogprobs:
    """Log-probabilities as chats give them."""

    def told(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    return ChatLogprobs(
        content=[
            TokenLogprob(
                **told(token.text, token.logprob),
                top_logprobs=[TopLogprob(**told(text, logprob)) for _, text, logprob in token.top],
            )
            for token in tokens
        ]
    )


def completion_choice(index: int, answer: Completion, *, with_logprobs: bool) -> CompletionChoice:
    """One continuation."""
    logprobs = completion_logprobs(answer.tokens) if with_logprobs else None
    return CompletionChoice.model_validate(
        {"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish}
    )


def chat_choice(index: int, answer: Completion, *, with_logprobs: bool) -> ChatChoice:
    """One answer to a conversation."""
    logprobs = chat_logprobs(answer.tokens) if with_logprobs else None
    return ChatChoice.model_validate(
        {"index": index, "message": {"content": answer.text}, "logprobs": logprobs, "finish_reason": answer.finish}
    )
