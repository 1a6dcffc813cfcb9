"""Jobs: what a request becomes, who may claim what, and that a job is finished once, whoever dies when."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.options import BaseOptions
from softprompt.errors import FieldError, NotFound, RegistryError, StoreError, TrainingError
from softprompt.jobs import bank
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.plan import make_plan
from softprompt.jobs.queue import MOST_ATTEMPTS, Claim, Lost, Queue
from softprompt.jobs.records import Job, Page, unfinished
from softprompt.jobs.request import JobRequest
from softprompt.jobs.rows import read_upload
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.worker import trainer, work
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Version
from softprompt.training.prepare import Preparer
from softprompt.training.steps.loop import Stepper
from softprompt.training.train import train
from tests.gguf_files import make_model, save_gguf
from tests.jobs_data import ROWS, chat, do_all, lines, queue_job
from tests.library_data import make_prompt


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


FOLDER = Path("nowhere")


def planned(library: Library, rows: Sequence[Any] = ROWS, **fields: Any) -> Job:
    """A job that is queued and never done."""
    name = Uploads(library).add(lines(rows), fields.pop("filename", "my rows.jsonl")).name
    request = JobRequest(model="m", training_file=name, **fields)
    return Jobs(library).create(request, {"m": "nowhere"})


def messages(library: Library, job: Job) -> list[str]:
    return [event.message for event in reversed(Jobs(library).events(job.name, limit=1000).rows)]


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


# What a request becomes


def test_columns_text_and_label_need_nothing_more(library: Library) -> None:
    job = planned(library)
    assert job.config == {
        "task": "my-rows",
        "input": "{text}\nLabel:",
        "target": " {label}",
        "labels": ["bad", "good"],
    }
    assert any("labels were inferred from the answers: 'bad', 'good'" in message for message in messages(library, job))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"softprompt": {"max_steps": 51, "per_device_train_batch_size": 2}}, "softprompt.max_steps"),
        ({"softprompt": {"per_device_train_batch_size": 2}, "hyperparameters": {"n_epochs": 4}}, "hyperparameters"),
    ],
)
def test_a_job_that_would_hold_the_worker_for_too_long_is_refused(
    library: Library, fields: dict[str, Any], field: str
) -> None:
    name = Uploads(library).add(lines(ROWS), "rows.jsonl").name
    request = JobRequest(model="m", training_file=name, **fields)
    with pytest.raises(FieldError, match=r"steps of 2 rows are \d+ rows to train on; a job may have 100") as caught:
        Jobs(library, most_trained=100).create(request, {"m": "nowhere"})
    assert caught.value.field == field
    assert Jobs(library).page() == Page([], False)
    assert Jobs(library, most_trained=128).create(request, {"m": "nowhere"}).status == "queued"


def test_chats_are_classified_where_answers_are_few_and_else_generated(library: Library) -> None:
    few = [chat(f"say {number}", "yes" if number % 2 else "no") for number in range(8)]
    assert planned(library, few).config["labels"] == ["no", "yes"]
    many = [chat(f"say {number}", f"I say {number}") for number in range(8)]
    job = planned(library, many)
    assert "labels" not in job.config
    assert job.config["input"] == "{prompt}\nAnswer:"
    assert job.config["serving"] == {"chat_input": "conversation"}  # as they are joined when they are served
    assert any("the answers are generated: 8 different ones" in message for message in messages(library, job))
    assert "labels" not in planned(library, few, softprompt={"metric": "exact_match"}).config


def test_labels_are_inferred_by_the_rule_of_init(library: Library) -> None:
    many = [{"text": f"about {n % 77} for {n}", "label": f"topic {n % 77}"} for n in range(308)]
    job = planned(library, many)
    assert len(job.config["labels"]) == 77
    assert planned(library, many, softprompt={"objective": "label_scoring"}).config["objective"] == "label_scoring"
    said = planned(library, many, softprompt={"objective": "language_modeling"}).config  # which is the default
    assert said["labels"] == job.config["labels"]
    rows = [{"text": f"say {n}", "label": [True, False, 1, 1.0][n % 4]} for n in range(40)]
    assert planned(library, rows).config["labels"] == ["1", "1.0", "false", "true"]
    assert planned(library, rows, softprompt={"fold_labels": True}).config["labels"] == ["1", "false", "true"]
    words = {"1": "one", "1.0": "one", "false": "no", "true": "yes"}
    assert "labels" not in planned(library, rows, softprompt={"id2label": words}).config
    with pytest.raises(FieldError, match="training_file, line 1: the label 'true' is not among `labels`"):
        planned(library, rows, softprompt={"id2label": {"1": "one", "false": "no"}})


def test_null_in_the_place_of_labels_asks_for_generated_answers_with_all_that_belongs_to_them(library: Library) -> None:
    long = [chat(f"say {n}", f"{n} " * 60) for n in range(40)]
    usual, null = planned(library, long), planned(library, long, softprompt={"labels": None})
    assert usual.config["max_new_tokens"] > 32  # what a task file says by default
    assert null.config == usual.config | {"labels": None}
    few = planned(library, softprompt={"labels": None})
    assert few.config["labels"] is None
    assert "the answers are generated: labels asks so" in messages(library, few)
    assert planned(library, softprompt={"id2label": None}).config["labels"] == ["bad", "good"]  # nothing is asked there


def test_kinds_of_answers_are_planned_as_they_are_asked(library: Library) -> None:
    sets = [{"text": f"say {n}", "label": ["red"] * (n % 2) + ["blue"] * (n % 3)} for n in range(40)]
    several = {"problem_type": "multi_label_classification"}
    with pytest.raises(FieldError, match=r"softprompt\.labels is missing: multi_label_classification chooses among labels"):
        planned(library, sets, softprompt=several)
    assert planned(library, sets, softprompt={**several, "labels": ["red", "blue"]}).config["labels"] == ["red", "blue"]
    stars = [{"text": f"say {n}", "label": n % 3} for n in range(40)]
    job = planned(library, stars, softprompt={"problem_type": "regression"})
    assert "labels" not in job.config
    assert any("the answers are generated: problem_type asks so" in message for message in messages(library, job))
    ordered = planned(library, stars, softprompt={"problem_type": "regression", "labels": [0, 1, 2]})
    assert ordered.config["labels"] == [0, 1, 2]


@pytest.mark.parametrize("blank", [" ", None])
def test_blank_rows_are_left_out_of_a_job_and_told(library: Library, base_folder: Path, blank: str | None) -> None:
    rows = [*ROWS, {"text": blank, "label": "good"}]
    job = queue_job(library, base_folder, training_file=Uploads(library).add(lines(rows), "rows.jsonl").name)
    do_all(library)
    assert Jobs(library).get(job.name).status == "succeeded"
    assert any("1 row of 33 left out: nothing in 'text'" in message for message in messages(library, job))
    few = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, *[{"text": blank, "label": "y"}] * 5]
    with pytest.raises(FieldError, match=r"2 different rows \(5 are blank\), too few to split"):
        planned(library, few)


def test_a_completion_is_trained_on_the_raw_prompt(library: Library) -> None:
    job = planned(library, [{"prompt": f"{n} and", "completion": f" {n}"} for n in range(4)])
    assert (job.config["input"], job.config["target"]) == ("{prompt}", " {completion}")


def test_hyperparameters_in_the_words_of_a_task_file(library: Library) -> None:
    asked = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}
    expected = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate_multiplier": 2.0, "seed": 7}
    for fields in (
        {"hyperparameters": asked},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": asked}}},
    ):
        config = planned(library, seed=7, **fields).config
        assert {key: config[key] for key in expected} == expected
    config = planned(library, hyperparameters={"n_epochs": "auto", "learning_rate": 0.2}).config
    assert config["learning_rate"] == 0.2
    assert "num_train_epochs" not in config


@pytest.mark.parametrize(
    ("fields", "message", "field"),
    [
        ({"suffix": "a/b"}, "name the task with suffix", "suffix"),
        ({"suffix": "x" * 65}, "65 characters", "suffix"),
        ({"filename": "日本.jsonl"}, "name the task with suffix", "suffix"),
        ({"suffix": "a", "softprompt": {"task": "b"}}, "one name", "suffix"),
        ({"softprompt": {"learning_rat": 1}}, "did you mean 'learning_rate'", "softprompt"),
        ({"softprompt": {"data": "/etc/passwd"}}, "give rows by training_file", "softprompt.data"),
        ({"softprompt": {"base": "/"}}, "name the base by model", "softprompt.base"),
        ({"softprompt": {"base_adapter": "/"}}, "name the base by model", "softprompt.base_adapter"),
        ({"softprompt": {"retrieve": {"folder": "/"}}}, "give each row its passages", "softprompt.retrieve"),
        ({"softprompt": {"trust_remote_code": True}}, "the server loads the base", "softprompt.trust_remote_code"),
        ({"softprompt": {"tokenizer_name_or_path": "/"}}, "name the base by model", "softprompt.tokenizer_name_or_path"),
        ({"softprompt": {"labels": ["good", "fine"]}}, "line 3: the label 'bad' is not among", "training_file"),
        ({"softprompt": {"input": "{txt}"}}, "line 1 has no field 'txt'.*did you mean 'text'", "training_file"),
        ({"softprompt": {"input": "{text"}}, "template '{text' is wrong", "softprompt"),
        ({"softprompt": {"target": "nothing"}}, "names 0 columns; write exactly one", "softprompt"),
        ({"softprompt": {"num_virtual_tokens": 0}}, "num_virtual_tokens", "softprompt"),
        ({"softprompt": {"prompt_tuning_init_prompt": "gone@1"}}, "no task 'gone'", "softprompt.prompt_tuning_init_prompt"),
        ({"hyperparameters": {"n_epochs": 1}, "softprompt": {"num_train_epochs": 2}}, "say it once", "softprompt"),
        ({"hyperparameters": {"learning_rate": 1e3}}, "too high", "hyperparameters"),
        ({"hyperparameters": {"learning_rate": 1, "learning_rate_multiplier": 1}}, "are both given", "hyperparameters"),
        ({"method": {"type": "dpo", "dpo": {}}}, "'dpo', and the rows .* of the shape 'columns'; give rows", "method"),
        ({"method": {"type": "dpo", "supervised": {}}}, "settings of 'supervised' are given; leave them out", "method"),
        ({"method": {"type": "reinforcement"}}, "no graders here; have the answers judged, and use 'dpo'", "method"),
        ({"method": {"type": "sft"}}, "'sft' is not supported; use 'supervised' or 'dpo'", "method"),
        ({"integrations": [{"type": "wandb"}]}, "not supported", "integrations"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "metadata"),
        ({"rows": [{"question": "a", "answer": "b"}] * 3}, "columns answer, question", "softprompt.input"),
        ({"rows": ROWS[:2] * 5}, "2 different rows, too few to split", "training_file"),
        ({"softprompt": {"prompt_tuning_init_prompt": "a b"}}, "task 'a b' is refused",
         "softprompt.prompt_tuning_init_prompt"),
        ({"softprompt": {"labels": ["good", "bad", 1e999]}}, "none may be infinite", None),
        ({"softprompt": {"labels": nested(5000)}}, "nested too deeply", None),
        ({"rows": [*ROWS, *[{"text": "a", "label": " "}] * 2]}, "line 33: the field 'label' is empty", "training_file"),
        ({"rows": [*ROWS, {"text": ["a"], "label": "good"}]}, "line 33: the field 'text' holds", "training_file"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_with_their_field(
    library: Library, fields: dict[str, Any], message: str, field: str | None
) -> None:
    rows = fields.pop("rows", ROWS)
    with pytest.raises(FieldError, match=message) as caught:
        planned(library, rows, **fields)
    assert caught.value.field == field
    assert Jobs(library).page() == Page([], False)


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"num_virtual_tokens": 62}, True),
        ({"num_virtual_tokens": 63}, False),
        ({"num_virtual_tokens": 40, "metric": "exact_match", "max_new_tokens": 23}, True),
        ({"num_virtual_tokens": 40, "metric": "exact_match", "max_new_tokens": 24}, False),
    ],
)
def test_a_prompt_that_leaves_no_room_is_refused_before_it_is_queued(
    library: Library, settings: dict[str, Any], taken: bool
) -> None:
    name = Uploads(library).add(lines(), "rows.jsonl").name
    request = JobRequest(model="m", training_file=name, softprompt=settings)
    jobs = Jobs(library, context=64)
    if taken:
        assert jobs.create(request, {"m": "nowhere"}).status == "queued"
    else:
        with pytest.raises(FieldError, match=r"room for an input in the context of the base \(64 tokens\)") as error:
            jobs.create(request, {"m": "nowhere"})
        assert error.value.field == "softprompt.num_virtual_tokens"
        assert Jobs(library).page().rows == []


@pytest.mark.parametrize("own_validation", [False, True])
def test_rows_that_are_taken_can_be_split(own_validation: bool) -> None:
    validation = read_upload(lines(ROWS), "v") if own_validation else None
    request = JobRequest(model="m", training_file="f", suffix="t", softprompt={"labels": ["good", "bad"]})
    refused = []
    for number in range(300):
        few = [{"text": f"{number} {at}", "label": "good"} for at in range(1 + number % 3)] * 2
        upload = read_upload(lines(few), "t")
        try:
            plan = make_plan(request, "t", upload, validation)
        except FieldError as error:
            refused.append(str(error))
            continue
        data = {"train": "train", "validation": "own"} if own_validation else {"train": "train"}
        files = {"train": upload.placed("t"), "own": read_upload(lines(ROWS), "v").placed("v")}
        task = bank.JobTask({**plan.config, "data": data}, files)
        assert min(len(task.train), len(task.validation), len(task.test)) > 0
        assert task.train.where(0).startswith("t, line ")
    assert len(refused) == (100 if own_validation else 200)
    assert all("too few to split" in message for message in refused)


def test_wrong_bases_and_files_are_refused(library: Library) -> None:
    jobs, name = Jobs(library), Uploads(library).add(lines(), "rows.jsonl").name
    other = Uploads(library.for_tenant("other")).add(lines(), "rows.jsonl").name
    for model, message in (
        ("tini", "did you mean 'tiny'"),
        ("one@3", "no model to go on from; known: tiny"),
        ("/etc", "no base '/etc'"),
    ):
        with pytest.raises(FieldError, match=message) as caught:
            jobs.create(JobRequest(model=model, training_file=name), {"tiny": "x"})
        assert caught.value.field == "model"
    messages = set()
    for missing in (other, "file-unknown"):
        for field in ("training_file", "validation_file"):
            asked = {"training_file": name} | {field: missing}
            with pytest.raises(FieldError, match="there is no file") as caught:
                jobs.create(JobRequest(model="tiny", **asked), {"tiny": "x"})
            assert caught.value.field == field
            messages.add(str(caught.value).replace(missing, "X").replace(field, "FIELD"))
    assert len(messages) == 1
    chats = Uploads(library).add(lines([chat("a", "b")]), "chat.jsonl").name
    with pytest.raises(FieldError, match="use one shape"):
        jobs.create(JobRequest(model="tiny", training_file=name, validation_file=chats), {"tiny": "x"})


# Jobs of a tenant


def test_pages_of_jobs_and_events_hold_each_once(library: Library) -> None:
    jobs = Jobs(library)
    names = [planned(library, suffix=f"t{number}").name for number in range(5)]
    seen: list[str] = []
    more = True
    while more:
        page = jobs.page(after=seen[-1] if seen else None, limit=2)
        seen += [job.name for job in page.rows]
        more = page.more
    assert seen == names[::-1]
    events = jobs.events(names[0], limit=100).rows
    first = jobs.events(names[0], limit=1)
    rest = jobs.events(names[0], after=first.rows[0].number, limit=100)
    assert first.more
    assert not rest.more
    assert first.rows + rest.rows == events
    assert events[-1].message.startswith("created job")


def test_another_tenants_job_is_as_unknown_as_none(library: Library) -> None:
    name = planned(library).name
    other = Jobs(library.for_tenant("other"))
    messages = set()
    for asked in (name, "ftjob-unknown"):
        for verb in (other.get, other.events, other.cancel):
            with pytest.raises(NotFound) as caught:
                verb(asked)
            messages.add(str(caught.value).replace(asked, "X"))
    assert len(messages) == 1
    assert other.page() == Page([], False)
    assert Jobs(library).get(name).status == "queued"


def test_a_waiting_job_is_cancelled_at_once_and_only_once(library: Library) -> None:
    jobs, name = Jobs(library), planned(library).name
    assert jobs.cancel(name).status == "cancelled"
    assert jobs.get(name).finished_at
    with pytest.raises(FieldError, match="is cancelled already"):
        jobs.cancel(name)
    assert Queue(library).claim() == []
    assert not unfinished(library)


# The queue


def publish(library: Library, queue: Queue, job: int) -> Version:
    def also(connection: Any, versions: Any) -> None:
        queue.succeed(connection, job, versions[0], {}, 1, "file-x")

    (version,) = library.publish_all([make_prompt()], base="b", also=also)
    return version


def test_jobs_of_one_base_are_claimed_at_once_in_order(library: Library) -> None:
    names = [planned(library, suffix=f"t{number}").name for number in range(3)]
    other = Jobs(library.for_tenant("other"))
    theirs = Uploads(other.library).add(lines(), "rows.jsonl").name
    names.append(other.create(JobRequest(model="m", training_file=theirs), {"m": "nowhere"}).name)
    elsewhere = Uploads(library).add(lines(), "rows.jsonl").name
    last = Jobs(library).create(JobRequest(model="m", training_file=elsewhere), {"m": "another"}).name
    queue = Queue(library)
    assert [claim.name for claim in queue.claim()] == names
    queue = Queue(library)  # the first worker is dead: this one could not hold its lock otherwise
    claims = queue.claim()
    assert [claim.name for claim in claims] == names
    for claim in claims:
        queue.fail(claim.id, "code", "message")
    assert [claim.name for claim in queue.claim()] == [last]


def test_two_claims_at_once_share_no_job(library: Library) -> None:
    for number in range(6):
        planned(library, suffix=f"t{number}")
    found: list[list[Claim]] = []
    queues = [Queue(library, bank_size=3) for _ in range(2)]
    for queue in queues:
        queue._where = f"elsewhere {id(queue)}"
    threads = [threading.Thread(target=lambda queue=queue: found.append(queue.claim())) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [claim.name for claims in found for claim in claims]
    assert len(names) == len(set(names)) == 6


def test_a_worker_elsewhere_is_dead_only_when_its_beats_stand_still(library: Library) -> None:
    job = planned(library)
    alive = Queue(library)
    alive._where = "another host"
    (claim,) = alive.claim()
    watcher = Queue(library, stale_seconds=0.3)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert alive.beat([claim.id]) == {claim.id}
        assert watcher.claim() == []
        time.sleep(0.05)
    assert watcher.claim() == []
    time.sleep(0.4)
    (taken,) = watcher.claim()
    assert taken.name == job.name
    assert alive.own([claim.id]) == set()
    with pytest.raises(Lost):
        publish(library, alive, claim.id)
    assert library.registry.tasks() == []
    alive.fail(claim.id, "x", "too late")
    assert publish(library, watcher, claim.id).number == 1
    assert Jobs(library).get(job.name).status == "succeeded"


def test_publishing_and_success_are_one_transaction(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    job = planned(library)
    queue = Queue(library)
    (claim,) = queue.claim()

    def also(connection: Any, versions: Any) -> None:
        queue.succeed(connection, claim.id, versions[0], {}, 1, "file-1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.publish_all([make_prompt()], base="b", also=also)
    assert library.registry.tasks() == []
    assert Jobs(library).get(job.name).status == "running"
    assert publish(library, queue, claim.id).number == 1
    with pytest.raises(Lost):
        publish(library, queue, claim.id)
    assert len(library.registry.versions("trec6")) == 1
    assert Jobs(library).get(job.name).model == "trec6@1"


def test_a_job_that_kills_its_workers_fails_and_takes_no_other_along(library: Library) -> None:
    for task in ("bad", "good"):
        planned(library, suffix=task)
    done = []
    for _ in range(20):
        queue = Queue(library)
        claims = queue.claim()
        if not claims:
            break
        if all(claim.config["task"] != "bad" for claim in claims):
            done += [publish(library, queue, claim.id) for claim in claims]
    jobs = {job.task: job for job in Jobs(library).page().rows}
    assert jobs["good"].status == "succeeded"
    assert jobs["bad"].status == "failed"
    assert jobs["bad"].error is not None
    assert jobs["bad"].error["code"] == "worker_died"
    assert len(done) == 1


def test_progress_gives_a_job_new_attempts(library: Library) -> None:
    planned(library)
    for round in range(3 * MOST_ATTEMPTS):
        queue = Queue(library)
        (claim,) = queue.claim()
        queue.record(claim.id, "on", step=round + 1)
    assert claim.step == 3 * MOST_ATTEMPTS - 1


def test_the_lock_is_one_workers(tmp_path: Path) -> None:
    first, second = WorkerLock(tmp_path), WorkerLock(tmp_path)
    assert first.is_free()
    assert first.acquire()
    assert not second.is_free()
    assert not second.acquire(patience=0.1)
    first.release()
    assert second.acquire()


# The worker


def test_a_job_tells_what_its_version_does_to_the_bare_name(library: Library, base_folder: Path) -> None:
    def told(job: str) -> list[str]:
        return [event.message for event in Jobs(library).events(job, limit=1000).rows if "'one'" in event.message]

    first, second = queue_job(library, base_folder), queue_job(library, base_folder, seed=1)
    do_all(library)
    ends = sorted((Jobs(library).get(job.name).model, told(job.name)) for job in (first, second))
    assert ends[0] == ("one@1", [])
    (said,) = ends[1][1]
    assert said.startswith("'one' means one@2 from now on and not one@1; the new one is ")
    library.promote("one@1", force=True, reason="a test")
    third = queue_job(library, base_folder, seed=2)
    do_all(library)
    (said,) = told(third.name)
    assert said.startswith("'one' goes on meaning one@1, its production version; one@3 is ")
    assert Jobs(library).events(third.name).rows[0].message == "published one@3"


def test_a_job_publishes_what_training_its_task_file_gives(library: Library, base_folder: Path, tmp_path: Path) -> None:
    job = queue_job(library, base_folder, seed=2)
    do_all(library)
    done = Jobs(library).get(job.name)
    assert (done.status, done.model) == ("succeeded", "one@1")
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines())
    task = {**job.config, "base": str(base_folder), "data": str(file)}
    (alone,) = train(task, base=BaseOptions(dtype="float32", device="cpu"))
    assert library.registry.resolve("one").digest == alone.prompt.digest
    assert done.trained_tokens is not None
    assert done.trained_tokens > 0
    assert done.outcome is not None
    assert done.outcome["metrics"]["value"] == alone.report.value
    files = Uploads(library)
    (header, *rows) = files.read(files.get(done.result_file or "")).decode().splitlines()
    assert header == "step,learning_rate,train_loss,valid_accuracy"
    assert len(rows) == len(alone.history)
    assert not list(library.runs.glob("jobs/*"))


def test_a_bank_of_several_tenants_jobs_ends_as_each_alone_would(library: Library, base_folder: Path) -> None:
    acme = library.for_tenant("acme")
    for round in range(2):
        expected = [
            (library, "same", {}),
            (library, "two", {"seed": 3}),
            (acme, "same", {"softprompt": {"num_virtual_tokens": 8}}),
            (library, "keys", {"softprompt": {"num_virtual_tokens": 4, "prompt_type": "prefix"}}),
        ]
        for owner, task, fields in expected:
            job = queue_job(owner, base_folder, task, **fields)
            if round:
                do_all(library)
                assert Jobs(owner).get(job.name).model == f"{task}@2"
        do_all(library)
    for owner, task, _ in expected:
        together, alone = (SoftPrompt.from_bytes(owner.read(f"{task}@{number}")) for number in (1, 2))
        assert together.card.metrics == pytest.approx(alone.card.metrics, abs=1e-3)
        assert together.card.model_copy(update={"metrics": {}}) == alone.card.model_copy(update={"metrics": {}})
        torch.testing.assert_close(together.vectors_PD, alone.vectors_PD, rtol=1e-3, atol=1e-3)
    assert [entry.task for entry in acme.registry.tasks()] == ["same"]
    assert sorted(entry.task for entry in library.registry.tasks()) == ["keys", "same", "two"]
    assert library.registry.resolve("keys").card.prompt_type == "prefix"


def test_validation_rows_of_ones_own_choose_the_best(library: Library, base_folder: Path) -> None:
    rows = [{"text": f"a red {thing}", "label": "good"} for thing in ("river", "place", "person")]
    name = Uploads(library).add(lines(rows), "validation.jsonl").name
    job = queue_job(library, base_folder, validation_file=name)
    do_all(library)
    assert Jobs(library).get(job.name).status == "succeeded"


def test_a_file_that_is_deleted_while_its_job_waits_fails_that_job_alone(library: Library, base_folder: Path) -> None:
    files = Uploads(library)
    mine = files.add(lines([*ROWS, {"text": "x", "label": "good"}]), "rows.jsonl")
    lost = queue_job(library, base_folder, "lost", training_file=mine.name)
    kept = queue_job(library, base_folder, "kept")
    files.delete(mine.name)
    do_all(library)
    failed = Jobs(library).get(lost.name)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error["code"], failed.error["param"]) == ("invalid_training_file", "training_file")
    assert Jobs(library).get(kept.name).status == "succeeded"


def test_a_job_whose_loss_explodes_or_whose_prompt_is_too_long_fails_alone(library: Library, base_folder: Path) -> None:
    burst = queue_job(library, base_folder, "burst", softprompt={"learning_rate": 99.0, "optim": "adafactor"})
    long = queue_job(library, base_folder, "long", softprompt={"num_virtual_tokens": 500})
    kept = queue_job(library, base_folder, "kept")
    with pytest.MonkeyPatch.context() as patch:
        stepping(patch, before=explode("burst"))
        do_all(library)
    jobs = Jobs(library)
    assert jobs.get(kept.name).status == "succeeded"
    assert (jobs.get(burst.name).error or {})["code"] == "training_failed"
    error = jobs.get(long.name).error or {}
    assert error["code"] == "base_unusable"
    assert "500" in error["message"]


def stepping(patch: pytest.MonkeyPatch, *, before: Any = None, after: Any = None) -> None:
    """Let something happen to the runs before or behind each step of a training."""
    honest = Stepper.step

    def step(self: Stepper, bank: Any, runs: Any) -> list[int]:
        if before is not None:
            before(runs)
        places = honest(self, bank, runs)
        if after is not None and places:
            after(runs)
        return places

    patch.setattr(Stepper, "step", step)


def explode(task: str) -> Any:
    """A task's loss becomes no number."""

    def fail(runs: Any) -> None:
        for run in runs:
            if run.task.name == task and run.step == 3:
                run.failure = "the loss is no number at step 4"

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("out of memory"), "training_failed", "out of memory"),
        (OverflowError("a secret"), "internal_error", "see worker.log"),
    ],
)
def test_where_training_at_once_fails_each_is_trained_alone(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, message: str
) -> None:
    def fragile(runs: Any) -> None:
        if len({run.task.name for run in runs}) > 1 or runs[0].task.name == "bad":
            raise error

    stepping(monkeypatch, before=fragile)
    bad = queue_job(library, base_folder, "bad")
    good = queue_job(library, base_folder, "good")
    do_all(library)
    assert Jobs(library).get(good.name).status == "succeeded"
    failed = Jobs(library).get(bad.name).error or {}
    assert failed["code"] == code
    assert message in failed["message"]
    assert "secret" not in failed["message"]


def test_a_job_on_which_the_preparation_stumbles_fails_alone(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Preparer.preparing

    def stumbling(self: Preparer, task: Any, *others: Any, **more: Any) -> Any:
        if task.name == "bad":
            raise ZeroDivisionError
        return honest(self, task, *others, **more)

    monkeypatch.setattr(Preparer, "preparing", stumbling)
    bad = queue_job(library, base_folder, "bad")
    good = queue_job(library, base_folder, "good")
    do_all(library)
    assert Jobs(library).get(good.name).status == "succeeded"
    assert (Jobs(library).get(bad.name).error or {})["code"] == "internal_error"


def test_a_disk_that_is_full_once_a_version_is_published_fails_nothing(library: Library, base_folder: Path) -> None:
    library.runs.write_text("")  # no folder: neither checkpoints nor histories can be kept
    names = [queue_job(library, base_folder, task).name for task in ("one", "two")]
    do_all(library)
    assert [Jobs(library).get(name).model for name in names] == ["one@1", "two@1"]


def test_checkpoints_that_are_left_are_cleared_and_nothing_else(library: Library, base_folder: Path) -> None:
    left = [library.runs / "jobs" / name for name in ("0123456789abcdef.checkpoint", "0123456789abcdef.7.partial")]
    left[0].parent.mkdir(parents=True)
    for file in left:
        file.write_text("of a job that was cancelled")
    jobs = library.for_tenant("jobs")
    queue_job(jobs, base_folder)
    do_all(library)
    assert jobs.registry.resolve("one").number == 1
    assert [file.name for file in left[0].parent.iterdir()] == ["one@1.jsonl"]


def test_a_worker_that_is_told_to_end_leaves_the_step_it_was_at(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(runs: Any) -> None:
        if runs[0].step == 5:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    job = queue_job(library, base_folder)
    with monkeypatch.context() as patch:
        stepping(patch, after=end)
        with pytest.raises(SystemExit) as ended:
            do_all(library)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert Jobs(library).get(job.name).status == "running"
    do_all(library)
    assert "going on from step 5 of a training that was stopped" in messages(library, job)
    queue_job(library, base_folder)
    do_all(library)
    assert [version.digest for version in library.registry.versions("one")] == [library.registry.resolve("one@1").digest] * 2


def test_a_running_job_is_cancelled_and_its_neighbour_goes_on(library: Library, base_folder: Path) -> None:
    gone = queue_job(library, base_folder, "gone", softprompt={"max_steps": 10**15, "eval_per_epoch": 1})
    kept = queue_job(library, base_folder, "kept")
    jobs = Jobs(library)
    worker = threading.Thread(target=do_all, args=(library,))
    worker.start()
    deadline = time.monotonic() + 60
    while jobs.get(gone.name).step == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert jobs.cancel(gone.name).status == "cancelled"
    worker.join(60)
    assert not worker.is_alive()
    assert jobs.get(gone.name).status == "cancelled"
    assert jobs.get(kept.name).status == "succeeded"
    assert [entry.task for entry in library.registry.tasks()] == ["kept"]


def test_a_full_disk_at_publishing_fails_the_job_in_the_end(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(self: Library, *_: Any, **more: Any) -> Any:
        tries.append(1)
        raise StoreError(f"cannot write to the store {library.store.shown}: No space left on device; free some")

    monkeypatch.setattr(Library, "publish_all", full)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    job = queue_job(library, base_folder)
    work(library, trainer(BaseOptions(dtype="float32", device="cpu"), 30), idle_seconds=0.05)
    failed = Jobs(library).get(job.name)
    assert failed.error is not None
    assert failed.error["code"] == "library_failed"
    assert failed.error["message"].startswith("cannot write to the store of the library: No space left")
    assert len(tries) == bank.PUBLISH_TRIES


def test_a_job_trains_on_the_base_that_was_served_or_fails(library: Library, tmp_path: Path) -> None:
    """Whatever lies in its place by then, and whatever a worker has in memory."""
    file = save_gguf(tmp_path / "m.gguf")
    first = fingerprint_of_folder(file)
    before, silent = queue_job(library, file, "before", fingerprint=first), queue_job(library, file, "silent")
    queue = Queue(library)
    train_claims = trainer(BaseOptions(dtype="float32", device="cpu"), 30)
    train_claims(queue, queue.claim())
    save_gguf(file, model=make_model("llama", seed=1))
    second = fingerprint_of_folder(file)
    late, new = queue_job(library, file, "late", fingerprint=first), queue_job(library, file, "new", fingerprint=second)
    train_claims(queue, queue.claim())
    jobs = Jobs(library)
    assert [jobs.get(job.name).status for job in (before, silent, late, new)] == [
        "succeeded", "succeeded", "failed", "succeeded",
    ]  # fmt: skip
    assert library.registry.resolve("before").fingerprint == first
    assert library.registry.resolve("new").fingerprint == second
    error = jobs.get(late.name).error
    assert error is not None
    assert error["message"] == (
        f"the job is for the base m.gguf with fingerprint {first}, and by now the base with fingerprint {second} lies in "
        "its place; start the server again on the one that is meant"
    )


def test_a_registry_that_is_away_costs_events_and_not_the_job(library: Library, base_folder: Path) -> None:
    refused: list[str] = []

    class Away(Queue):
        def record(self, *_: Any, **more: Any) -> None:
            refused.append("record")
            raise RegistryError("away")

        def beat(self, jobs: Collection[int]) -> set[int]:
            refused.append("beat")
            raise RegistryError("away")

        own = beat

    job = queue_job(library, base_folder, softprompt={"max_steps": 150})
    queue = Away(library)
    trainer(BaseOptions(dtype="float32", device="cpu"), 30)(queue, queue.claim())
    assert set(refused) == {"record", "beat"}
    assert Jobs(library).get(job.name).status == "succeeded"


def test_a_registry_that_is_away_for_a_moment_costs_no_job(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, away = Uploads.get, [True]

    def sometimes(self: Uploads, name: str) -> Any:
        if away:
            away.clear()
            raise RegistryError("away")
        return get(self, name)

    names = [queue_job(library, base_folder, task).name for task in ("one", "two")]
    monkeypatch.setattr(Uploads, "get", sometimes)
    do_all(library)
    assert [Jobs(library).get(name).status for name in names] == ["succeeded"] * 2


def test_equal_jobs_of_a_worker_that_died_have_a_version_each(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    file = Uploads(library).add(lines(), "rows.jsonl").name
    names = [queue_job(library, base_folder, training_file=file).name for _ in range(2)]
    honest = Queue.succeed

    def succeed(self: Queue, connection: Any, job: int, *rest: Any) -> None:
        if honest_calls:
            raise Killed
        honest_calls.append(job)
        honest(self, connection, job, *rest)

    honest_calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "succeed", succeed)
        with pytest.raises(Killed):
            do_all(library)
    assert [Jobs(library).get(name).model for name in names] == ["one@1", None]
    do_all(library)
    assert [Jobs(library).get(name).model for name in names] == ["one@1", "one@2"]


def test_a_base_that_cannot_be_loaded_fails_its_jobs(library: Library, tmp_path: Path) -> None:
    """Clients are told why, and not where the server keeps its bases."""
    job = queue_job(library, tmp_path / "empty")
    do_all(library)
    error = Jobs(library).get(job.name).error or {}
    assert error["code"] == "base_unusable"
    assert error["message"].startswith("no folder 'empty';")
    assert not [event for event in Jobs(library).events(job.name).rows if str(tmp_path) in event.message]


def test_a_copy_of_a_library_leaves_files_and_jobs_behind(library: Library, tmp_path: Path) -> None:
    library.publish(make_prompt(), base="b")
    planned(library)
    library.copy(tmp_path / "copy")
    copy = Library.open(tmp_path / "copy")
    assert len(copy.registry.tasks()) == 1
    assert Jobs(copy).page() == Page([], False)
    assert Uploads(copy).page() == Page([], False)
