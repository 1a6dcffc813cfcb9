"""Training over HTTP, driven by OpenAI's own client."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.jobs.records import Page
from softprompt.jobs.starter import Starter
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from tests.http_server import Running, serving
from tests.jobs_data import ROWS, SHORT, chat, do_all, lines
from tests.models import make_base

from .test_openai import eventually


@pytest.fixture(scope="module")
def server(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    library = Library.open(tmp_path_factory.mktemp("tuning") / "home")
    routers = [file_routes(library, most_bytes=20_000), job_routes(library, {"tiny-llama": str(base_folder)})]
    with serving(library, make_base("llama"), routers=routers) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return server.client()


def upload(client: OpenAI, data: bytes | None = None, name: str = "rows.jsonl") -> Any:
    return client.files.create(file=(name, io.BytesIO(lines() if data is None else data)), purpose="fine-tune")


def raw(server: Running, path: str, body: bytes | None = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{server.url}{path}", data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_files_come_and_go(client: OpenAI) -> None:
    file = upload(client)
    assert (file.object, file.purpose, file.status, file.filename) == ("file", "fine-tune", "processed", "rows.jsonl")
    assert file.bytes == len(lines())
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == lines()
    others = [upload(client).id for _ in range(3)]
    listed = [one.id for one in client.files.list(limit=2)]
    assert listed[:4] == [*others[::-1], file.id]
    assert [one.id for one in client.files.list(limit=2, order="asc")] == listed[::-1]
    assert client.files.delete(file.id).deleted
    for verb in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            verb(file.id)
        assert caught.value.param == "file_id"


def test_wrong_uploads_keep_nothing(client: OpenAI, server: Running) -> None:
    before = [file.id for file in client.files.list()]
    for data, answer in (
        (b"", "has no rows"),
        (lines() + b"{]\n", "line 33: not JSON"),
        (b"\xff", "line 1: no UTF-8"),
    ):
        with pytest.raises(openai.BadRequestError, match=answer) as caught:
            upload(client, data)
        assert caught.value.param == "file"
    with pytest.raises(openai.BadRequestError, match="purpose 'vision'") as caught:
        client.files.create(file=lines(), purpose="vision")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.files.create(file=lines(), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    twice = [("file", ("a.jsonl", lines())), ("file", ("b.jsonl", lines(ROWS[:4])))]
    answer = server.http.post(f"{server.url}/v1/files", files=twice, data={"purpose": "fine-tune"})
    assert answer.status_code == 400
    assert "'file' is given twice" in answer.json()["error"]["message"]
    with pytest.raises(openai.APIStatusError, match="at most 20000") as large:
        upload(client, lines() * 100)
    assert large.value.status_code == 413
    for body, kind in ((b"{}", "application/json"), (b"x", "multipart/form-data; boundary=y"), (b"", "multipart/form-data")):
        assert raw(server, "/v1/files", body, **{"Content-Type": kind})[0] == 400

    temporary = Uploads(server.library).store.temporary
    temporary.rename(temporary.with_name("aside"))
    temporary.write_text("")  # no folder: nothing can be written
    with pytest.raises(openai.InternalServerError, match="nothing was changed") as caught_full:
        upload(client)
    temporary.unlink()
    assert caught_full.value.status_code == 503
    assert [file.id for file in client.files.list()] == before


def test_a_library_that_may_only_be_read_is_no_reason_to_try_again(
    client: OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softprompt.registry import sqlite_file

    file = upload(client)
    monkeypatch.setattr(sqlite_file, "_may_write", lambda path: False)
    server.library.registry.database.file.__dict__.pop("read_only", None)
    try:
        for change in (
            lambda: upload(client),
            lambda: client.fine_tuning.jobs.create(model="tiny-llama", training_file=file.id, suffix="colours"),
            lambda: client.files.delete(file.id),
        ):
            with pytest.raises(openai.PermissionDeniedError, match="can only be read; nothing was changed") as refused:
                change()
            assert refused.value.code == "library_read_only"
    finally:
        server.library.registry.database.file.__dict__.pop("read_only", None)


def test_a_job_from_upload_to_model(client: OpenAI, server: Running) -> None:
    file, validation = upload(client), upload(client, lines(ROWS[:6]))
    job = client.fine_tuning.jobs.create(
        model="tiny-llama",
        training_file=file.id,
        validation_file=validation.id,
        suffix="colours",
        seed=5,
        method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4, "learning_rate_multiplier": 2}}},
        metadata={"team": "a"},
        extra_body={"softprompt": {"max_steps": 12, "num_virtual_tokens": 6}},
    )
    assert job.id.startswith("ftjob-")
    assert (job.status, job.model, job.seed, job.fine_tuned_model) == ("queued", "tiny-llama", 5, None)
    assert (job.training_file, job.validation_file, job.metadata) == (file.id, validation.id, {"team": "a"})
    assert job.hyperparameters.batch_size == 4
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    do_all(server.library)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.error) == ("succeeded", "colours@1", None)
    assert done.finished_at is not None
    assert done.created_at <= done.finished_at
    assert done.trained_tokens is not None
    assert done.trained_tokens > 0
    assert server.library.registry.resolve("colours@1").card.recipe["seed"] == 5
    (result,) = done.result_files
    assert client.files.content(result).text.startswith("step,learning_rate,train_loss,valid_accuracy\n")
    assert client.files.retrieve(result).purpose == "fine-tune-results"
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == "colours@1"

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len({event.id for event in events}) == len(events) > 4
    assert events[0].message == "published colours@1"
    assert events[-1].message.startswith("created job")
    steps = [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]
    assert steps == sorted(steps, reverse=True)
    assert job.id in [one.id for one in client.fine_tuning.jobs.list(limit=1)]


def test_the_model_is_there_to_be_used(client: OpenAI, server: Running) -> None:
    rows = [
        chat(f"the {colour} apple {n}", " good" if colour == "red" else "bad")
        for colour in ("red", "blue")
        for n in range(6)
    ]
    job = client.fine_tuning.jobs.create(
        model="tiny-llama", training_file=upload(client, lines(rows)).id, suffix="asked", extra_body={"softprompt": SHORT}
    )
    do_all(server.library)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    card = server.library.registry.resolve("asked").card
    assert (card.labels, card.input) == (("bad", "good"), "{prompt}\nAnswer:")


def test_cancelling(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-llama", training_file=upload(client).id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="is cancelled already"):
        client.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    for verb in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError, match="is cancelled already; there is nothing to"):
            verb(job.id)
    for verb in (
        client.fine_tuning.jobs.retrieve,
        client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.pause,
        client.fine_tuning.jobs.list_events,
        client.fine_tuning.jobs.checkpoints.list,
    ):
        with pytest.raises(openai.NotFoundError, match="there is no job 'ftjob-x'"):
            verb("ftjob-x")
    for after in ("ftevent-other-1", "x", f"ftevent-{job.id[6:]}-x"):
        with pytest.raises(openai.BadRequestError, match="is no event"):
            client.fine_tuning.jobs.list_events(job.id, after=after)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"model": "gpt-4o-mini"}, "no base 'gpt-4o-mini'", "model"),
        ({"training_file": "file-x"}, "there is no file 'file-x'", "training_file"),
        ({"validation_file": "file-x"}, "there is no file 'file-x'", "validation_file"),
        ({"hyperparameters": {"n_epoch": 3}}, "unknown key 'n_epoch'; did you mean 'n_epochs'", "hyperparameters.n_epoch"),
        ({"hyperparameters": {"n_epochs": 0}}, "greater than 0", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 2.5}}, "integer", "hyperparameters.batch_size"),
        ({"extra_body": {"num_virtual_tokens": 5}}, "keys of a task file go into `softprompt`", "num_virtual_tokens"),
        ({"extra_body": {"softprompt": {"label": []}}}, "did you mean 'labels'", "softprompt"),
        ({"extra_body": {"softprompt": {"data": {"train": "/etc/passwd"}}}}, "give rows by", "softprompt.data"),
        ({"method": {"type": "reinforcement"}}, "not supported", "method"),
        ({"seed": -1}, "seed", "seed"),
        ({"suffix": "a b"}, "name the task with suffix", "suffix"),
    ],
)
def test_wrong_jobs_are_refused(client: OpenAI, fields: dict[str, Any], message: str, param: str | None) -> None:
    asked = {"model": "tiny-llama", "training_file": upload(client).id} | fields
    before = [job.id for job in client.fine_tuning.jobs.list()]
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.fine_tuning.jobs.create(**asked)
    if param is not None:
        assert caught.value.param == param
    assert [job.id for job in client.fine_tuning.jobs.list()] == before


def test_bodies_and_queries_that_make_no_sense(server: Running) -> None:
    kind = {"Content-Type": "application/json"}
    file = upload(server.client()).id
    good = {"model": "tiny-llama", "training_file": file}
    odd = [good | {"suffix": "\ud800"}, good | {"metadata": {"\ud800": "a"}}]
    odd += [good | {"softprompt": {key: "{text}\ud800"}} for key in ("input", "instruction", "target", "\ud800")]
    bodies = [b"", b"[]", b"null", b'{"model": 3}', b"{", b"\xff", b"[" * 50_000, b'{"model": NaN, "training_file": "x"}']
    for body in bodies + [json.dumps(one).encode() for one in odd]:
        status, answer = raw(server, "/v1/fine_tuning/jobs", body, **kind)
        assert status == 400, (body[:100], answer)
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    for one in (good | {"metadata": {"a": "\0"}}, good | {"softprompt": {"instruction": "\0"}}):
        status, job = raw(server, "/v1/fine_tuning/jobs", json.dumps(one).encode(), **kind)
        assert status == 200
        server.client().fine_tuning.jobs.cancel(job["id"])
    for path in (
        "/v1/files?limit=0",
        "/v1/files?limit=x",
        "/v1/files?order=up",
        "/v1/fine_tuning/jobs?limit=-1",
        "/v1/fine_tuning/jobs?metadata%5Ba%5D=b",
    ):
        assert raw(server, path)[0] == 400, path
    status, answer = raw(server, "/v1/fine_tuning/jobs?order=asc")  # which would come newest first all the same
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "unknown_parameter", "order")
    assert answer["error"]["message"] == "unknown query parameter 'order'; known: after, limit"
    for path in ("/v1/files?after=file-x", "/v1/fine_tuning/jobs?after=x", "/v1/files/%00", "/v1/files/..%2f..%2fetc"):
        assert raw(server, path)[0] == 404, path


def test_tenants_and_scopes(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    registry = library.registry
    keys = {
        name: registry.for_tenant(tenant).keys.create(name, [scope]).secret
        for name, tenant, scope in (("a", "acme", "train"), ("b", "other", "train"), ("reader", "acme", "predict"))
    }
    with serving(
        library, make_base("llama"), routers=[file_routes(library), job_routes(library, {"tiny-llama": str(base_folder)})]
    ) as server:
        acme, other, reader = (server.client(keys[name]) for name in ("a", "b", "reader"))
        file = upload(acme)
        job = acme.fine_tuning.jobs.create(model="tiny-llama", training_file=file.id, extra_body={"softprompt": SHORT})
        for call in (reader.files.list, reader.fine_tuning.jobs.list, lambda: upload(reader)):
            with pytest.raises(openai.PermissionDeniedError, match="lacks the scope 'train'"):
                call()
        with pytest.raises(openai.AuthenticationError):
            server.client("sp-wrong").files.list()
        assert list(other.files.list()) == []
        assert list(other.fine_tuning.jobs.list()) == []
        for verb, name, unknown in (
            (other.files.retrieve, file.id, "file-" + "0" * 24),
            (other.files.content, file.id, "file-" + "0" * 24),
            (other.files.delete, file.id, "file-" + "0" * 24),
            (other.fine_tuning.jobs.retrieve, job.id, "ftjob-" + "0" * 24),
            (other.fine_tuning.jobs.cancel, job.id, "ftjob-" + "0" * 24),
            (other.fine_tuning.jobs.list_events, job.id, "ftjob-" + "0" * 24),
        ):
            messages = set()
            for asked in (name, unknown):
                with pytest.raises(openai.NotFoundError) as caught:
                    verb(asked)
                messages.add(caught.value.response.text.replace(asked, "X"))
            assert len(messages) == 1
        with pytest.raises(openai.BadRequestError, match="there is no file"):
            other.fine_tuning.jobs.create(model="tiny-llama", training_file=file.id)
        do_all(library)
        assert acme.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert [entry.task for entry in library.for_tenant("acme").registry.tasks()] == ["rows"]
    assert library.for_tenant("acme").registry.audit("rows")[0].actor == "key:a"
    assert library.registry.tasks() == []
    assert Uploads(library).page() == Page([], False)


def test_the_server_looks_after_its_worker(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    starts = tmp_path / "starts"
    starts.touch()
    starter = Starter(library, command=["sh", "-c", f"echo started >> {starts}"])
    routers = [file_routes(library), job_routes(library, {"tiny-llama": str(base_folder)}, starter=starter)]
    with serving(library, make_base("llama"), routers=routers) as server:
        client = server.client()
        assert starts.read_text() == ""
        client.fine_tuning.jobs.create(model="tiny-llama", training_file=upload(client).id)
        eventually(lambda: "started" in starts.read_text())
