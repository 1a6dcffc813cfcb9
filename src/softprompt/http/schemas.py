"""The bodies of requests. A field that would change the answer and that is not supported is refused, never ignored."""

from __future__ import annotations

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

from softprompt.engines.protocol import Sampling
from softprompt.errors import nearest

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that does not say, as OpenAI's."""

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
MaxTokens = Annotated[StrictInt, Field(ge=1, description="Most tokens of an answer.")]


class Body(BaseModel):
    """Strict, and closed: an unknown field is told, with the nearest known one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                known = [field for field in cls.model_fields if field not in UNSUPPORTED]
                raise _refused(str(name), f"unknown field {name!r}{nearest(str(name), known)}", "unknown_parameter")
        return data


def _refused(field: str | None, message: str, code: str = "invalid_value") -> PydanticCustomError:
    return PydanticCustomError("refused", "{said}", {"said": message, "param": field, "code": code})


def _or_say(hint: str) -> WrapValidator:
    """Of a value that is none of several kinds, say what it may be instead of what it is not, kind by kind."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise _refused(None, hint) from None

    return WrapValidator(check)


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's API that are not supported, with the values that ask for nothing, which are let pass as null is."""

Unsupported = Annotated[Any, Field(default=None, description="Not supported: refused unless it asks for nothing.")]


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: StrictBool | None = Field(None, description="Send the counts of tokens before the end.")
    include_obfuscation: StrictBool | None = Field(None, description="Taken and of no effect: nothing is padded.")


class Generation(Body):
    """What completions and chats have in common."""

    model: Model
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = Field(None, description="Answers to each prompt; 1.")
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop: (
        Annotated[
            Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)],
            _or_say(
                f"give a text, or a list of at most {MOST_STOPS} texts, none of them empty or longer than 1000 characters"
            ),
        ]
        | None
    ) = Field(None, description="Texts that end the answer and are not part of it.")
    seed: Seed | None = None
    stream: StrictBool | None = Field(None, description="Send the answer in pieces, as server-sent events.")
    stream_options: StreamOptions | None = None
    user: StrictStr | None = Field(None, description="For the client's own book-keeping; not looked at.")
    metadata: dict[str, Any] | None = Field(None, description="For the client's own book-keeping; not kept.")

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Generation:
        for name, neutral in UNSUPPORTED.items():
            value = getattr(self, name, None)
            if value is not None and not any(value == one and type(value) in _alike(one) for one in neutral):
                raise _refused(name, f"{name} is not supported; leave it out", "unsupported_parameter")
        if self.stream_options is not None and not self.stream:
            raise _refused("stream_options", "stream_options is for streams only; set stream to true, too")
        return self

    @property
    def count(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    def _sampling(self, max_tokens: int, logprobs: int | None) -> Sampling:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            temperature=float(self.temperature or 0.0),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            top_k=self.top_k or 0,
            stop=stop,
            seed=self.seed,
            logprobs=logprobs,
        )


def _alike(neutral: Any) -> tuple[type, ...]:
    # 0 and 0.0 are alike; 0 and false, which Python takes for equal, are not.
    return (int, float) if type(neutral) is int else (type(neutral),)


class CompletionRequest(Generation):
    """Continue raw text: no template is put around it."""

    prompt: Annotated[
        Input | Annotated[list[Input], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)],
        _or_say("give a text, token ids, or a list of texts or of lists of token ids, none of them empty"),
    ] = Field(description="Text, token ids, or a list of either.", examples=["Question: Who wrote Faust?\nType:"])
    max_tokens: MaxTokens | None = Field(None, description=f"Most tokens of an answer; {COMPLETION_TOKENS}.")
    logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Log-probabilities of each token and of so many of the likeliest."
    )
    best_of: Unsupported
    echo: Unsupported
    frequency_penalty: Unsupported
    logit_bias: Unsupported
    presence_penalty: Unsupported
    suffix: Unsupported

    @property
    def prompts(self) -> list[str | list[int]]:
        """The inputs, one for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[part for part in self.prompt if isinstance(part, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]

    def sampling(self) -> Sampling:
        """How the continuation is drawn."""
        return self._sampling(self.max_tokens or COMPLETION_TOKENS, self.logprobs)


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"] = Field(description="Only text is supported.")
    text: StrictStr


class ChatMessage(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        StrictStr | Annotated[list[TextPart], Field(min_length=1)],
        _or_say('give a text, or a list of parts such as {"type": "text", "text": "..."}; nothing but text is supported'),
    ]
    name: StrictStr | None = Field(None, description="Not shown to the model.")

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """Answer a conversation through the task's template."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)] = Field(
        examples=[[{"role": "user", "content": "Who wrote Faust?"}]]
    )
    max_tokens: MaxTokens | None = Field(None, description="Most tokens of the answer; the task's own bound.")
    max_completion_tokens: MaxTokens | None = Field(None, description="The newer name of max_tokens.")
    logprobs: StrictBool | None = Field(None, description="Give the log-probability of each token.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="And of so many of the likeliest in its place."
    )
    audio: Unsupported
    frequency_penalty: Unsupported
    function_call: Unsupported
    functions: Unsupported
    logit_bias: Unsupported
    modalities: Unsupported
    parallel_tool_calls: Unsupported
    prediction: Unsupported
    presence_penalty: Unsupported
    reasoning_effort: Unsupported
    response_format: Unsupported
    store: Unsupported
    tool_choice: Unsupported
    tools: Unsupported
    verbosity: Unsupported
    web_search_options: Unsupported

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise _refused("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise _refused("top_logprobs", "top_logprobs needs logprobs; set logprobs to true, too")
        return self

    @property
    def asked(self) -> int | None:
        """Most tokens that the client wants, where it says."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, unasked: int) -> Sampling:
        """How the answer is drawn; `unasked` tokens at most where the client does not say."""
        return self._sampling(self.asked or unasked, (self.top_logprobs or 0) if self.logprobs else None)


class ClassifyRequest(Body):
    """Give each input the likeliest label of a task, through its template."""

    model: Model
    input: Annotated[
        Input | Annotated[list[Input], Field(min_length=1)], _or_say("give a text, or a list of texts, none of them empty")
    ] = Field(description="A text, or a list of texts.", examples=["Who wrote Faust?"])
    user: StrictStr | None = Field(None, description="For the client's own book-keeping; not looked at.")

    @property
    def inputs(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input
