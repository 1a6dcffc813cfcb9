"""`/v1/batches` by OpenAI's own client: files of requests, answered as if each came by itself, over restarts too."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.errors import NotFound
from softprompt.http.limits import Limits
from softprompt.http.routes import batches as batches_module
from softprompt.http.routes.batches import batch_routes
from softprompt.http.routes.files import file_routes
from softprompt.jobs.batches import Answers, Batches, Ended, Line, partials, read_lines
from softprompt.jobs.uploads import Uploads
from softprompt.library import tenants
from softprompt.library.library import Library
from tests.fake_engine import FakeEngine
from tests.http_server import Running, fill, serving

from .test_openai import eventually

ENDPOINT = "/v1/completions"


def requests(bodies: list[dict[str, Any]], url: str = ENDPOINT) -> bytes:
    rows = [{"custom_id": f"r{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as opened:
        fill(opened, base)
        yield opened


@pytest.fixture
def running(library: Library, base: FrozenBase) -> Iterator[Running]:
    with serving(library, base, routers=[file_routes(library), batch_routes(library)]) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as made:
        yield made


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are kept nearly at once."""
    monkeypatch.setattr("softprompt.http.routes.batches.LOOK_S", 0.05)


def upload(client: OpenAI, data: bytes, purpose: Any = "batch") -> str:
    return client.files.create(file=("requests.jsonl", io.BytesIO(data)), purpose=purpose).id


def ended(client: OpenAI, name: str) -> Any:
    for _ in range(400):
        if (batch := client.batches.retrieve(name)).status in ("completed", "failed", "cancelled"):
            return batch
        time.sleep(0.05)
    raise AssertionError(batch)


def lines_of(client: OpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (ENDPOINT, {"prompt": "red green", "max_tokens": 4}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "red"}]}),
        ("/v1/embeddings", {"input": ["red", "blue"]}),
        ("/v1/responses", {"input": "red"}),
    ],
)
def test_each_request_is_answered_as_by_itself(client: OpenAI, running: Running, url: str, body: dict[str, Any]) -> None:
    bodies = [{"model": model, **body} for model in ("tell", "kind@1", "nobody", "tell")]
    bodies[-1] |= {"no_such_field": 1}
    file = upload(client, requests(bodies, url))
    batch = client.batches.create(input_file_id=file, endpoint=url, completion_window="24h", metadata={"a": "b"})  # type: ignore[arg-type]
    assert (batch.object, batch.endpoint, batch.input_file_id, batch.metadata) == ("batch", url, file, {"a": "b"})
    done = ended(client, batch.id)
    assert done.status == "completed"
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (4, 2, 2)
    assert done.completed_at is not None
    found = {row["custom_id"]: row["response"] for row in lines_of(client, done.output_file_id)}
    refused = {row["custom_id"]: row["response"] for row in lines_of(client, done.error_file_id)}
    assert (list(found), list(refused)) == (["r0", "r1"], ["r2", "r3"])
    for number, body in enumerate(bodies):
        alone = running.http.post(running.url + url, json=body)
        answer = (found | refused)[f"r{number}"]
        assert answer["status_code"] == alone.status_code
        assert blank(answer["body"]) == blank(alone.json())
    kinds = {client.files.retrieve(name).purpose for name in (done.output_file_id, done.error_file_id)}
    assert kinds == {"batch_output"}
    assert not list((running.library.home / "batches").iterdir())


def blank(body: Any) -> Any:
    """An answer without what no two have alike."""
    if isinstance(body, dict):
        own = ("id", "created", "created_at", "completed_at")
        return {name: blank(value) for name, value in body.items() if name not in own}
    return [blank(value) for value in body] if isinstance(body, list) else body


def test_pages_and_another_tenant(client: OpenAI, running: Running) -> None:
    file = upload(client, requests([{"model": "tell", "prompt": "red"}]))
    made = [client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id for _ in range(3)]
    assert [batch.id for batch in client.batches.list()] == made[::-1]
    page = client.batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == (made[:0:-1], True)
    assert [batch.id for batch in client.batches.list(after=made[1])] == made[:1]
    assert Batches(running.library.for_tenant("other")).page().rows == []
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_x")
    for name in made:
        ended(client, name)


def test_it_goes_on_where_the_server_was_ended(library: Library, base: FrozenBase, fast: None) -> None:
    """Answers that were there stay as they are, a torn line is answered again, and none is answered twice."""
    bodies = [{"model": "tell", "prompt": f"red {n}", "max_tokens": 3} for n in range(40)]
    slow = FakeEngine(context=base.context, step_s=0.05)
    routers = [file_routes(library), batch_routes(library)]
    with serving(library, base, engine=slow, grace_s=1, routers=routers) as first, first.client() as client:
        file = upload(client, requests(bodies))
        name = client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id
        eventually(lambda: client.batches.retrieve(name).request_counts.completed > 3)
    path = library.home / "batches" / f"{name}.jsonl"
    before = path.read_bytes()
    kept = [json.loads(line) for line in before.splitlines()]
    assert 3 < len(kept) < 40
    path.write_bytes(before + b'{"id": "batch_req_torn", "custom')
    engine = FakeEngine(context=base.context)
    routers = [file_routes(library), batch_routes(library)]
    with serving(library, base, engine=engine, routers=routers) as again, again.client() as client:
        done = ended(client, name)
        rows = lines_of(client, done.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(40)]
    by_id = {row["custom_id"]: row for row in rows}
    assert [by_id[row["custom_id"]] for row in kept] == kept
    assert len(engine.tickets) == 40 - len(kept)


def test_a_batch_is_cancelled(library: Library, base: FrozenBase, fast: None) -> None:
    slow = FakeEngine(context=base.context, step_s=0.05)
    with (
        serving(library, base, engine=slow, routers=[file_routes(library), batch_routes(library)]) as found,
        found.client() as client,
    ):
        file = upload(client, requests([{"model": "tell", "prompt": f"red {n}"} for n in range(200)]))
        name = client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id
        eventually(lambda: client.batches.retrieve(name).request_counts.completed > 0)
        assert client.batches.cancel(name).status == "cancelling"
        done = ended(client, name)
        assert (done.status, done.cancelled_at is not None) == ("cancelled", True)
        assert 0 < len(lines_of(client, done.output_file_id)) == done.request_counts.completed < 200
        eventually(lambda: slow.live_jobs() == 0)
        with pytest.raises(openai.BadRequestError, match="is cancelled; there is nothing to cancel"):
            client.batches.cancel(name)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has no requests"),
        (b"{", "line 1 of the file is no request: it is no JSON"),
        (b"[]\n", "it is no JSON object"),
        (b'{"custom_id": "a", "custom_id": "b"}', "is given twice"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions"}', "body is missing"),
        (b'{"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}}', "only POST"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}', "the batch is for /v1/completions"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}, "x": 1}', "unknown field 'x'"),
        (b'{"custom_id": 3, "method": "POST", "url": "/v1/completions", "body": {}}', "custom_id is no text"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": 3}', "body is no object"),
        (requests([{}]) * 2, "line 2 of the file is no request: its custom_id 'r0' is that of line 1"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_line(client: OpenAI, data: bytes, why: str) -> None:
    if not data:
        with pytest.raises(Exception, match=why):
            read_lines(data, ENDPOINT)
        return
    file = upload(client, data)
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h")
    assert why in str(caught.value)
    assert caught.value.param == "input_file_id"
    assert client.batches.list().data == []


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/classify"}, "endpoint"),
        ({"completion_window": "48h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, more: dict[str, Any], param: str) -> None:
    file = upload(client, requests([{"model": "tell", "prompt": "red"}]))
    ask: dict[str, Any] = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(**ask | more)
    assert caught.value.param == param


def test_a_file_for_training_is_no_batch_and_a_stream_is_refused(client: OpenAI) -> None:
    from tests.jobs_data import lines

    file = upload(client, lines(), "fine-tune")
    with pytest.raises(openai.BadRequestError, match="was uploaded for 'fine-tune'"):
        client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h")
    file = upload(client, requests([{"model": "tell", "prompt": "red", "stream": True}]))
    done = ended(client, client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id)
    assert "stream is not supported in a batch" in str(lines_of(client, done.error_file_id))
    assert done.output_file_id is None


def test_a_batch_may_do_what_the_key_may_that_made_it(library: Library, base: FrozenBase, fast: None) -> None:
    """It is told no names that the key may not see, and each key's batches have limits of their own."""
    secret = library.registry.keys.create("asks", ["predict", "train"]).secret
    limits = Limits(requests_per_minute=1000, tokens_per_minute=1000)
    routers = [file_routes(library), batch_routes(library)]
    with (
        serving(library, base, limits=limits, routers=routers, clock=lambda: 0.0) as found,
        found.client(secret) as client,
    ):
        file = upload(client, requests([{"model": "tel", "prompt": "red"}, {"model": "tell", "prompt": "red"}]))
        done = ended(client, client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id)
        with pytest.raises(openai.NotFoundError) as alone:
            client.completions.create(model="tel", prompt="red")
        (refused,) = lines_of(client, done.error_file_id)
        assert refused["response"]["body"]["error"] == alone.value.body
        assert "'tell'" not in str(refused)
        assert len(lines_of(client, done.output_file_id)) == 1
        meter, number = found.state.meter, library.registry.keys.list()[0].id
        assert set(meter._accounts) >= {f"key-{number}", f"batches of key-{number}"}
        assert "" not in meter._accounts
        spent = meter.account(f"batches of key-{number}")
        assert spent.requests is not None
        assert spent.requests.left == 998


def test_a_batch_ends_with_its_key(library: Library, base: FrozenBase, fast: None) -> None:
    keys = library.registry.keys
    secret, other = (keys.create(name, ["predict", "train", "read"]).secret for name in ("goes", "stays"))
    slow = FakeEngine(context=base.context, step_s=0.05)
    routers = [file_routes(library), batch_routes(library)]
    with serving(library, base, engine=slow, routers=routers) as found, found.client(secret) as client:
        file = upload(client, requests([{"model": "tell", "prompt": f"red {n}"} for n in range(200)]))
        name = client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id
        eventually(lambda: Batches(library).get(name).completed > 0)
        keys.revoke("goes")
        with found.client(other) as client:
            done = ended(client, name)
            assert (done.status, done.request_counts.completed > 0) == ("failed", True)
            assert "is revoked" in done.errors.data[0].message
            assert len(lines_of(client, done.output_file_id)) == done.request_counts.completed < 200
        eventually(lambda: slow.live_jobs() == 0)


def test_answers_of_nobody_go(library: Library) -> None:
    left = Answers(library, "batch_gone")
    left.add({"custom_id": "a", "response": {"status_code": 200}})
    left.close()
    partials(library)
    assert not left.path.exists()


def test_a_batch_that_cannot_be_answered_does_not_hold_up_others(library: Library, base: FrozenBase) -> None:
    """Damaged bytes, and what nobody foresaw: one fails, the other waits, and those behind them are answered."""
    damaged, odd, good = (
        Batches(library).create(Uploads(library).add(requests([body]), "r.jsonl", "batch").name, ENDPOINT)[0]
        for body in ({"model": "tell", "prompt": text} for text in ("red", "green", "blue"))
    )
    digest = Uploads(library).get(damaged.input_file).digest
    (library.home / "files" / digest).write_bytes(b"other")
    folder = library.home / "batches"
    (folder / f"{odd.name}.jsonl").mkdir(parents=True)  # its answers can be kept nowhere
    with serving(library, base, routers=[file_routes(library), batch_routes(library)]) as found, found.client() as client:
        assert ended(client, good.name).status == "completed"
        done = ended(client, damaged.name)
        assert done.status == "failed"
        assert "upload it again" in done.errors.data[0].message
        assert str(library.home) not in done.errors.data[0].message
        assert client.batches.retrieve(odd.name).status == "in_progress"


def test_a_bug_in_one_batch_ends_no_other(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (
        Batches(library).create(Uploads(library).add(requests([body]), "r.jsonl", "batch").name, ENDPOINT)[0]
        for body in ({"model": "tell", "prompt": text} for text in ("red", "green"))
    )
    ordered = batches_module.in_order

    def broken(rows: Sequence[dict[str, Any]], lines: Sequence[Line]) -> list[dict[str, Any]]:
        if lines[0].body["prompt"] == "red":
            raise KeyError("a bug")
        return ordered(rows, lines)

    monkeypatch.setattr(batches_module, "in_order", broken)
    with serving(library, base, routers=[file_routes(library), batch_routes(library)]) as found, found.client() as client:
        assert ended(client, second.name).status == "completed"
        assert client.batches.retrieve(first.name).status == "in_progress"
    assert "a bug; batches wait" in caplog.text


def test_answers_go_with_a_tenant_that_is_erased(library: Library, base: FrozenBase, fast: None) -> None:
    """While they are made: no answer stays on the disk, and none comes back."""
    fill(library.for_tenant("leaves"), base)
    secret = library.for_tenant("leaves").registry.keys.create("ci", ["predict", "train", "read"]).secret
    slow = FakeEngine(context=base.context, step_s=0.05)
    routers = [file_routes(library), batch_routes(library)]
    with serving(library, base, engine=slow, routers=routers) as found, found.client(secret) as client:
        file = upload(client, requests([{"model": "tell", "prompt": f"red {n}"} for n in range(200)]))
        name = client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id
        eventually(lambda: client.batches.retrieve(name).request_counts.completed > 0)
        tenants.erase(library, "leaves")
        eventually(lambda: slow.live_jobs() == 0)
        assert list((library.home / "batches").iterdir()) == []
    with pytest.raises(NotFound):
        tenants.plan_erase(library, "leaves")


def test_what_has_ended_is_not_ended_again(library: Library) -> None:
    """By a server that goes on with it unaware: it leaves no file."""
    batches = Batches(library)
    batch, _ = batches.create(Uploads(library).add(requests([{}]), "r.jsonl", "batch").name, ENDPOINT)
    answer = {"custom_id": "r0", "response": {"status_code": 200}}
    batches.finish(batch.name, "completed", [answer])
    files = Uploads(library).page().rows
    with pytest.raises(Ended):
        batches.finish(batch.name, "cancelled", [answer])
    assert Uploads(library).page().rows == files
    assert batches.get(batch.name).status == "completed"


def test_progress_costs_no_transaction_for_each_answer(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    tell = Batches.tell

    def counted(self: Batches, name: str, answers: Answers) -> bool:
        calls.append(name)
        return tell(self, name, answers)

    monkeypatch.setattr(Batches, "tell", counted)
    monkeypatch.setattr("softprompt.http.routes.batches.LOOK_S", 3600.0)
    file = Uploads(library).add(requests([{"model": "tell", "prompt": f"red {n}"} for n in range(60)]), "r.jsonl", "batch")
    batch, _ = Batches(library).create(file.name, ENDPOINT)
    with serving(library, base, routers=[file_routes(library), batch_routes(library)]) as found, found.client() as client:
        assert ended(client, batch.name).request_counts.completed == 60
    assert calls == [batch.name]


def test_answers_that_a_power_cut_has_damaged_are_made_again(library: Library) -> None:
    kept = Answers(library, "batch_cut")
    row = {"custom_id": "a", "response": {"status_code": 400}}
    kept.add(row)
    kept.close()
    kept.path.write_bytes(kept.path.read_bytes() + b"\0\0\0\n" + b'{"custom_id": "b", "response": {"status_code": 200}}\n')
    again = Answers(library, "batch_cut")
    assert (again.rows, again.failed) == ([row], 1)
    again.close()
    assert [json.loads(line) for line in kept.path.read_bytes().splitlines()] == [row]
