"""What happens to requests before and after their routes: tenants and scopes, rates, bodies of every kind, clients that
misbehave, metrics, and the end of the server."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.http.auth import STALE_S, Keyring
from softprompt.http.limits import Limits
from softprompt.library.library import Library
from tests.fake_engine import FakeEngine
from tests.http.routes.test_openai import eventually
from tests.http_server import Running, fill, serving
from tests.models import some_prompt

from .test_auth import Registry
from .test_limits import Clock


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        fill(made, base)
        yield made


@pytest.fixture
def running(library: Library, base: FrozenBase) -> Iterator[Running]:
    with serving(library, base) as found:
        yield found


def post(running: Running, body: Any = None, path: str = "/v1/completions", **options: Any) -> httpx2.Response:
    return running.http.post(running.url + path, json=body, **options)


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"]
    assert re.fullmatch(r"[A-Za-z0-9._-]+", answer.headers["x-request-id"])
    return body["error"]


ASK = {"model": "tell", "prompt": "red", "max_tokens": 3}


def raw(running: Running, data: bytes, *, seconds: float = 20) -> bytes:
    """What comes back over a plain connection for some bytes."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=seconds) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


# keys, tenants, scopes


def make_key(library: Library, *scopes: str, tenant: str = "default", name: str = "k") -> str:
    return library.for_tenant(tenant).registry.keys.create(name, scopes).secret


def test_tenants_know_nothing_of_each_other(library: Library, base: FrozenBase) -> None:
    other = library.for_tenant("acme")
    other.publish(some_prompt(base, "secret", labels=("yes", "no")).to_bytes(), base=base.address)
    mine, theirs = (make_key(library, "read", "predict", tenant=tenant) for tenant in ("default", "acme"))
    with serving(library, base) as found, found.client(mine) as me, found.client(theirs) as them:
        assert [row.id for row in them.models.list()] == ["tiny-llama", "secret"]
        assert {row.id for row in me.models.list()} == {"tiny-llama", "kind", "tell"}
        assert them.completions.create(model="secret", prompt="red").model == "secret@1"
        for path, body in (
            ("completions", {"prompt": "red"}),
            ("chat/completions", {"messages": [{"role": "user", "content": "red"}]}),
            ("classify", {"input": "red"}),
        ):
            answers = []
            for name in ("secret", "nobody"):
                caught = found.http.post(
                    f"{found.url}/v1/{path}", json={**body, "model": name}, headers={"authorization": f"Bearer {mine}"}
                )
                assert caught.status_code == 404
                answers.append(caught.content.replace(name.encode(), b"NAME"))
            assert answers[0] == answers[1]
        with pytest.raises(openai.NotFoundError) as caught:
            me.models.retrieve("secret@1")
        assert "acme" not in caught.value.message


def test_a_key_that_may_not_read_is_told_no_names(library: Library, base: FrozenBase) -> None:
    reads, asks = (make_key(library, *scopes, name=scopes[0]) for scopes in (("read", "predict"), ("predict",)))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("completions", {"prompt": "red"}),
        ("completions", {"prompt": "red", "stream": True}),
        ("classify", {"input": "red"}),
        ("feedback", {"outcome": True}),
    ]
    with serving(library, base) as found:
        for path, body in calls:
            for model, told in (("x", "; known: kind, tell;"), ("kid", "; did you mean 'kind'?")):
                sent = {**body, "model": model}
                one, other = (
                    error_of(post(found, sent, f"/v1/{path}", headers={"authorization": f"Bearer {secret}"}))
                    for secret in (reads, asks)
                )
                assert told in one["message"]
                assert other["message"] == (
                    f"no task {model!r} for tenant 'default'; a key with the scope 'read' lists those there are"
                )
                assert one | {"message": ""} == other | {"message": ""}


def test_keys_their_scopes_and_their_end(running: Running, library: Library) -> None:
    with running.client() as anybody:
        assert anybody.completions.create(**ASK).choices
        secret = make_key(library, "read")
        eventually(lambda: post(running, ASK).status_code == 401)
        with pytest.raises(openai.AuthenticationError) as caught:
            anybody.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
    assert running.http.get(f"{running.url}/v1/models").status_code == 401
    assert running.http.get(f"{running.url}/v1/nothing").status_code == 401
    for path in ("health", "healthz", "readyz", "openapi.json"):
        assert running.http.get(f"{running.url}/{path}").status_code == 200
    with running.client(secret) as reader:
        assert len(list(reader.models.list())) == 3
        with pytest.raises(openai.PermissionDeniedError, match="lacks the scope 'predict'"):
            reader.completions.create(**ASK)
        library.registry.keys.revoke("k")

        def revoked() -> bool:
            try:
                reader.models.list()
            except openai.AuthenticationError:
                return True
            return False

        eventually(revoked, seconds=3)
    assert post(running, ASK).status_code == 401  # no key is left, and the door stays shut


def test_a_wrong_key_is_told_before_the_body_is_read(library: Library, base: FrozenBase) -> None:
    make_key(library, "predict")
    with serving(library, base) as found:
        answer = raw(found, b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert error_of(post(found, content=b"{", headers={"authorization": "Bearer x"}))["code"] == "invalid_api_key"


def test_without_keys_pages_in_a_browser_cannot_reach_the_server(running: Running) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        answer = post(running, ASK, headers=headers)
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "not_local"
    for headers in ({"host": "localhost:99"}, {"origin": f"http://127.0.0.1:{running.port}"}, {"authorization": "junk"}):
        assert post(running, ASK, headers=headers).status_code == 200


def test_the_registry_is_away(library: Library, base: FrozenBase) -> None:
    registry, clock = Registry(library.tenant), Clock()
    with serving(library, base, keyring=Keyring(registry, clock=clock)) as running:
        assert post(running, ASK).status_code == 200
        registry.away = True
        answer = running.http.get(f"{running.url}/readyz")
        assert answer.status_code == 503
        assert "secret-host" not in answer.text
        assert post(running, ASK).status_code == 200  # what is known goes on
        clock.now += STALE_S + 1
        answer = post(running, ASK)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert error_of(answer)["code"] == "library_unavailable"
        assert "secret-host" not in answer.text


# rates and sizes


def test_requests_a_minute(library: Library, base: FrozenBase) -> None:
    with serving(library, base, limits=Limits(requests_per_minute=3), clock=Clock()) as found:
        left = [post(found, ASK).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
        assert left == ["2", "1", "0"]
        with found.client() as client, pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 20
        assert caught.value.response.headers["x-ratelimit-limit-requests"] == "3"
        assert found.http.get(f"{found.url}/healthz").status_code == 200


def test_each_key_has_a_rate_of_its_own(library: Library, base: FrozenBase) -> None:
    one, two = (make_key(library, "predict", name=name) for name in ("one", "two"))
    with serving(library, base, limits=Limits(requests_per_minute=1), clock=Clock()) as found:
        for secret, status in ((one, 200), (one, 429), (two, 200), (two, 429)):
            assert post(found, ASK, headers={"authorization": f"Bearer {secret}"}).status_code == status


def test_tokens_a_minute(library: Library, base: FrozenBase) -> None:
    with serving(library, base, limits=Limits(tokens_per_minute=60), clock=Clock()) as found:
        bucket = found.state.meter.account("").tokens
        assert bucket is not None
        answer = post(found, {**ASK, "max_tokens": 50, "stop": [" "]})
        left = 60 - answer.json()["usage"]["total_tokens"]
        assert 0 < 60 - left < 50
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) == bucket.left == left  # what was not used came back
        assert error_of(post(found, {**ASK, "max_tokens": 61}))["code"] == "too_many_tokens"
        stream = {**ASK, "max_tokens": 30, "stream": True, "stream_options": {"include_usage": True}}
        last = post(found, stream).text.split("data: ")[-2]
        left -= json.loads(last)["usage"]["total_tokens"]
        eventually(lambda: bucket.left == left and found.state.meter.streams == 0)
        answer = post(found, {**ASK, "max_tokens": 55})
        assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
        post(found, {**ASK, "model": "nobody", "max_tokens": 20})
        assert bucket.left == left
        left -= post(found, {"model": "kind", "input": "red"}, "/v1/classify").json()["usage"]["total_tokens"]
        assert bucket.left == left


def test_streams_at_once(library: Library, base: FrozenBase) -> None:
    with serving(library, base, limits=Limits(max_streams=1)) as found, found.client() as client:
        found.engine.endless, found.engine.step_s = True, 0.005
        stream = client.completions.create(**{**ASK, "stream": True})
        next(stream)
        with pytest.raises(openai.RateLimitError, match="1 streams are open"):
            client.completions.create(**{**ASK, "stream": True})
        stream.close()
        found.engine.endless = False
        eventually(lambda: found.state.meter.streams == 0)
        assert list(client.completions.create(**{**ASK, "stream": True}))


def test_long_bodies_are_refused_unread(library: Library, base: FrozenBase) -> None:
    limits = Limits(body_bytes=2000, max_rows=3, max_tokens=50)
    with serving(library, base, limits=limits) as found:
        assert post(found, {**ASK, "user": "x" * 1000}).status_code == 200
        answer = post(found, {**ASK, "user": "x" * 2000})
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "request_too_large"
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        began = time.monotonic()
        assert raw(found, head + b"content-length: 99999999999999\r\n\r\nabc").startswith(b"HTTP/1.1 413 ")
        assert raw(found, head + b"content-length: " + b"9" * 30 + b"\r\n\r\n")[9:10] == b"4"
        assert time.monotonic() - began < 10
        # A client that first sends all it has still gets to read why.
        assert post(found, content=b"x" * (8 << 20)).status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000

        assert post(found, content=chunks(), headers={"content-type": "application/json"}).status_code == 413
        for fields, code in (
            ({"prompt": ["a"] * 4}, "too_many_rows"),
            ({"n": 4}, "too_many_rows"),
            ({"max_tokens": 51}, "invalid_value"),
        ):
            assert error_of(post(found, {**ASK, **fields}))["code"] == code
        assert post(found, ASK).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(library: Library, base: FrozenBase) -> None:
    with serving(library, base, limits=Limits(body_s=0.2)) as found:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", found.port), timeout=20) as slow:
            slow.sendall(head + b"content-length: 1000\r\n\r\n{")
            assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")


# bodies that are wrong


WRONG = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"a":' * 50_000,
    b'{"model":"tell"}', b'{"prompt":"red"}', b'{"model":"\\ud800","prompt":"red"}', b'{"model":1,"prompt":"red"}',
    b'{"model":"","prompt":"red"}', b'{"model":null,"prompt":"red"}',
    *(b'{"model":"tell","prompt":%s}' % prompt for prompt in (
        b'"\\ud800"', b'[1,"a"]', b'[[1],"a"]', b"[1.5]", b"[true]", b"[99999999]", b"{}", b"null", b"[null]", b"[[[1]]]",
    )),
    *(b'{"model":"tell","prompt":"red",%s}' % field for field in (
        b'"\\udfff":1', b'"temperature":NaN', b'"temperature":Infinity', b'"temperature":-Infinity', b'"temperature":1e999',
        b'"max_tokens":1e999', b'"max_tokens":' + b"9" * 5000, b'"seed":99999999999999999999', b'"stop":{"a":1}',
        b'"metadata":[]', b'"stream":"yes"', b'"logit_bias":' + b"[" * 300 + b"]" * 300, b'"user":"\\udc00x"',
    )),
]  # fmt: skip


def test_wrong_bodies_are_told_and_harm_nobody(running: Running) -> None:
    for body in WRONG:
        answer = post(running, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (body[:80], answer.text)
        assert answer.status_code != 422
        error_of(answer)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = post(running, content=json.dumps(ASK).encode(), headers={"content-type": kind} if kind else {})
        assert "content-type: application/json" in error_of(answer)["message"]
    for given in ("", " ", [], [""], ["red", " \n"], 5, None, ["red"] * 257, {"text": "red"}):
        answer = post(running, {"model": "kind", "input": given}, "/v1/classify")
        assert answer.status_code == 400, given
        error_of(answer)
    for content in ("", " ", [], None, [{"type": "text"}], [{"type": "input_audio"}]):
        answer = post(running, {"model": "kind", "messages": [{"role": "user", "content": content}]}, "/v1/chat/completions")
        assert answer.status_code == 400, content
        error_of(answer)
    assert post(running, ASK).status_code == 200


def test_text_of_every_kind_gets_through(running: Running) -> None:
    for text in ("ünïcödé ✓ 字 \U0001f600", "\0\x01\x7f", "\u202e\ufeff", "a" * 40, "{text}", "\\ud83d\\ude00"):
        assert post(running, {**ASK, "prompt": text}).status_code == 200
        assert post(running, {"model": "kind", "input": text}, "/v1/classify").status_code == 200
    pair = b'{"model":"tell","prompt":"\\ud83d\\ude00","max_tokens":3}'
    plain = {**ASK, "prompt": "\U0001f600"}
    answer = post(running, content=pair, headers={"content-type": "application/json"})
    assert answer.json()["choices"] == post(running, plain).json()["choices"]


def test_other_paths_and_methods(running: Running) -> None:
    for method, path, status in (
        ("GET", "/", 404), ("GET", "/v1/", 404), ("GET", "/v1", 404), ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405), ("OPTIONS", "/v1/completions", 405), ("FROBNICATE", "/v1/models", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/%00", 404), ("GET", "/v1/models/%ff%fe", 404), ("GET", "/v1/models/..%2f..%2fetc", 404),
        ("GET", "/v1/models/" + "x" * 5000, 404), ("POST", "/healthz", 405), ("GET", "//v1/models", 404),
    ):  # fmt: skip
        answer = running.http.request(method, running.url + path)
        assert answer.status_code == status, (method, path, answer.text)
        error_of(answer)
    assert raw(running, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_clients_that_vanish_harm_nobody(running: Running) -> None:
    body = json.dumps({**ASK, "max_tokens": 80, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    running.engine.endless, running.engine.step_s = True, 0.002
    whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
    for sent in (whole, whole[:-5], head):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
                connection.sendall(sent)
                if sent is whole:
                    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: running.engine.live_jobs() == 0)
    eventually(lambda: running.state.meter.streams == 0)
    running.engine.endless, running.engine.step_s = False, 0
    assert post(running, ASK).status_code == 200


class BrokenEngine(FakeEngine):
    """Has a bug."""

    def submit_all(self, jobs: Any) -> Any:
        raise ZeroDivisionError("a secret")


def test_a_bug_is_told_without_its_details(library: Library, base: FrozenBase, caplog: Any) -> None:
    logging.getLogger("softprompt").propagate = True
    with serving(library, base, engine=BrokenEngine()) as found:
        answer = post(found, ASK)
    assert answer.status_code == 500
    assert error_of(answer)["type"] == "server_error"
    assert "secret" not in answer.text
    assert "a secret" in caplog.text


# what operators see


def test_request_ids_are_kept_or_made(running: Running) -> None:
    assert post(running, ASK, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("a b", "x" * 200, "a\tb", ""):
        assert post(running, ASK, headers={"x-request-id": bad}).headers["x-request-id"].startswith("req_")


def test_a_request_is_a_line_in_the_log_without_its_text(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("softprompt").propagate = True
    with caplog.at_level(logging.INFO, "softprompt.http"):
        post(running, {**ASK, "prompt": "red secret"}, headers={"x-request-id": "mine-2", "authorization": "Bearer hidden"})
        post(running, {**ASK, "model": "a\nb"}, headers={"x-request-id": "mine-3"})
        post(running, {**ASK, "stream": True}, headers={"x-request-id": "mine-4"})
        running.http.get(f"{running.url}/x%0Ay", headers={"x-request-id": "mine-5"})
        eventually(lambda: "mine-5" in caplog.text)
    lines = {line.rpartition("id=")[2]: line for line in caplog.messages}
    assert re.fullmatch(
        r"POST /v1/completions model=tell status=200 ms=[0-9.]+ tokens=[1-9][0-9]* id=mine-2", lines["mine-2"]
    )
    assert "status=404" in lines["mine-3"]
    assert re.search(r"status=200 ms=[0-9.]+ tokens=[1-9]", lines["mine-4"])
    assert all("\n" not in line for line in lines.values())
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_counted_once_however_many_answers_it_gets(running: Running, *, temperature: int, stream: bool) -> None:
    """And each prompt's tokens once, as `usage` has them, whether it is answered or refused."""
    names = (
        "requests_total",
        "input_tokens_total",
        "output_tokens_total",
        "first_token_seconds_count",
        "request_seconds_count",
    )

    def counts(labels: str) -> list[float]:
        text = running.http.get(f"{running.url}/metrics").text
        told = dict(re.findall(r"^softprompt_(\w+)\{[^}]*" + re.escape(labels) + r"[^}]*\} (\S+)$", text, re.MULTILINE))
        return [float(told.get(name, 0)) for name in names]

    def asked(**body: Any) -> dict[str, Any]:
        more = {"model": "tell", "max_tokens": 3, "temperature": temperature}
        more |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        answer = post(running, {**more, **body}, path)
        assert answer.status_code == 200, answer.text
        usage: dict[str, Any] = json.loads(answer.text.split("\n\n")[-3][6:] if stream else answer.text)["usage"]
        return usage

    one = asked(prompt=["red apple", "blue"], n=3)
    assert counts('task="tell"') == [1, one["prompt_tokens"], one["completion_tokens"], 1, 1]
    other = asked(messages=[{"role": "user", "content": "what is a river"}], n=4)
    both = [one[name] + other[name] for name in ("prompt_tokens", "completion_tokens")]
    assert counts('task="tell"')[1:] == [*both, 2, 2]
    long = post(running, {**ASK, "n": 3, "prompt": "red " * 999, "stream": stream})
    assert long.status_code == 400
    text = running.http.get(f"{running.url}/metrics").text
    assert re.findall(r'^softprompt_errors_total\{.*task="tell".*\} (\S+)$', text, re.MULTILINE) == ["1.0"]
    assert sum(map(float, re.findall(r'^softprompt_requests_total\{.*task="tell".*\} (\S+)$', text, re.MULTILINE))) == 3


def test_metrics_count_requests_and_keep_tasks_to_those_who_may_know(running: Running, library: Library) -> None:
    post(running, ASK)
    post(running, {**ASK, "model": "nobody"})
    running.http.get(f"{running.url}/{'x' * 50}")
    text = running.http.get(f"{running.url}/metrics").text
    assert 'softprompt_http_requests_total{method="POST",route="/v1/completions",status="200"} 1.0' in text
    assert 'softprompt_http_requests_total{method="POST",route="/v1/completions",status="404"} 1.0' in text
    assert 'route="(none)",status="404"' in text
    assert 'task="tell"' in text
    assert "nobody" not in text
    reader, admin = make_key(library, "read", name="reader"), make_key(library, "admin", name="boss")
    eventually(lambda: post(running, ASK).status_code == 401)
    proxied = {"x-forwarded-for": "10.0.0.1"}
    assert 'task="tell"' in running.http.get(f"{running.url}/metrics").text
    for secret, shown in ((None, False), (reader, False), (admin, True)):
        headers = {**proxied, **({"authorization": f"Bearer {secret}"} if secret else {})}
        text = running.http.get(f"{running.url}/metrics", headers=headers).text
        assert ('task="tell"' in text) == shown
        assert "softprompt_http_requests_total{" in text
    assert running.http.get(f"{running.url}/metrics", headers={**proxied, "authorization": "Bearer x"}).status_code == 401


# the end


def test_what_runs_is_finished_when_the_server_ends(library: Library, base: FrozenBase) -> None:
    with serving(library, base) as found:
        found.engine.going.clear()
        replies: list[Any] = []
        stream = {**ASK, "max_tokens": 12, "stream": True}
        threads = [threading.Thread(target=lambda body=body: replies.append(post(found, body))) for body in (ASK, stream)]
        for thread in threads:
            thread.start()
        eventually(lambda: found.engine.live_jobs() == 2)
        found.server.handle_exit(15, None)
        time.sleep(0.3)
        found.engine.going.set()
        for thread in threads:
            thread.join(20)
        assert sorted(one.status_code for one in replies) == [200, 200]
        assert sum("data: [DONE]" in one.text for one in replies) == 1
        with pytest.raises(httpx2.TransportError):
            post(found, ASK)


def test_what_does_not_finish_in_time_is_told_so(library: Library, base: FrozenBase) -> None:
    with serving(library, base, grace_s=1) as found:
        found.engine.endless, found.engine.step_s = True, 0.01
        answer: list[Any] = []
        stream = {**ASK, "stream": True}
        threads = [threading.Thread(target=lambda body=body: answer.append(post(found, body))) for body in (ASK, stream)]
        for thread in threads:
            thread.start()
        eventually(lambda: found.engine.live_jobs() == 2)
        found.server.handle_exit(15, None)
        for thread in threads:
            thread.join(20)
        whole, cut = sorted(answer, key=lambda one: -one.status_code)
        assert whole.status_code == 503
        assert error_of(whole)["code"] == "stopping"
        assert cut.status_code == 200
        last = json.loads(cut.text.strip().rpartition("data: ")[2])
        assert last["error"]["code"] == "stopping"
        eventually(lambda: found.engine.live_jobs() == 0)


def test_a_server_that_ends_takes_nothing_new(running: Running) -> None:
    running.state.draining = True
    answer = post(running, ASK)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert error_of(answer)["code"] == "stopping"
    assert running.http.get(f"{running.url}/readyz").status_code == 503
    assert running.http.get(f"{running.url}/healthz").status_code == 200
