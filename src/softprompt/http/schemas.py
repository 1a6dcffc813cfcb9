"""What bodies have in common: requests, whole answers, and the chunks of answers that come in pieces.

In a request a field that would change the answer and that is not supported is refused, never ignored. An answer's
`system_fingerprint` names base and prompt, and its `routed` what `auto` chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from softprompt.bases.grammar import ANY_OBJECT, schema_text
from softprompt.engines.protocol import Sampling
from softprompt.errors import ConfigError, nearest

MOST_STOPS = 16
MOST_LOGPROBS = 20
LARGEST_ID = (1 << 31) - 1

TokenId = Annotated[StrictInt, Field(ge=0, le=LARGEST_ID)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Input = Annotated[StrictStr, Field(min_length=1)]
Model = Annotated[
    StrictStr,
    Field(
        min_length=1,
        max_length=300,
        description="`task`, `task@3`, `task@production`, the base's own name for no prompt, or `auto`.",
        examples=["trec6"],
    ),
]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=1000)]

Temperature = Annotated[StrictFloat, Field(ge=0, le=2, description="0, the default, always takes the likeliest token.")]
TopP = Annotated[StrictFloat, Field(gt=0, le=1, description="Draw from the fewest tokens whose probability reaches this.")]
TopK = Annotated[StrictInt, Field(ge=0, le=LARGEST_ID, description="Draw from so many of the likeliest; 0 for all.")]
Seed = Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63, description="Equal seeds give equal answers.")]
MaxTokensOrNone = Annotated[StrictInt, Field(ge=0, description="Most tokens of an answer; 0 with `echo` alone.")]
MaxTokens = Annotated[StrictInt, Field(ge=1, description="Most tokens of an answer.")]


class Body(BaseModel):
    """Strict, and closed: an unknown field is refused, with the nearest known one in the message."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        names = {field.alias or name for name, field in cls.model_fields.items()}
        for name in data if isinstance(data, dict) else ():
            if name not in names:
                known = [field for field in cls.model_fields if field not in UNSUPPORTED | UNSUPPORTED_IN_MESSAGES]
                raise refused(str(name), f"unknown field {name!r}{nearest(str(name), known)}", "unknown_parameter")
        return data


def refused(field: str | None, message: str, code: str = "invalid_value") -> PydanticCustomError:
    """What validators raise to refuse a field, or where it is None the value in hand."""
    return PydanticCustomError("refused", "{message}", {"message": message, "param": field, "code": code})


def or_hint(hint: str) -> WrapValidator:
    """For a value that is none of several kinds: the message has what it may be instead of what it is not, kind by kind."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise refused(None, hint) from None

    return WrapValidator(check)


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "service_tier": ("auto", "default"),
    "web_search_options": (),
}
"""Fields of OpenAI's API that are not supported, with the values that ask for nothing, which are let pass as null is."""

Hint = Annotated[Any, Field(default=None, description="Taken and of no effect: it changes no answer.")]

UNSUPPORTED_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_calls": ([],),
}
"""The same of the fields of a message: answers come back as OpenAI's clients have them, with all of them null."""

Unsupported = Annotated[Any, Field(default=None, description="Not supported: refused unless it asks for nothing.")]


def refuse_unsupported(body: Body, fields: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises the refusal of the first of these fields that asks for something."""
    for name, neutral in fields.items():
        value = getattr(body, name, None)
        if value is not None and not any(value == one and type(value) in _alike(one) for one in neutral):
            raise refused(name, f"{name} is not supported; leave it out", "unsupported_parameter")


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: StrictBool | None = Field(None, description="Send the counts of tokens before the end.")
    include_obfuscation: StrictBool | None = Field(None, description="Taken and of no effect: nothing is padded.")


class ModelBody(Body):
    """What asks a model for an answer."""

    model: Model
    user: StrictStr | None = Field(
        None,
        description="Whose request it is: one who has a personal version of the task gets that for its bare name, all "
        "others the shared prompt.",
    )


class JsonSchema(Body):
    """The JSON that an answer must be."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The client's own name for it.")]
    description: StrictStr | None = Field(None, description="Not shown to the model.")
    schema_: Annotated[dict[str, Any], Field(alias="schema", description="A JSON schema; keys are written in its order.")]
    strict: StrictBool | None = Field(None, description="Either way no token is chosen that the schema does not allow.")


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def check_schema(schema: dict[str, Any], field: str) -> str:
    """A schema as the service takes it. Raises the refusal of the field where it cannot be compiled."""
    try:
        return schema_text(schema, field)
    except ConfigError as error:
        raise refused(field, str(error)) from None


class Generation(ModelBody):
    """What completions and chats have in common."""

    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = Field(None, description="Answers to each prompt; 1.")
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop: (
        Annotated[
            Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)],
            or_hint(
                f"give a text, or a list of at most {MOST_STOPS} texts, none of them empty or longer than 1000 characters"
            ),
        ]
        | None
    ) = Field(None, description="Texts that end the answer and are not part of it.")
    seed: Seed | None = None
    stream: StrictBool | None = Field(None, description="Send the answer in pieces, as server-sent events.")
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="For the client's own book-keeping; not kept.")
    response_format: ResponseFormat | None = Field(
        None, description="What the answer must be: text, any JSON object, or JSON of a schema."
    )
    _schema: str | None = None

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Generation:
        refuse_unsupported(self, UNSUPPORTED)
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "stream_options is for streams only; set stream to true, too")
        if isinstance(self.response_format, JsonObjectFormat):
            self._schema = ANY_OBJECT
        elif isinstance(self.response_format, JsonSchemaFormat):
            self._schema = check_schema(self.response_format.json_schema.schema_, "response_format")
        return self

    @property
    def schema_asked(self) -> str | None:
        """The schema that the answer must be of, as text."""
        return self._schema

    @property
    def any_text_asked(self) -> bool:
        """Whether the answer may be any text, in so many words."""
        return isinstance(self.response_format, TextFormat)

    @property
    def count(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def draws(self, max_tokens: int, logprobs: int | None) -> list[Sampling]:
        """How each of the answers to one prompt is drawn: the first with the request's seed, the others with the next."""
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=float(self.temperature or 0.0),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            top_k=self.top_k or 0,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            logprobs=logprobs,
        )
        if sampling.seed is None:
            return [sampling] * self.count
        return [replace(sampling, seed=sampling.seed + at) for at in range(self.count)]


def _alike(neutral: Any) -> tuple[type, ...]:
    # 0 and 0.0 are alike; 0 and false, which Python takes for equal, are not.
    return (int, float) if type(neutral) is int else (type(neutral),)


Finish = Annotated[str, Field(description="`stop` or `length`.", json_schema_extra={"enum": ["stop", "length"]})]
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

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Usage:
        """The counts of a request, with their sum."""
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class Generated(BaseModel):
    """A whole answer."""

    id: str
    object: str
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="What answered: `task@3`, or the base's name.")
    system_fingerprint: Fingerprint
    choices: Sequence[BaseModel]
    usage: Usage
    routed: RoutedTo = None


class Chunk(BaseModel):
    """A part of an answer."""

    id: str
    created: int
    model: str
    system_fingerprint: Fingerprint
    routed: RoutedTo = None
    object: str
    usage: Usage | None = Field(default=None, description="On the last chunk, where it is asked for; else not there.")
    choices: Sequence[BaseModel]
