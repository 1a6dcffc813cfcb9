"""What requests for decisions say: inputs as a text or items of a conversation, and the questions about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, field_validator, model_validator

from softprompt.http.schemas import Body, Hint, ModelBody, or_hint, refused
from softprompt.serving.answers import Message
from softprompt.tasks.answers.decision import MOST_CHOICES, MOST_LEVELS, Option, Question, check_options

MOST_QUESTIONS = 400
MOST_OPTIONS = 10_000
"""Of all questions of a request together."""
MOST_LEVELS_OF_JSON, MOST_VALUES_OF_JSON, MOST_BYTES_OF_JSON = 32, 10_000, 256 << 10


class InputPart(Body):
    """A part of a text."""

    type: Literal["input_text", "input_json", "output_text", "refusal", "input_image"] = Field(
        description="`input_text`; `input_json` for a value that is read as JSON; of the assistant `output_text` or "
        "`refusal`. `input_image` is refused."
    )
    text: StrictStr | None = Field(None, description="Of input_text and output_text.")
    data: Annotated[dict[str, Any] | list[dict[str, Any]], or_hint("give an object, or a list of objects")] | None = Field(
        None, description="Of input_json: an object or a list of objects."
    )
    refusal: StrictStr | None = Field(None, description="Of refusal: what was said.")
    image_url: Any = Field(default=None, description="Not supported.")
    detail: Any = Field(default=None, description="Not supported.")
    prompt_cache_breakpoint: Hint

    @model_validator(mode="after")
    def _of_its_type(self) -> InputPart:
        if self.type == "input_image":
            raise refused(
                "type", "input_image is not supported, as bases read text; leave images out", "unsupported_parameter"
            )
        own = {"input_text": "text", "input_json": "data", "output_text": "text", "refusal": "refusal"}[self.type]
        for name in ("text", "data", "refusal", "image_url", "detail"):
            if (getattr(self, name) is None) != (name != own):
                raise refused(name, f"{name}: {self.type} {'needs it' if name == own else 'has none'}; {_mend(name == own)}")
        if self.data is not None:
            _check_json(self.data)
        return self

    @property
    def words(self) -> str:
        """What is read."""
        if self.data is not None:
            return json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        return self.text or self.refusal or ""


def _mend(needed: bool) -> str:
    return "give it" if needed else "leave it out"


def _check_json(data: Any) -> None:
    """Raises the refusal of a value that is too deep, too long or too large."""
    if len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()) > MOST_BYTES_OF_JSON:
        raise refused("data", f"data: it is longer than {MOST_BYTES_OF_JSON} bytes; send less")
    if sum(1 for _ in _values(data)) > MOST_VALUES_OF_JSON:
        raise refused("data", f"data: it holds more than {MOST_VALUES_OF_JSON} values; send less")
    if max(depth for depth in _values(data)) > MOST_LEVELS_OF_JSON:
        raise refused("data", f"data: it is nested in more than {MOST_LEVELS_OF_JSON} levels; send less")


def _values(data: Any, depth: int = 0) -> Iterator[int]:
    """For each value, how many objects and lists it is in or is."""
    depth += isinstance(data, dict | list)
    yield depth
    if depth > MOST_LEVELS_OF_JSON:
        return
    for one in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _values(one, depth)


def _as_parts(given: Any) -> Any:
    return [{"type": "input_text", "text": given}] if isinstance(given, str) else given


Words = Annotated[
    list[InputPart],
    Field(min_length=1),
    BeforeValidator(_as_parts, json_schema_input_type=StrictStr | Annotated[list[InputPart], Field(min_length=1)]),
]
"""A text, or its parts."""

_PARTS = {
    "user": ("input_text", "input_json"),
    "developer": ("input_text",),
    "system": ("input_text",),
    "assistant": ("input_text", "output_text", "refusal"),  # a plain text becomes the first of them
}


def read(parts: list[InputPart]) -> str:
    """The text of parts."""
    return "\n".join(part.words for part in parts)


def _call(name: str) -> Any:
    return Field(None, description=f"Of {name}.")


class InputItem(Body):
    """An item of a conversation: a message, a call of a tool, or its output. A base reads a transcript of them."""

    type: Literal["message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"] = (
        "message"
    )
    role: Literal["user", "developer", "system", "assistant"] | None = _call("messages")
    content: Words | None = _call("messages")
    call_id: StrictStr | None = _call("calls and their outputs")
    name: StrictStr | None = _call("calls")
    arguments: StrictStr | None = _call("function calls: JSON")
    input: StrictStr | None = _call("custom tool calls")
    output: Words | None = _call("outputs")
    id: Hint
    namespace: Hint
    phase: Hint
    status: Hint

    @model_validator(mode="after")
    def _of_its_type(self) -> InputItem:
        needs = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "custom_tool_call": ("call_id", "name", "input"),
        }.get(self.type, ("call_id", "output"))
        for name in ("role", "content", "call_id", "name", "arguments", "input", "output"):
            if (getattr(self, name) is None) != (name not in needs):
                needed = name in needs
                raise refused(name, f"{name}: a {self.type} {'needs it' if needed else 'has none'}; {_mend(needed)}")
        for part in self.content or ():
            if part.type not in (may := _PARTS[self.role or "user"]):
                raise refused("content", f"content: a {self.role}'s message has no {part.type}; give {' or '.join(may)}")
        if self.output and any(part.type != "input_text" for part in self.output):
            raise refused("output", "output: it has other parts than input_text; give a text, or parts of that type")
        return self

    @property
    def message(self) -> Message:
        """What is read of it."""
        if self.content is not None:
            return Message(self.role or "user", read(self.content))
        if self.output is not None:
            return Message("tool", read(self.output))
        return Message("assistant", f"{self.name}({self.arguments if self.arguments is not None else self.input})")


class ChoiceOption(Body):
    """A value to choose."""

    value: Annotated[StrictStr | StrictBool, or_hint("give a text, or true or false")]
    description: StrictStr | None = Field(None, description="When it holds.")


class ScoreLevel(Body):
    """A level of a score."""

    label: StrictStr
    description: StrictStr | None = Field(None, description="When it holds.")


class QuestionBody(Body):
    """A question about the input."""

    type: Literal["predicate", "choice", "score"] = Field(
        description="`predicate`: whether a statement is true; `choice`: which of some values holds; `score`: where on "
        "ordered levels it lies."
    )
    instructions: Words = Field(description="The statement; what to choose, or to rate.")
    name: StrictStr | None = Field(None, description="Comes back with the answer.")
    choices: list[ChoiceOption] | None = Field(None, description=f"Of a choice, 2 to {MOST_CHOICES}, no two equal.")
    levels: list[ScoreLevel] | None = Field(None, description=f"Of a score, 2 to {MOST_LEVELS}, the lowest first.")

    @field_validator("instructions")
    @classmethod
    def _not_blank(cls, given: list[InputPart]) -> list[InputPart]:
        if any(part.type not in ("input_text", "input_json") for part in given):
            raise refused(None, "they have other parts than input_text and input_json; give a text, or parts of these")
        if not read(given).strip():
            raise refused(None, "they are empty; ask something")
        return given

    @model_validator(mode="after")
    def _of_its_type(self) -> QuestionBody:
        for name, kind in (("choices", "choice"), ("levels", "score")):
            if (getattr(self, name) is None) != (self.type != kind):
                needed = self.type == kind
                raise refused(name, f"{name}: a {self.type} {'needs them' if needed else 'has none'}; {_mend(needed)}")
        try:
            check_options(self.question)
        except ValueError as error:
            fault = str(error)
            raise refused("choices" if self.type == "choice" else "levels", f"{fault}") from None
        return self

    @property
    def question(self) -> Question:
        """The question."""
        instructions = read(self.instructions)
        if self.type == "predicate":
            return Question.of_predicate(instructions, self.name)
        chosen = [Option(one.value, one.description) for one in self.choices or ()]
        return Question(
            self.type,
            instructions,
            tuple(chosen or [Option(one.label, one.description) for one in self.levels or ()]),
            self.name,
        )


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class DecisionRequest(ModelBody):
    """Answer questions about an input. A task answers the one that it was tuned for, the base's name any."""

    input: Annotated[
        list[InputItem],
        Field(min_length=1),
        BeforeValidator(_as_items, json_schema_input_type=StrictStr | Annotated[list[InputItem], Field(min_length=1)]),
    ] = Field(description="A text, or the items of a conversation.", examples=["Who wrote Faust?"])
    questions: Annotated[list[QuestionBody], Field(min_length=1, max_length=MOST_QUESTIONS)] = Field(
        examples=[[{"type": "predicate", "instructions": "It asks for a person."}]]
    )
    prompt_cache_key: Hint
    prompt_cache_options: Hint
    safety_identifier: Hint

    @model_validator(mode="after")
    def _agree(self) -> DecisionRequest:
        calls: set[tuple[str, str | None]] = set()
        for place, item in enumerate(self.input):
            if item.type.endswith("_call"):
                calls.add((item.type, item.call_id))
            elif item.type.endswith("_output") and (item.type.removesuffix("_output"), item.call_id) not in calls:
                raise refused(
                    f"input.{place}.call_id",
                    f"input.{place}.call_id: no call {item.call_id!r} stands before this output; send the call too",
                )
        options = sum(len(one.choices or one.levels or ()) for one in self.questions)
        if options > MOST_OPTIONS:
            raise refused(
                "questions", f"questions: they have {options} options, and at most {MOST_OPTIONS} may be; ask fewer"
            )
        return self
