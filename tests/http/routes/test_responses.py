"""`/v1/responses` by OpenAI's own client, against a real server with a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.http_server import EngineOn, Running, fill, serving

KINDS = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done",
]  # fmt: skip


class Thing(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "blue"]
    count: Literal[1, 2]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, engine_on: EngineOn) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        with serving(library, base, engine=engine_on(base)) as found:
            yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as made:
        yield made


@pytest.mark.parametrize("model", ["tell", "kind", "tiny-llama"])
def test_it_is_the_chat_in_another_shape(client: OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "input": "red green", "metadata": {"a": "b"}}
    found = client.responses.create(**ask, max_output_tokens=4)
    chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "red green"}], max_tokens=4)
    assert found.output_text == chat.choices[0].message.content
    finish = chat.choices[0].finish_reason
    assert found.status == ("completed" if finish == "stop" else "incomplete")
    assert (found.incomplete_details is None) == (finish == "stop")
    assert found.model == chat.model
    assert found.to_dict()["system_fingerprint"] == chat.system_fingerprint
    assert found.usage is not None
    assert chat.usage is not None
    assert found.usage.input_tokens == chat.usage.prompt_tokens
    assert found.usage.output_tokens == chat.usage.completion_tokens
    assert (found.metadata, found.temperature, found.tools) == ({"a": "b"}, 0.0, [])
    assert found.id.startswith("resp-")
    # Without a bound a task keeps to its own, as in chats.
    own = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "red green"}])
    assert client.responses.create(**ask).output_text == own.choices[0].message.content


@pytest.mark.parametrize("model", ["tell", "kind", "tiny-llama"])
def test_the_events_of_a_stream(client: OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "input": "red green", "max_output_tokens": 5}
    whole = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [*KINDS, f"response.{whole.status}"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last: Any = events[-1]
    assert (last.response.output_text, last.response.status) == (whole.output_text, whole.status)
    assert last.response.usage == whole.usage
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.response.id}
    with client.responses.stream(**ask) as stream:
        told = [event.type for event in stream]
    assert told[-1] == f"response.{whole.status}"


def test_a_schema_and_its_parsing(client: OpenAI) -> None:
    found = client.responses.parse(model="tell", input="red", text_format=Thing, max_output_tokens=60)
    assert isinstance(found.output_parsed, Thing)
    with client.responses.stream(model="tell", input="red", text_format=Thing, max_output_tokens=60) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == found.output_parsed
    text = client.responses.create(model="tell", input="red", text={"format": {"type": "text"}})
    assert text.output_text == client.responses.create(model="tell", input="red").output_text


def test_a_conversation_is_sent_whole(client: OpenAI) -> None:
    """With answers sent back as they came, and what the base reads of it."""
    first = client.responses.create(model="tiny-llama", input="red", max_output_tokens=3)
    turns: list[Any] = [{"role": "user", "content": "red"}, *first.output, {"role": "user", "content": "blue"}]
    found = client.responses.create(model="tiny-llama", instructions="say", input=turns, max_output_tokens=4)
    chat = client.chat.completions.create(
        model="tiny-llama", max_tokens=4, messages=[
            {"role": "system", "content": "say"}, {"role": "user", "content": "red"},
            {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "blue"},
        ],
    )  # fmt: skip
    assert found.output_text == chat.choices[0].message.content
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "re"}, {"type": "input_text", "text": "d"}]}]
    assert client.responses.create(model="tell", input=parts).output_text == (
        client.responses.create(model="tell", input="red").output_text
    )


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"conversation": "c"}, "conversation"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input"),
        ({"input": ""}, "input"),
        ({"input": [{"role": "assistant", "content": "red"}]}, "input"),
        ({"input": [{"role": "assistant", "content": "red"}], "stream": True}, "input"),
        ({"input": [{"role": "assistant", "content": "red"}], "model": "auto"}, "input"),
        ({"extra_body": {"n": 2}}, "n"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "tell", "input": "red", **more})
    assert caught.value.param == param


def test_what_asks_for_nothing_is_let_pass(client: OpenAI) -> None:
    plain = client.responses.create(model="tell", input="red")
    same = client.responses.create(
        model="tell", input="red", store=False, tools=[], tool_choice="auto", parallel_tool_calls=True,
        truncation="disabled", background=False, service_tier="auto", include=[], prompt_cache_key="x",
        safety_identifier="y",
    )  # fmt: skip
    assert same.output_text == plain.output_text
