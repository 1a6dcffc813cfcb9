"""Answers of vLLM's engine are those of ours: requests of all kinds and prompts, many at once."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.vllm.conftest import HELD_MB, Two
from tests.vllm.same import TOLERANCE, difference, draw, smallest_gap, telling

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

ROWS = int(os.environ.get("SOFTPROMPT_VLLM_ROWS", "1000"))
"""Requests of the long run."""


def compare(two: Two, path: str, body: dict[str, Any]) -> str:
    """`same`, `tie`, or what differs."""
    given = two.vllm.post(path, body)
    wanted = two.ours.http.post(two.ours.url + path, json=body)
    if given.status_code != wanted.status_code:
        return f"{given.status_code} {given.text} and {wanted.status_code} {wanted.text}"
    found = difference(wanted.json(), given.json())
    if found is None:
        return "same"
    if path == "/v1/chat/completions" and body["model"].startswith(("kind", "many")):
        path, body = "/v1/classify", {"model": body["model"], "input": body["messages"][-1]["content"]}
    told = two.ours.http.post(two.ours.url + path, json=telling(path, body)).json()
    return "tie" if smallest_gap(told) < TOLERANCE else found


WAYS = pytest.mark.parametrize(
    ("way", "said"),
    [("two", f"workers hold prompts, {HELD_MB} MB"), ("by_vectors", "softprompt: vectors go to vLLM with each request")],
)
"""Where prompts' vectors are, and what the log says of it."""


@WAYS
def test_random_mixed_requests(request: pytest.FixtureRequest, way: str, said: str) -> None:
    """No row is wrong; rows whose two best answers lie closer than rounding are counted apart."""
    two: Two = request.getfixturevalue(way)
    assert said in two.vllm.log.read_text()
    requests = draw(ROWS, seed=7, base_name=two.ours.service.base_name)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda request: compare(two, *request), requests))
    counts = Counter("wrong" if reason not in ("same", "tie") else reason for reason in found)
    print(dict(counts))  # noqa: T201  (`pytest -s` shows how many ties there were)
    wrong = [(request, reason) for request, reason in zip(requests, found, strict=True) if reason not in ("same", "tie")]
    assert not wrong, wrong[:3]
    assert counts["tie"] <= ROWS // 50, "so many ties are none"


def test_another_prompt_is_another_answer(two: Two) -> None:
    """The comparison would see it: prompts of one task do not answer alike."""
    body = {"prompt": "the film is", "max_tokens": 12, "logprobs": 1}
    answers = [two.vllm.post("/v1/completions", {**body, "model": f"tell@{number}"}).json() for number in (1, 2, 3)]
    assert len({answer["choices"][0]["text"] for answer in answers}) > 1
    assert difference(*answers[:2]) is not None


@pytest.mark.parametrize("model", ["kind@1", "kind@2", "kind@3", "kind@4", "many"])
def test_scores_of_labels(two: Two, model: str) -> None:
    """Of each label, whether it is among the likeliest tokens or far from it."""
    body = {"model": model, "input": ["the river", "a bad story of two brothers", "who wrote it ?", "x"]}
    given = two.vllm.post("/v1/classify", body).json()
    wanted = two.ours.http.post(f"{two.ours.url}/v1/classify", json=body).json()
    assert difference(wanted, given) is None
    scores = [min(row["scores"].values()) for row in given["data"]]
    assert min(scores) < 0.01, "some label is unlikely"


def test_streams_say_the_same(two: Two) -> None:
    for model in ("tell@2", "say", two.ours.service.base_name):
        texts = []
        for client in (two.vllm, two.ours):
            body = {"model": model, "prompt": "a story of", "max_tokens": 12, "stream": True}
            text = ""
            with client.http.stream("POST", f"{client.url}/v1/completions", json=body) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
                assert lines.pop() == "[DONE]"
                chunks = [json.loads(line) for line in lines]
                text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
                assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
            texts.append(text)
        assert texts[0] == texts[1], model


def test_drawn_answers_go_by_their_seed(two: Two) -> None:
    body = {"model": "tell@2", "prompt": "a story of", "max_tokens": 12, "temperature": 1.0, "seed": -5, "n": 2}
    one, same, other = (
        [choice["text"] for choice in two.vllm.post("/v1/completions", {**body, "seed": seed}).json()["choices"]]
        for seed in (-5, -5, 6)
    )
    assert one == same
    assert one != other
    assert one[0] != one[1], "each of several answers has draws of its own"


def test_a_prompt_is_run_once(two: Two) -> None:
    """vLLM's own counters show it: behind a prompt of two whole blocks, another input finds both of them; behind one that
    is shorter than a block, none; and what another prompt has left is never taken."""

    def cached(model: str, text: str) -> float:
        before = two.vllm.metric("vllm:prefix_cache_hits_total")
        answer = two.vllm.post("/v1/completions", {"model": model, "prompt": text, "max_tokens": 1})
        assert answer.status_code == 200
        return two.vllm.metric("vllm:prefix_cache_hits_total") - before

    assert cached("tell@3", "a first input of its own") in (0, 64), "64 virtual tokens are two blocks"
    assert cached("tell@3", "another input that is new") == 64
    assert cached("tell@2", "a first input of its own") == 0
    assert cached("tell@2", "another input that is new") == 0
    text = two.vllm.http.get(f"{two.vllm.url}/softprompt/metrics").text
    assert re.search(r"^softprompt_prefix_hits\S* [1-9]", text, re.MULTILINE), "our own counters tell it, too"


def test_openai_client(two: Two) -> None:
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=f"{two.vllm.url}/v1", api_key="any", max_retries=0, timeout=120)
    names = {model.id for model in client.models.list()}
    assert {"the-base", "kind", "tell", "say", "many"} <= names
    said = client.chat.completions.create(model="tell", messages=[{"role": "user", "content": "a film"}])
    assert said.model == "tell@3"
    two.library.promote("tell@1", "live")
    assert client.completions.create(model="tell@live", prompt="a film", max_tokens=2).model == "tell@1"
    plain = client.completions.create(model="the-base", prompt="a film", max_tokens=4, temperature=0)
    assert plain.model == "the-base", "vLLM's own route"
    ours = client.completions.create(model=two.ours.service.base_name, prompt="a film", max_tokens=4)
    assert plain.choices[0].text == ours.choices[0].text
    with pytest.raises(NotFoundError, match="no task 'nobody'"):
        client.completions.create(model="nobody", prompt="a film")
