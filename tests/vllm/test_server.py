"""What a server with prompts refuses, whose requests it answers, and what happens when vLLM's engine is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.models import save_base, some_prompt
from tests.vllm.conftest import Two, noise
from tests.vllm.same import difference
from tests.vllm.server import PATIENCE_S, PROMPTS, end, running, start

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]


def error_of(answer: httpx2.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_bad_requests_are_refused_as_by_our_own_server(two: Two) -> None:
    """Word by word, but for what vLLM alone cannot do."""
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for path, body in (
        ("/v1/completions", {"model": "nobody", "prompt": "x"}),
        ("/v1/completions", {"model": "tell@99", "prompt": "x"}),
        ("/v1/completions", {"model": "tell@nowhere", "prompt": "x"}),
        ("/v1/completions", {"model": "tell", "prompt": ""}),
        ("/v1/completions", {"model": "tell", "prompt": [10**6]}),
        ("/v1/completions", {"model": "tell", "prompt": "x", "max_tokens": 4000}),
        ("/v1/completions", {"model": "tell", "prompt": "x " * 5000, "max_tokens": 4}),
        ("/v1/completions", {"model": "tell", "prompt": "x", "unknown": 1}),
        ("/v1/completions", {"model": "tell", "prompt": "x", "temperature": 3}),
        ("/v1/chat/completions", {"model": "kind", **chat, "logprobs": True}),
        ("/v1/chat/completions", {"model": "tell", "messages": [{"role": "system", "content": "x"}]}),
        ("/v1/classify", {"model": "tell", "input": "x"}),
        ("/v1/classify", {"model": "kind", "input": []}),
        ("/v1/classify", {"model": two.ours.service.base_name, "input": "x"}),
    ):  # fmt: skip
        given, wanted = two.vllm.post(path, body), two.ours.http.post(two.ours.url + path, json=body)
        assert given.status_code >= 400, (path, body)
        assert given.status_code == wanted.status_code, (path, body, given.text, wanted.text)
        assert difference(wanted.json(), given.json()) is None, (path, body)


def test_what_vllm_cannot_do_is_refused_by_name(two: Two) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for path, body, why in (
        ("/v1/classify", {"model": "deep", "input": "x"}, "is a trained prefix, keys and values of every"),
        ("/v1/embeddings", {"model": "tell", "input": "x"}, "vLLM gives no hidden states"),
        ("/v1/responses", {"model": "deep", "input": "x"}, "is a trained prefix"),
        ("/v1/completions", {"model": "tell", "prompt": "x", "echo": True, "logprobs": 1}, "vLLM tells no log-prob"),
        (
            "/v1/completions",
            {"model": "tell", "prompt": "x", "response_format": {"type": "json_object"}},
            "answers are not held to a schema on vLLM",
        ),
        ("/v1/completions", {"model": "auto", "prompt": "x"}, "vLLM gives no hidden states, by which `auto`"),
        ("/v1/completions", {"model": "tell", "prompt": "x", "temperature": 0.005}, "is below 0.01, the least"),
    ):  # fmt: skip
        status, _, message = error_of(two.vllm.post(path, body))
        assert (status, why in message) == (400, True), message
    assert two.vllm.post("/v1/chat/completions", {"model": "tell", **chat}).status_code == 200, "and nothing else is harmed"


def test_a_prompt_of_another_base_is_refused(two: Two, tmp_path: Path) -> None:
    other = FrozenBase.load(str(save_base(tmp_path / "other-llama")))
    two.library.publish(some_prompt(other, "foreign", labels=("yes", "no")).to_bytes(), base=other.address)
    for body in ({"model": "foreign", "input": "x"}, {"model": "foreign@1", "input": "x"}):
        status, _, message = error_of(two.vllm.post("/v1/classify", body))
        assert status in (400, 404, 409), message
        assert "was made for base" in message
        assert other.fingerprint in message
        assert two.base.fingerprint in message


def test_versions_and_aliases_move_while_it_serves(two: Two) -> None:
    body = {"model": "moved", "prompt": "a film", "max_tokens": 1}
    assert two.vllm.post("/v1/completions", body).status_code == 404
    for seed in (1, 2):
        prompt = noise(two.base, "moved", 40, 200 + seed, metric="exact_match", max_new_tokens=3)
        two.library.publish(prompt.to_bytes(), base=two.base.address)
    deadline = time.monotonic() + 60
    while (answer := two.vllm.post("/v1/completions", body)).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answer.json()["model"] == "moved@2"
    two.library.promote("moved@1", "production")
    while (answer := two.vllm.post("/v1/completions", body)).json()["model"] != "moved@1" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answer.json()["model"] == "moved@1"


def test_keys_and_tenants(two: Two) -> None:
    """From the first key on requests for prompts need one, and each tenant has its own. The last test of the shared server,
    which asks for keys from now on."""
    other = two.library.for_tenant("other")
    other.publish(noise(two.base, "tell", 35, 300, metric="exact_match", max_new_tokens=4).to_bytes(), base=two.base.address)
    keys = {
        "default": two.library.registry.keys.create("k", ["read", "predict"]).secret,
        "other": other.registry.keys.create("o", ["read", "predict"]).secret,
        "reader": two.library.registry.keys.create("r", ["read"]).secret,
    }
    body = {"model": "tell", "prompt": "a film", "max_tokens": 4}

    def ask(key: str | None, **fields: Any) -> httpx2.Response:
        headers = {} if key is None else {"authorization": f"Bearer {keys[key]}"}
        return two.vllm.post("/v1/completions", {**body, **fields}, headers=headers)

    deadline = time.monotonic() + 60
    while ask(None).status_code != 401 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ask(None).status_code == 401
    assert ask("reader").status_code == 403
    assert ask("default").json()["model"] == "tell@3"
    assert ask("other").json()["model"] == "tell@1"
    assert ask("other", model="say").status_code == 404
    assert ask(None, model="the-base").status_code == 200, "vLLM's own model goes by vLLM's own keys"


def test_a_lost_engine_ends_requests_with_an_error(served_library: Library, base: FrozenBase, log_file: Path) -> None:
    """kill -9 of vLLM's engine while requests run: each gets an error that says so, none hangs, none is half an answer; a
    stream that had begun ends with the error and never says that it is done."""
    assert base.path is not None
    environment = {"SOFTPROMPT_HOME": str(served_library.home), "SOFTPROMPT_TENANT": "lost"}
    with running(base.path, log_file, environment=environment) as vllm:
        lost = served_library.for_tenant("lost")
        lost.publish(noise(base, "long", 40, 1, metric="exact_match", max_new_tokens=400).to_bytes(), base=base.address)
        key = lost.registry.keys.create("k", ["read", "predict"]).secret
        headers = {"authorization": f"Bearer {key}"}
        answers: list[httpx2.Response | Exception] = []

        def ask(number: int) -> None:
            body = {"model": "long", "prompt": f"a film {number}", "max_tokens": 440, "stream": number % 2 == 1}
            try:
                answers.append(httpx2.post(f"{vllm.url}/v1/completions", json=body, headers=headers, timeout=240))
            except httpx2.TransportError as error:  # vLLM ends its server with its engine
                answers.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while vllm.metric("vllm:num_requests_running") < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(vllm.engine(), signal.SIGKILL)
        for thread in threads:
            thread.join(240)
        assert len(answers) == len(threads), "none hangs"
        responses = [answer for answer in answers if isinstance(answer, httpx2.Response)]
        streams = [answer for answer in responses if "event-stream" in answer.headers["content-type"]]
        cut = [check_stream(answer.text) for answer in streams]
        said = [answer for answer in responses if answer not in streams]
        refused = [answer for answer in said if answer.status_code != 200]  # one may have been done before
        for answer in refused:
            status, code, message = error_of(answer)
            assert (status, code) == (503, "engine_error"), message
            assert "vLLM's engine" in message
        for answer in said:
            if answer.status_code == 200:
                assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length"), "a whole answer"
        assert refused or any(cut), "the others are told"


def check_stream(text: str) -> bool:
    """Whether a stream was cut: its last event is an error then, and nothing says that it is whole."""
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    if events[-1] == "[DONE]":
        assert json.loads(events[-2])["choices"][0]["finish_reason"] in ("stop", "length")
        return False
    error = json.loads(events[-1])["error"]
    assert error["code"] == "engine_error"
    assert "vLLM's engine" in error["message"]
    assert all(json.loads(event)["choices"][0]["finish_reason"] is None for event in events[:-1])
    return True


def test_servers_that_cannot_serve_prompts_do_not_start(base: FrozenBase, tmp_path: Path) -> None:
    """Each with the reason on its log and a status that is not 0: no library there, and no --enable-prompt-embeds."""
    assert base.path is not None
    Library.open(tmp_path / "home").close()
    cases = {
        "there is no library in": start(
            base.path, tmp_path / "one.log", environment={"SOFTPROMPT_HOME": str(tmp_path / "nowhere")}
        ),
        "this vLLM takes no vectors; start it with --enable-prompt-embeds": start(
            base.path, tmp_path / "two.log", prompts=PROMPTS[:2], environment={"SOFTPROMPT_HOME": str(tmp_path / "home")}
        ),
    }
    try:
        for (why, (process, _)), log in zip(cases.items(), ("one.log", "two.log"), strict=True):
            try:
                status = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                status = None
            told = (tmp_path / log).read_text()
            assert why in told, told[-3000:]
            assert status not in (0, None), told[-3000:]
    finally:
        for process, _ in cases.values():
            end(process, 1)
