"""`echo`, with `logprobs` and `max_tokens` of 0 and 1, by OpenAI's own client: what harnesses judge a served prompt by."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from softprompt.engines.protocol import Vectors
from softprompt.prompts.prompt import SoftPrompt
from tests.engines.test_read_jobs import alone
from tests.http_server import Running


def vectors(running: Running, task: str) -> Vectors:
    version = running.library.registry.resolve(task)
    return Vectors(version.digest, SoftPrompt.from_bytes(running.library.read(version)).vectors_PD)


@pytest.mark.parametrize("model", ["tell", "kind@2", "tiny-llama"])
def test_a_prompt_is_judged_as_harnesses_do(client: OpenAI, running: Running, model: str) -> None:
    """Several prompts as token ids, of different lengths, and one token that nobody reads."""
    prompts = running.base.encode(["red green blue", "the stone is a river and so", "a"])
    answer = client.completions.create(
        model=model, prompt=prompts, max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1234
    )
    prompt = Vectors("", None) if model == "tiny-llama" else vectors(running, model)
    for ids, choice in zip(prompts, answer.choices, strict=True):
        told = choice.logprobs
        assert told is not None
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
        assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
        logs_LV = alone(running.base, prompt, tuple(ids))
        right = logs_LV[range(len(ids) - 1), ids[1:]].tolist()
        assert told.token_logprobs[1:-1] == pytest.approx(right, abs=2e-4)
        best = logs_LV.amax(-1).tolist()
        assert [max(top.values()) for top in told.top_logprobs[1:-1]] == pytest.approx(best, abs=2e-4)
        # A greedy token is known by its being the likeliest, to the last bit.
        greedy = (logs_LV.argmax(-1) == torch.tensor(ids[1:])).tolist()
        pairs = zip(told.token_logprobs[1:-1], told.top_logprobs[1:-1], strict=True)
        assert [own == max(top.values()) for own, top in pairs] == greedy
        assert "".join(told.tokens) == choice.text
        assert choice.text.startswith(running.base.decode(ids))
        for at, token in zip(told.text_offset, told.tokens, strict=True):
            assert choice.text[at:].startswith(token)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (sum(map(len, prompts)), 3)


def test_the_last_token_is_that_of_a_request_without_echo(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tell", "prompt": "red green", "max_tokens": 3, "logprobs": 2}
    plain, echoed = (client.completions.create(**ask, echo=echo).choices[0] for echo in (False, True))
    assert echoed.text == "red green" + plain.text
    assert plain.logprobs is not None
    assert echoed.logprobs is not None
    assert echoed.logprobs.tokens[-3:] == plain.logprobs.tokens
    assert echoed.logprobs.token_logprobs[-3:] == plain.logprobs.token_logprobs
    assert echoed.finish_reason == plain.finish_reason
    text = client.completions.create(**{**ask, "logprobs": None}, echo=True).choices[0]
    assert (text.text, text.logprobs) == (echoed.text, None)


def test_nothing_but_the_prompt(client: OpenAI, running: Running) -> None:
    ask: dict[str, Any] = {"model": "tell", "prompt": ["red green", "stone"], "max_tokens": 0, "echo": True}
    answer = client.completions.create(**ask, logprobs=0)
    assert [choice.text for choice in answer.choices] == ["red green", "stone"]
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2
    ids = running.base.encode(["red green"])[0]
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens) == len(ids)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    chunks = list(client.completions.create(**ask, logprobs=0, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == answer.usage
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["red green", "stone"]


def test_a_stream_is_the_answer(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tell", "prompt": "red green", "max_tokens": 4, "logprobs": 1, "echo": True}
    whole = client.completions.create(**ask).choices[0]
    parts = [chunk.choices[0] for chunk in client.completions.create(**ask, stream=True)]
    assert "".join(part.text for part in parts) == whole.text
    assert whole.logprobs is not None
    told = [part.logprobs for part in parts if part.logprobs is not None]
    assert [value for one in told for value in one.token_logprobs] == whole.logprobs.token_logprobs
    assert [value for one in told for value in one.text_offset] == whole.logprobs.text_offset


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"max_tokens": 0}, "asks for nothing without echo"),
        ({"max_tokens": 0, "echo": False}, "asks for nothing without echo"),
        ({"max_tokens": -1, "echo": True}, "greater than or equal to 0"),
        ({"echo": "yes"}, "boolean"),
    ],
)
def test_what_is_wrong_is_refused(client: OpenAI, more: dict[str, Any], why: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tell", prompt="red", **more)
    assert why in str(caught.value)
