"""`softprompt deploy --ray` on a real Ray: the engine's own answers, whatever happens to replicas."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import APIStatusError, OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from tests.http_server import serving
from tests.ray.conftest import TASKS, Deployment, deployed

pytestmark = pytest.mark.ray

PROMPTS = ("the river", "a house by", "x", "in the north of the")


def requests() -> list[tuple[str, dict[str, Any]]]:
    """What is asked, path and body."""
    texts = [
        ("/v1/completions", {"model": f"tell{task}", "prompt": prompt, "max_tokens": 12})
        for task in range(TASKS)
        for prompt in PROMPTS
    ]
    labels = [("/v1/classify", {"model": "kind", "input": [prompt, "y"]}) for prompt in PROMPTS]
    return [*texts, *labels]


def said(answer: dict[str, Any]) -> Any:
    """What an answer says, without its id and time."""
    return {
        "fingerprint": answer["system_fingerprint"],
        "texts": [choice["text"] for choice in answer.get("choices", ())],
        "labels": [(row["label"], {key: round(p, 5) for key, p in row["scores"].items()}) for row in answer.get("data", ())],
        "usage": answer.get("usage"),
    }  # fmt: skip


@pytest.fixture(scope="session")
def expected(home: Path, base: FrozenBase) -> list[Any]:
    """What the engine in this process answers."""
    with Library.open(home) as library, serving(library, base, engine=ContinuousEngine(architecture_of(base))) as ours:
        return [said(ours.http.post(f"{ours.url}{path}", json=body).json()) for path, body in requests()]


def test_answers_are_those_of_the_engine_here(deployment: Deployment, expected: list[Any]) -> None:
    with httpx2.Client(base_url=deployment.url, timeout=60) as http:
        assert [said(http.post(path, json=body).json()) for path, body in requests()] == expected
    assert len(deployment.replicas()) == 2


def test_streams_errors_and_openais_client(deployment: Deployment, expected: list[Any]) -> None:
    with OpenAI(base_url=f"{deployment.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        for (path, body), answer in zip(requests(), expected, strict=True):
            if path == "/v1/completions":
                with client.completions.create(**body, stream=True) as pieces:
                    assert "".join(piece.choices[0].text for piece in pieces) == answer["texts"][0]
        assert {model.id for model in client.models.list()} >= {"tell0", "kind", "builtin/tiny"}
        with pytest.raises(APIStatusError) as refused:
            client.completions.create(model="nothing", prompt="x")
        assert (refused.value.status_code, refused.value.code) == (404, "model_not_found")
    strange = httpx2.get(f"{deployment.url}/v1/models", headers={"host": "evil.example"})
    assert strange.json()["error"]["code"] == "not_local"


def test_a_replica_killed_under_load_costs_no_answer_and_comes_back(deployment: Deployment, expected: list[Any]) -> None:
    """`kill -9` twice while clients ask: what is whole is right, and only streams that had begun may end with an error."""
    asked = requests()

    async def main() -> Counter[str]:
        seen, over = Counter[str](), asyncio.Event()
        limits = httpx2.Limits(max_connections=None)

        async def whole(http: httpx2.AsyncClient, number: int) -> None:
            path, body = asked[number]
            reply = await http.post(path, json=body)
            assert reply.status_code == 200, reply.text
            assert said(reply.json()) == expected[number]
            seen["whole"] += 1

        async def streamed(http: httpx2.AsyncClient, number: int) -> None:
            path, body = asked[number]
            reply = await http.post(path, json={**body, "stream": True})
            assert reply.status_code == 200, reply.text
            events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
            if events[-1] == "[DONE]":
                text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
                assert text == expected[number]["texts"][0]
                seen["streamed"] += 1
            else:
                assert json.loads(events[-1])["error"]["code"] == "replica_lost"
                seen["cut"] += 1

        async def client(http: httpx2.AsyncClient, first: int) -> None:
            number = first
            while not over.is_set():
                number = (number + 5) % len(asked)
                await (streamed if first % 2 and asked[number][0] == "/v1/completions" else whole)(http, number)

        async def kill() -> None:
            try:
                for _ in range(2):
                    await asyncio.sleep(1)
                    before = await asyncio.to_thread(deployment.replicas)
                    busiest = max(before, key=lambda replica: replica["running"])
                    os.kill(busiest["pid"], signal.SIGKILL)
                    await asyncio.to_thread(
                        deployment.until,
                        lambda now, gone=busiest["pid"]: len(now) == 2 and gone not in [each["pid"] for each in now],
                        "a killed replica was not replaced",
                    )
                await asyncio.sleep(1)
            finally:
                over.set()

        async with httpx2.AsyncClient(base_url=deployment.url, timeout=120, limits=limits) as http:
            await asyncio.gather(kill(), *(client(http, first) for first in range(8)))
        return seen

    seen = asyncio.run(main())
    assert seen["whole"] > 20
    assert seen["streamed"] > 20
    assert seen["cut"] <= 8, "at most those under way at two kills"
    assert "softprompt_front_replicas_lost 2.0" in httpx2.get(f"{deployment.url}/metrics").text


def test_all_replicas_killed_at_once_are_waited_for(deployment: Deployment, expected: list[Any]) -> None:
    gone = [replica["pid"] for replica in deployment.replicas()]
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    path, body = requests()[0]
    assert said(httpx2.post(f"{deployment.url}{path}", json=body, timeout=120).json()) == expected[0]
    deployment.until(lambda now: len(now) == 2, "killed replicas were not replaced")
    assert not set(gone) & {replica["pid"] for replica in deployment.replicas()}


def test_the_base_is_exchanged_with_no_request_lost(tmp_path: Path, base: FrozenBase, other_folder: Path) -> None:
    """At SIGHUP the base is the one that most tasks are made for; every answer is by the old one or by the new."""
    from tests.models import some_prompt

    with Library.open(tmp_path / "home") as library:
        library.publish(some_prompt(base, "tell", rows=3, metric="exact_match").to_bytes(), base=base.address)
        with deployed(tmp_path / "home", tmp_path / "log", "--min-replicas", "1") as deployment:
            other = FrozenBase.load(str(other_folder))
            for seed in range(2):
                prompt = some_prompt(other, f"new{seed}", seed=seed, rows=3, metric="exact_match")
                library.publish(prompt.to_bytes(), base=str(other_folder))
            (old,) = deployment.replicas()
            deployment.process.send_signal(signal.SIGHUP)
            seen = []
            with httpx2.Client(base_url=deployment.url, timeout=60) as http:
                for _ in range(10_000):
                    listed = http.get("/v1/models")
                    assert listed.status_code == 200
                    first = next(model["id"] for model in listed.json()["data"] if model["task"] is None)
                    name = "tell" if first == "builtin/tiny" else "new0"
                    seen.append((name, http.post("/v1/completions", json={"model": name, "prompt": "x"}).status_code))
                    if seen[-1] == ("new0", 200):
                        break
            assert seen[0] == ("tell", 200)
            assert seen[-1] == ("new0", 200)
            assert [each for each in seen if each[1] != 200][1:] == [], "one may ask between two bases"
            deployment.until(lambda now: len(now) == 1 and now[0]["pid"] != old["pid"], "the old one is still there")


def test_a_base_that_cannot_be_loaded_ends_the_command_with_a_message(home: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "softprompt.cli", "deploy", "--ray", "--home", str(home), "--port", "0"]
    done = subprocess.run([*command, "--dtype", "int3"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    room = subprocess.run([*command, "--replica-gpus", "64"], capture_output=True, text=True, timeout=300, check=False)
    assert room.returncode == 1
    assert "GPU" in room.stderr
    assert "--replica-gpus" in room.stderr
