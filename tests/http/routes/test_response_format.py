"""`response_format` by OpenAI's own client, against a real server with a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.http_server import Running, fill, serving_for_real
from tests.models import some_prompt


class Person(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=8)
    age: Literal[1, 2, 3]


CHAT = [{"role": "user", "content": "red green"}]
SCHEMA = Person.model_json_schema()


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    def fill_more(library: Library, base: FrozenBase) -> None:
        fill(library, base)
        for name, target in (("cards", " {label}"), ("glued", "{label}")):
            fields: dict[str, Any] = {"target": target, "max_new_tokens": 60}
            fields["recipe"] = {"output_schema": json.dumps(SCHEMA)}
            prompt = some_prompt(base, name, seed=4, rows=5, metric="exact_match", **fields)
            library.publish(prompt.to_bytes(), base=base.address)

    with serving_for_real(tmp_path_factory.mktemp("home"), base_folder, fill_more) as found:
        yield found


@pytest.mark.parametrize("model", ["tell", "tiny-llama"])
def test_a_chat_is_parsed_by_the_client(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(model=model, messages=CHAT, max_tokens=60, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)
    assert answer.choices[0].finish_reason == "stop"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=model, messages=CHAT, max_tokens=3, response_format=Person)


def test_a_stream_is_the_answer(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tell", "messages": CHAT, "max_tokens": 60, "response_format": json_schema(SCHEMA)}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    Person.model_validate_json(whole)


def test_a_completion(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tell", "prompt": ["red", "blue apple"], "n": 2, "max_tokens": 60, "logprobs": 1}
    asked = {"response_format": json_schema(SCHEMA, strict=False, description="no more than a word")}
    answer = client.completions.create(**ask, extra_body=asked)
    for choice in answer.choices:
        Person.model_validate_json(choice.text)
        assert choice.logprobs is not None
        assert "".join(choice.logprobs.tokens) == choice.text
    drawn = client.completions.create(**ask, extra_body=asked, temperature=1.5, seed=3)
    assert {choice.text for choice in drawn.choices} - {choice.text for choice in answer.choices}
    for choice in drawn.choices:
        Person.model_validate_json(choice.text)


@pytest.mark.parametrize(("model", "white"), [("cards", " "), ("glued", "")])
def test_a_completion_of_a_task_with_a_schema_is_json_of_it(client: OpenAI, model: str, white: str) -> None:
    """Behind the white space that the task's answers begin with, as those to chats."""
    ask: dict[str, Any] = {"model": model, "prompt": ["red", "blue apple"], "max_tokens": 60, "temperature": 1.2, "seed": 1}
    choices = client.completions.create(**ask).choices
    for choice in choices:
        Person.model_validate_json(choice.text)
        assert choice.text.startswith(white + "{")
    streamed = list(client.completions.create(**ask | {"prompt": "red", "stream": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed) == choices[0].text
    echoed = client.completions.create(**ask | {"prompt": "red", "logprobs": 1, "echo": True}).choices[0].text
    assert echoed == "red" + choices[0].text
    nothing = client.completions.create(model=model, prompt="red", max_tokens=0, logprobs=1, echo=True).choices[0]
    assert nothing.text == "red"
    cut = client.completions.create(model=model, prompt="red", max_tokens=2).choices[0]
    assert (cut.finish_reason, cut.text[: len(white) + 1]) == ("length", white + "{")


def test_a_completion_may_ask_for_another_schema_or_for_any_text(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "cards", "prompt": "red", "max_tokens": 30}
    other = {"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"], "additionalProperties": False}
    answer = client.completions.create(**ask, extra_body={"response_format": json_schema(other)})
    assert json.loads(answer.choices[0].text) == {"ok": True}
    free = client.completions.create(**ask, extra_body={"response_format": {"type": "text"}}).choices[0].text
    assert not free.lstrip().startswith("{")
    chat = client.chat.completions.create(model="cards", messages=CHAT, extra_body={"response_format": {"type": "text"}})
    Person.model_validate_json(chat.choices[0].message.content)


def test_any_object_and_any_text(client: OpenAI) -> None:
    free = client.chat.completions.create(model="tell", messages=CHAT).choices[0].message.content
    text = client.chat.completions.create(model="tell", messages=CHAT, response_format={"type": "text"})
    assert text.choices[0].message.content == free
    answer = client.chat.completions.create(
        model="tell", messages=CHAT, response_format={"type": "json_object"}, max_tokens=80, temperature=1, seed=1
    ).choices[0]
    assert answer.message.content.startswith("{")
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict)


@pytest.mark.parametrize(
    ("asked", "param", "why"),
    [
        (json_schema({"type": "objec"}), "response_format", "cannot be compiled: Invalid type: objec"),
        (json_schema({"not": {}}), "response_format", "Unimplemented keys"),
        (json_schema("x"), "response_format.json_schema.json_schema.schema", ""),
        ({"type": "json_schema"}, "response_format.json_schema.json_schema", ""),
        ({"type": "xml"}, "response_format", ""),
        ({"type": "json_object", "schema": {}}, "response_format.json_object.schema", "unknown field 'schema'"),
        (json_schema({}, name="a b"), "response_format.json_schema.json_schema.name", ""),
    ],
)
def test_what_is_wrong_is_refused_by_name(client: OpenAI, asked: Any, param: str, why: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tell", messages=CHAT, response_format=asked)
    assert why in str(caught.value)
    assert caught.value.param == param


def test_a_task_with_labels_writes_no_json(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="answers with one of its labels") as caught:
        client.chat.completions.create(model="kind", messages=CHAT, response_format={"type": "json_object"})
    assert caught.value.param == "response_format"
