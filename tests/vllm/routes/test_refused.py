"""What our own server does and vLLM cannot, refused by name on each route that asks for it; and what goes on beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.http_server import EngineOn, Running, fill, serving
from tests.models import some_prefix

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHAT = {"messages": [{"role": "user", "content": "red"}]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
TEXT = {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, engine_on: EngineOn) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        library.publish(some_prefix(base, "ahead", metric="exact_match").to_bytes(), base=base.address)
        library.publish(some_prefix(base, "deep", labels=("yes", "no")).to_bytes(), base=base.address)
        with serving(library, base, engine=engine_on(base)) as found:
            yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("embeddings", {"model": "tell", "input": "red"}, "vLLM gives no hidden states"),
        ("embeddings", {"model": "tiny-llama", "input": ["red", "blue"]}, "vLLM gives no hidden states"),
        ("completions", {"model": "tell", "prompt": "red", "echo": True, "logprobs": 1}, "vLLM tells no log-probabilities"),
        ("completions", {"model": "tell", "prompt": "red", "response_format": FORMAT}, "not held to a schema on vLLM"),
        ("chat/completions", {"model": "tell", **CHAT, "response_format": FORMAT}, "not held to a schema on vLLM"),
        ("chat/completions", {"model": "tell", **CHAT, "response_format": FORMAT, "stream": True}, "not held to a schema"),
        ("responses", {"model": "tell", "input": "red", "text": TEXT}, "not held to a schema on vLLM"),
        ("completions", {"model": "ahead", "prompt": "red"}, "is a trained prefix, keys and values of every layer"),
        ("chat/completions", {"model": "ahead", **CHAT}, "is a trained prefix"),
        ("classify", {"model": "deep", "input": "red"}, "is a trained prefix"),
        ("completions", {"model": "tell", "prompt": "red", "temperature": 0.001}, "is below 0.01, the least"),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name(
    client: OpenAI, running: Running, path: str, body: dict[str, Any], why: str
) -> None:
    answer = running.http.post(f"{running.url}/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["error"]["message"]
    assert client.completions.create(model="tell", prompt="red", max_tokens=1).choices, "nothing else is harmed"


def test_auto_says_what_it_lacks(client: OpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
        client.completions.create(model="auto", prompt="red")


def test_an_echo_without_log_probabilities_needs_nothing_of_vllm(client: OpenAI) -> None:
    plain = client.completions.create(model="tell", prompt="red", max_tokens=3).choices[0].text
    assert client.completions.create(model="tell", prompt="red", max_tokens=3, echo=True).choices[0].text == f"red{plain}"
