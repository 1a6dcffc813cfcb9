"""What clients are told when something is wrong: with which status, and in words that they can act upon."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from softprompt import errors
from softprompt.bases.base import FrozenBase
from softprompt.http.errors import for_clients, refusal
from softprompt.http.routes.batches import batch_routes
from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.library.library import Library
from tests.http.routes.test_openai import eventually
from tests.http_server import LABELS, Running, fill, serving
from tests.jobs_data import SHORT, lines
from tests.models import some_prompt

ADVICE = re.compile(r"softprompt [a-z]|library [a-z]+`|(?<![\w-])--[a-z]")
"""Commands and options, which clients have not."""

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    """A server with a token more in its tokenizer than in its embedding, and deleted, foreign and damaged versions."""
    loaded = FrozenBase.load(str(base_folder))
    base = replace(loaded, tokenizer=copy.deepcopy(loaded.tokenizer))
    base.tokenizer.add_tokens([AddedToken("<image>", normalized=False)])
    assert base.tokenizer.convert_tokens_to_ids("<image>") >= base.embedding.weight.shape[0]
    with Library.open(tmp_path_factory.mktemp("refusals") / "home") as library:
        fill(library, base)
        library.publish(some_prompt(base, "pair", labels=LABELS, input="{one} and {two}").to_bytes(), base=base.address)
        for name in ("gone", "lost"):
            library.publish(some_prompt(base, name, seed=len(name)).to_bytes(), base=base.address)
        library.registry.delete("kind@1")
        library.registry.delete("gone@1")
        lost = library.publish(some_prompt(base, "lost", seed=9).to_bytes(), base=base.address)
        library.store.delete(lost.digest)
        far = some_prompt(replace(base, fingerprint="0" * 32), "far")
        far = type(far)(far.vectors_PD, far.card.changed({"recipe": {"adapter": "lora"}}))
        library.publish(far.to_bytes(), base=base.address)
        routers = [file_routes(library), batch_routes(library), job_routes(library, {base.name: str(base_folder)})]
        with serving(library, base, routers=routers) as found:
            yield found


def ask(running: Running, path: str, body: Any = None, method: str | None = None, **more: Any) -> tuple[int, str]:
    method = method or ("GET" if body is None else "POST")
    answer = running.http.request(method, running.url + path, json=body, **more)
    return answer.status_code, answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
def test_what_is_sent_outside_of_a_body_is_not_passed_over(running: Running, path: str) -> None:
    body = {"model": "kind", "input": "red"}
    status, message = ask(running, f"{path}?model=tell", body)
    assert (status, message) == (400, f"unknown query parameter 'model'; {path} takes none, and reads its body")
    status, message = ask(running, path, body, headers={"content-encoding": "gzip"})
    assert (status, message) == (
        400, "content-encoding: a body in 'gzip' is not read; send it as it is, without this header",
    )  # fmt: skip
    status, message = ask(running, path, body, headers={"content-type": "application/json; charset=ISO-8859-1"})
    assert (status, message) == (400, "content-type: a body in 'ISO-8859-1' is not read; send it in UTF-8")
    assert ask(running, "/v1/models?limit=1")[0] == 400


@pytest.mark.parametrize(
    "headers", [{"content-encoding": "identity"}, {"content-type": 'application/json; charset="UTF-8"'}]
)
def test_headers_that_say_what_is_so_are_taken(running: Running, headers: dict[str, str]) -> None:
    answer = running.http.post(f"{running.url}/v1/classify", json={"model": "kind", "input": "red"}, headers=headers)
    assert answer.status_code == 200


def test_no_message_names_a_command_or_an_option(running: Running) -> None:
    said: list[tuple[int, str]] = []
    for model in ("kid", "kind@9", "kind@0", "kind@1", "gone", "kind@live", "lost", "far", "a b", "kind@", "auto"):
        said.append(ask(running, "/v1/completions", {"model": model, "prompt": "red"}))
        said.append(ask(running, "/v1/classify", {"model": model, "input": "red"}))
        if model not in ("lost", "auto"):
            said.append(ask(running, f"/v1/models/{model}"))
    said.append(ask(running, "/v1/completions", {"model": "tell", "prompt": ["red"] * 300}))
    said.append(ask(running, "/v1/completions", {"model": "tell", "prompt": "red " * 300}))
    for path in ("/v1/files/x", f"{JOBS}/x", f"{JOBS}/x/events", "/v1/nothing"):
        said.append(ask(running, path))
    upload = running.http.post(
        f"{running.url}/v1/files", files={"file": ("rows.jsonl", lines())}, data={"purpose": "fine-tune"}
    ).json()["id"]
    for more in (
        {"model": "x"}, {"suffix": "auto"}, {"suffix": "tiny-llama"}, {"training_file": "x"},
        {"softprompt": {"labels": ["only"]}}, {"softprompt": {"prompt_tuning_init_prompt": "kid@3"}},
        {"hyperparameters": {"n_epochs": 0}},
    ):  # fmt: skip
        said.append(ask(running, JOBS, {"model": "tiny-llama", "training_file": upload} | more))
    said.append(ask(running, "/v1/models", headers={"host": "evil.example"}))
    running.engine.failing = "the base gave no numbers; a wider dtype (--dtype float32) may help; add --dtype float32"
    try:
        said.append(ask(running, "/v1/completions", {"model": "tell", "prompt": "red"}))
    finally:
        running.engine.failing = None
    for status, message in said:
        assert status >= 400, message
        assert not ADVICE.search(message), message
        assert message.strip(" ;") == message
    assert said[-1][1] == "the base gave no numbers; a wider dtype may help"


def test_advice_of_commands_is_left_out_and_what_was_wrong_stays() -> None:
    for message, kept in (
        ("no task 'x'; known: y; `softprompt list` shows all", "no task 'x'; known: y"),
        ("version a@2, which a points to, is deleted; `softprompt restore a@2` brings it back, or promote another version",
         "version a@2, which a points to, is deleted"),
        ("this key is not known; ask for one (`softprompt keys create NAME`)", "this key is not known; ask for one"),
        ("no job 'x'; `softprompt jobs list` or GET /v1/jobs lists them", "no job 'x'; GET /v1/jobs lists them"),
        ("unknown field '--help'", "unknown field '--help'"),
        ("a -- b; c-d; e", "a -- b; c-d; e"),
        ("", ""),
    ):  # fmt: skip
        assert for_clients(message) == kept


def test_a_job_is_told_of_without_commands(running: Running) -> None:
    from softprompt.http.routes.jobs import _event, _job
    from softprompt.jobs.jobs import Jobs
    from tests.jobs_data import queue_job

    job = queue_job(running.library, Path(running.base.address), softprompt=SHORT)
    failed = replace(job, error={"code": "training", "message": "no memory; choose --dtype bfloat16", "param": None})
    assert _job(failed).error == {"code": "training", "message": "no memory", "param": None}
    assert _job(job).error is None
    event = replace(Jobs(running.library).events(job.name).rows[0], message="barely moved; train with --set max_steps=9")
    assert _event(job.name, event).message == "barely moved"
    Jobs(running.library).cancel(job.name)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", '{"model": "tell", "prompt": "red", "prompt": "blue"}'),
        ("/v1/completions", '{"model": "tell", "prompt": "red", "metadata": {"a": "b", "a": "c"}}'),
        ("/v1/classify", '{"model": "kind", "input": "red", "model": "tell"}'),
        ("/v1/chat/completions", '{"model": "kind", "messages": [{"role": "user", "content": "red", "content": "blue"}]}'),
        ("/v1/chat/completions", '{"model": "kind", "messages": [{"role": "user", "content": "red"}], "n": 1, "n": 1}'),
        (JOBS, '{"model": "tiny-llama", "training_file": "x", "training_file": "y"}'),
        (JOBS, '{"model": "tiny-llama", "training_file": "x", "softprompt": {"seed": 1, "seed": 2}}'),
    ],
)
def test_a_key_given_twice_is_refused(running: Running, path: str, body: str) -> None:
    answer = running.http.post(running.url + path, content=body, headers={"content-type": "application/json"})
    twice = json.loads(body, object_pairs_hook=lambda pairs: {key: [k for k, _ in pairs].count(key) for key, _ in pairs})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_json"
    assert re.search(r"the key '\w+' is given twice", error["message"])
    assert twice


def test_every_route_that_takes_json_refuses_a_key_given_twice(running: Running) -> None:
    paths = running.http.get(f"{running.url}/openapi.json").json()["paths"]
    taken = [path for path, verbs in paths.items() if "application/json" in str(verbs.get("post", {}).get("requestBody"))]
    assert len(taken) == 10
    for path in taken:
        body = b'{"model": "x", "model": "x"}'
        answer = running.http.post(running.url + path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json"), path


def test_a_route_that_takes_no_body_refuses_one(running: Running) -> None:
    paths = running.http.get(f"{running.url}/openapi.json").json()["paths"]
    bare = [(verb, path) for path, verbs in paths.items() for verb in verbs if "requestBody" not in verbs[verb]]
    bare = [(verb, path) for verb, path in bare if path.startswith("/v1/")]
    assert {path for verb, path in bare if verb == "post"} == {
        "/v1/batches/{batch_id}/cancel", *(f"{JOBS}/{{job_id}}/{verb}" for verb in ("cancel", "pause", "resume"))
    }  # fmt: skip
    for verb, path in bare:

        def sent(content: bytes, verb: str = verb, path: str = path) -> tuple[int, dict[str, Any]]:
            answer = running.http.request(verb, running.url + path, content=content)
            return answer.status_code, answer.json().get("error", {})

        status, error = sent(b'{"reason": "late"}')
        assert (status, error["code"], error["param"]) == (400, "unknown_parameter", "reason"), path
        assert error["message"] == f"unknown field 'reason'; {path} takes no body"
        for content in (b"null", b"[1]", b"reason=late", b'{"a": 1, "a": 2}'):
            status, error = sent(content)
            assert (status, error["message"]) == (400, f"{path} takes no body; send it without"), path
        for content in (b"", b" {}\n"):
            assert "body" not in sent(content)[1].get("message", ""), path


def test_a_text_that_the_base_cannot_read_is_the_requests_fault(running: Running) -> None:
    before = len(running.engine.tickets)
    for path, body, param in (
        ("/v1/completions", {"model": "tell", "prompt": "red <image>"}, "prompt"),
        ("/v1/completions", {"model": "tiny-llama", "prompt": "red <image>"}, "prompt"),
        ("/v1/completions", {"model": "tell", "prompt": "red <image>", "stream": True}, "prompt"),
        ("/v1/classify", {"model": "kind", "input": ["red", "red <image>"]}, "input"),
        ("/v1/chat/completions", {"model": "tell", "messages": [{"role": "user", "content": "<image>"}]}, "messages"),
    ):
        answer = running.http.post(running.url + path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), answer.text
        assert "for which tiny-llama has no embedding (it has 320)" in error["message"]
    assert len(running.engine.tickets) == before


def test_statuses_say_whose_fault_it_is() -> None:
    later, ours = {"EngineError", "EngineBusy", "RegistryError", "StoreError"}, set[str]()
    for name, kind in vars(errors).items():
        if not (isinstance(kind, type) and issubclass(kind, errors.SoftPromptError)):
            continue
        status = refusal(kind("wrong")).status
        if name in later:
            assert status in (429, 503), name
        elif issubclass(kind, errors.ConfigError | errors.ContextError):
            assert status == 400, name
        elif status == 500:
            ours.add(name)
        else:
            assert status in (400, 403, 404), name
    assert {"PromptFileError", "SoftPromptError"} <= ours
    assert refusal(IndexError("no")).status == 500


def test_who_opens_the_address_in_a_browser_is_told_of_the_pages(running: Running) -> None:
    answer = running.http.get(f"{running.url}/")
    assert (answer.status_code, "/console has the pages" in answer.json()["error"]["message"]) == (404, True)
    assert "/console" not in running.http.get(f"{running.url}/v2").json()["error"]["message"]


def test_bytes_that_are_gone_are_no_reason_to_come_again(running: Running) -> None:
    status, message = ask(running, "/v1/completions", {"model": "lost", "prompt": "red"})
    assert (status, message) == (500, "the prompt cannot be served; the server's log says why")


@pytest.mark.parametrize("stream", [False, True])
def test_the_answers_of_a_request_are_of_one_version(running: Running, monkeypatch: Any, stream: bool) -> None:
    """Also where an alias moves while they begin."""
    targets, numbers = running.service.targets, iter((1, 2))
    honest = targets.head

    def moved(*given: Any) -> Any:
        return replace(honest(*given), model=f"tell@{next(numbers)}")

    monkeypatch.setattr(targets, "head", moved)
    body = {"model": "tell", "prompt": "red", "n": 2, "stream": stream}
    answer = running.http.post(f"{running.url}/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_changed")
    assert "tell@1 and tell@2 would answer; send the request again" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "1"
    monkeypatch.undo()
    assert running.http.post(f"{running.url}/v1/completions", json=body).status_code == 200
    eventually(lambda: running.state.meter.streams == 0)
