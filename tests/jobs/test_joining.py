"""Jobs that join a training that runs: they end as they would alone, and so do those that they join."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from softprompt.bases.options import BaseOptions
from softprompt.errors import RegistryError
from softprompt.jobs import watch
from softprompt.jobs.door import Door
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.queue import ALONE_AFTER, MOST_BESIDE, Claim, Queue
from softprompt.jobs.records import Job
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.watch import Watch
from softprompt.jobs.worker import trainer, work
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry import tables
from tests.jobs.test_jobs import messages, planned, stepping
from tests.jobs_data import queue_job

pytestmark = pytest.mark.slow

ENDLESS = {"max_steps": 10**15, "eval_per_epoch": 1}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is looked at behind each step, and the door is never shut."""
    monkeypatch.setattr(Watch, "waits", property(lambda self: True, lambda self, value: None), raising=False)
    monkeypatch.setattr(Door, "open", True)


def do_all(library: Library, *, batch_invariant: bool = False, every: float = 30) -> None:
    options = BaseOptions(dtype="float32", device="cpu", batch_invariant=batch_invariant)
    work(library, trainer(options, every), idle_seconds=0.05)


@pytest.fixture
def working(library: Library) -> Iterator[Callable[..., None]]:
    """Start a worker of the library, whose jobs the test has to see to their ends."""
    threads = []

    def start(**options: Any) -> None:
        threads.append(threading.Thread(target=do_all, args=(library,), kwargs=options))
        threads[-1].start()

    yield start
    for job in Jobs(library).page(every=False, limit=100).rows:
        Jobs(library).cancel(job.name)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(library: Library, job: Job) -> str:
    return Jobs(library).get(job.name).status


class Arrivals:
    """Jobs that come behind steps of a training, and who was in the bank at each step."""

    def __init__(self, patch: pytest.MonkeyPatch, come: dict[int, Callable[[], Any]]) -> None:
        self.seen: list[set[str]] = []
        self.most = 0
        self._come = come
        stepping(patch, after=self._after)

    def _after(self, runs: Any) -> None:
        self.seen.append({run.task.name for run in runs if run.running})
        self.most = max(self.most, sum(run.whole is None for run in runs))  # without their folds
        if (come := self._come.pop(runs[0].step, None)) is not None:
            come()


# What comes out


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_job_that_joins_and_those_it_joins_end_as_each_alone_would(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch, batch_invariant: bool
) -> None:
    acme = library.for_tenant("acme")
    jobs = [
        (library, "first", {"softprompt": {"max_steps": 15}}),
        (acme, "second", {"seed": 3, "softprompt": {"num_virtual_tokens": 9}}),
        (library, "third", {"softprompt": {"num_virtual_tokens": 4, "prompt_type": "prefix"}}),
    ]
    for owner, task, fields in jobs:
        queue_job(owner, base_folder, task, **fields)
        do_all(library, batch_invariant=batch_invariant)
    (first, *later) = [lambda job=job: queue_job(job[0], base_folder, job[1], **job[2]) for job in jobs]
    first()
    with monkeypatch.context() as patch:
        arrivals = Arrivals(patch, {4: later[0], 7: later[1]})
        do_all(library, batch_invariant=batch_invariant)
    assert arrivals.seen[:4] == [{"first"}] * 4
    assert {"first", "second", "third"} in arrivals.seen
    for owner, task, _ in jobs:
        alone, joined = (SoftPrompt.from_bytes(owner.read(f"{task}@{number}")) for number in (1, 2))
        if batch_invariant:
            assert joined.digest == alone.digest
        else:
            assert joined.card.metrics == pytest.approx(alone.card.metrics, abs=1e-3)
            torch.testing.assert_close(joined.vectors_PD, alone.vectors_PD, rtol=1e-3, atol=1e-3)
    assert [entry.task for entry in acme.registry.tasks()] == ["second"]
    assert not list(library.runs.glob("jobs/*"))


def test_a_clone_of_a_run_starts_at_once_and_ends_while_the_run_goes_on(
    library: Library, base_folder: Path, working: Callable[..., None]
) -> None:
    run = queue_job(library, base_folder, "run", softprompt=ENDLESS)
    working()
    until(lambda: Jobs(library).get(run.name).step > 0)
    again = {"training_file": run.training_file, "softprompt": {"learning_rate": 0.3}}
    clone = queue_job(library, base_folder, "run", **again)
    until(lambda: status(library, clone) == "succeeded")
    assert status(library, run) == "running"
    assert Jobs(library).get(clone.name).model == "run@1"
    before = Jobs(library).get(run.name).step
    until(lambda: Jobs(library).get(run.name).step > before)
    told = messages(library, clone)
    assert told[1] == "started" or "started" in told
    assert not any(message.startswith("step ") and "of 10000000" in message for message in told)
    assert any(message.startswith("step 12 of 12") for message in told)


def test_what_cannot_be_trained_fails_alone_and_a_cancelled_one_leaves(
    library: Library, base_folder: Path, working: Callable[..., None]
) -> None:
    run = queue_job(library, base_folder, "run", softprompt=ENDLESS)
    working()
    until(lambda: Jobs(library).get(run.name).step > 0)
    lost = queue_job(library, base_folder, "lost", softprompt={"num_virtual_tokens": 500})
    gone = queue_job(library, base_folder, "gone", softprompt=ENDLESS)
    until(lambda: status(library, lost) == "failed" and Jobs(library).get(gone.name).step > 0)
    Jobs(library).cancel(gone.name)
    last = queue_job(library, base_folder, "last")
    until(lambda: status(library, last) == "succeeded")
    assert (status(library, run), status(library, gone)) == ("running", "cancelled")
    assert [entry.task for entry in library.registry.tasks()] == ["last"]


def test_a_joined_job_is_paused_and_joins_again_where_it_was(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch, working: Callable[..., None]
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    settings = {"softprompt": {"max_steps": 40}}
    queue_job(library, base_folder, "joined", **settings)
    do_all(library, batch_invariant=True)
    run = queue_job(library, base_folder, "run", softprompt=ENDLESS)
    paused, here = list[int](), set[str]()

    def after(runs: Any) -> None:
        here.clear()
        here.update(one.task.name for one in runs if one.running and one.task.name == "joined")
        for one in runs:
            if one.task.name == "joined" and one.step == 7 and not paused:
                paused.append(one.step)
                Jobs(library).pause(joined.name)
        if here and paused:
            time.sleep(0.02)  # so that it is seen before the end

    with monkeypatch.context() as patch:
        stepping(patch, after=after)
        working(batch_invariant=True)
        until(lambda: Jobs(library).get(run.name).step > 0)
        joined = queue_job(library, base_folder, "joined", **settings)
        until(lambda: bool(paused) and not here)
        assert status(library, joined) == "paused"
        Jobs(library).resume(joined.name)
        until(lambda: status(library, joined) == "succeeded")
        assert status(library, run) == "running"
    told = messages(library, joined)
    assert told.count("a worker goes on with the job") == 1
    (again,) = [message for message in told if message.startswith("going on from step ")]
    assert 7 <= int(again.split()[4].rstrip(",")) < 40
    assert not any(message.startswith("going on from step ") for message in messages(library, run))
    first, second = library.registry.versions("joined")
    assert first.digest == second.digest


@pytest.mark.usefixtures("eager")
def test_a_stream_of_small_jobs_is_trained_in_a_bounded_bank_and_keeps_nobody_from_the_end(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue_job(library, base_folder, "run", softprompt={"max_steps": 60})
    small = list[Job]()

    def come() -> None:
        for seed in range(MOST_BESIDE + 6):
            small.append(queue_job(library, base_folder, "small", seed=seed, softprompt={"max_steps": 3}))

    with monkeypatch.context() as patch:
        arrivals = Arrivals(patch, {3: come})
        do_all(library)
    assert status(library, run) == "succeeded"
    assert {status(library, job) for job in small} == {"succeeded"}
    assert len(library.registry.versions("small")) == MOST_BESIDE + 6
    assert 2 < arrivals.most <= MOST_BESIDE, "members that have ended are let go of as others come"
    assert sum("run" in names for names in arrivals.seen) >= 59


@pytest.mark.usefixtures("eager")
def test_who_has_to_wait_is_waited_for_by_those_who_come_later(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would join for ever a training that it is not in."""
    get, away = Uploads.get, list[str]()
    queue_job(library, base_folder, "run", softprompt={"max_steps": 20})

    def come() -> None:
        away.append(queue_job(library, base_folder, "waits").training_file)

    def sometimes(self: Uploads, name: str) -> Any:
        if name in away:
            away.remove(name)
            raise RegistryError("away")
        return get(self, name)

    monkeypatch.setattr(Uploads, "get", sometimes)
    with monkeypatch.context() as patch:
        arrivals = Arrivals(patch, {3: come, 6: lambda: queue_job(library, base_folder, "later")})
        do_all(library)
    assert [job.status for job in Jobs(library).page().rows] == ["succeeded"] * 3
    assert not any({"run", "later"} <= names for names in arrivals.seen)


# Who may join


def join(queue: Queue, claims: list[Claim], fingerprints: set[str] | None = None) -> list[str]:
    found = queue.join([claim.id for claim in claims], claims[0].bank, fingerprints or {"print"})
    assert {claim.bank for claim in found} <= {claims[0].bank}
    claims += found
    return [claim.name for claim in found]


def test_as_many_join_as_there_is_room_for_in_their_order(library: Library) -> None:
    queue = Queue(library, bank_size=3)
    first = planned(library, suffix="first")
    claims = queue.claim()
    assert join(queue, claims) == []
    theirs = [planned(library, suffix=f"t{number}").name for number in range(4)]
    assert queue.waits()
    assert join(queue, claims) == theirs[:2]
    assert join(queue, claims) == []
    queue.fail(claims[0].id, "code", "message")
    assert Jobs(library).get(first.name).status == "failed"
    assert join(queue, claims[1:]) == theirs[2:3]
    for claim in queue.claim():
        assert claim.bank == claims[0].bank, "who dies now goes on with all of them"


def test_nobody_is_let_past_a_job_that_may_not_join(library: Library) -> None:
    queue = Queue(library)
    planned(library, suffix="first")
    claims = queue.claim()
    before = planned(library, suffix="before")
    file = Uploads(library).get(before.training_file).name
    other = Jobs(library).create(JobRequest(model="m", training_file=file, suffix="other"), {"m": "another"})
    planned(library, suffix="behind")
    assert join(queue, claims) == [before.name]
    assert join(queue, claims) == []
    Jobs(library).cancel(other.name)
    assert len(join(queue, claims)) == 1


def test_only_jobs_of_this_very_base_and_of_no_other_bank_join(library: Library) -> None:
    queue = Queue(library, bank_size=1)
    elsewhere = planned(library, suffix="elsewhere")
    queue.claim()
    Jobs(library).pause(elsewhere.name)
    queue = Queue(library)
    planned(library, suffix="first")
    claims = queue.claim()
    Jobs(library).resume(elsewhere.name)
    assert join(queue, claims) == [], "its checkpoint is another"
    Jobs(library).cancel(elsewhere.name)
    file = Uploads(library).get(elsewhere.training_file).name
    request = JobRequest(model="m", training_file=file, suffix="printed")
    printed = Jobs(library).create(request, {"m": "nowhere"}, fingerprint="another")
    assert join(queue, claims) == []
    assert join(queue, claims, {"print", "another"}) == [printed.name]
    Jobs(library).pause(printed.name)
    Jobs(library).resume(printed.name)
    assert join(queue, claims) == [], "it has not left yet"
    del claims[1:]
    assert join(queue, claims, {"another"}) == [printed.name], "of this very bank"


def test_nobody_joins_a_suspect_or_while_jobs_of_the_dead_wait(library: Library) -> None:
    planned(library, suffix="suspect")
    for _ in range(ALONE_AFTER + 1):
        queue = Queue(library)
        claims = queue.claim()
    late = planned(library, suffix="late")
    assert join(queue, claims) == []
    queue.record(claims[0].id, "on", step=1)
    dead = Queue(library)
    dead.worker, dead.place = f"{queue._where} dead", queue.place
    orphan = planned(library, suffix="orphan")
    with library.registry.database.write() as connection:
        row = SimpleNamespace(id=orphan_id(library, orphan), bank=None, status="queued")
        dead._take(connection, [row], "bank")  # type: ignore[list-item]
    assert join(queue, claims) == []
    Jobs(library).cancel(orphan.name)
    assert join(queue, claims) == [late.name]


def orphan_id(library: Library, job: Job) -> int:
    with library.registry.database.read() as connection:
        return connection.execute(sa.select(tables.jobs.c.id).where(tables.jobs.c.name == job.name)).scalar_one()


def test_an_answer_from_before_a_job_came_is_none_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.001)
    asked, answer = threading.Semaphore(0), threading.Semaphore(0)

    def own(jobs: Any) -> set[int]:
        asked.release()
        answer.acquire()
        return {1}

    queue: Any = SimpleNamespace(beat=own, own=own, waits=lambda: True)
    with Watch(queue, [1, 2]) as looks:
        asked.acquire()
        answer.release()
        asked.acquire()
        assert looks.lost == {2}
        looks.add([2, 3])
        answer.release()
        asked.acquire()
        assert looks.lost == set(), "2 has come again since it was asked"
        answer.release()
        asked.acquire()
        assert looks.lost == {2, 3}
        answer.release(1000)


# Kills

DRIVER = """
import sys
from pathlib import Path
import torch, transformers.models.llama.modeling_llama
from softprompt.jobs.door import Door
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.watch import Watch
from softprompt.library.library import Library
from softprompt.training.steps.loop import Stepper
from tests.jobs.test_joining import do_all, settings
from tests.jobs.test_kill import newest
from tests.jobs_data import queue_job
from tests.kills import kill_now_and_then

home, folder = Path(sys.argv[1]), Path(sys.argv[2])
Door.open = True
Watch.waits = property(lambda self: True, lambda self, value: None)
honest = Stepper.step

def step(self, bank, runs):
    took = honest(self, bank, runs)
    library = Library.open(home)
    here = {job.task for job in Jobs(library).page(limit=100).rows}
    for task, at in (("two", 8), ("three", 16)):
        if runs[0].task.name == "one" and runs[0].step >= at and task not in here:
            queue_job(library, folder, task, **settings(task))
    return took

Stepper.step = step
print(kill_now_and_then(lambda: do_all(Library.open(home), batch_invariant=True, every=0.0), lambda: newest(home), 3))
"""


def settings(task: str) -> dict[str, Any]:
    return {"seed": len(task), "softprompt": {"max_steps": 40 if task == "one" else 12}}


def test_kills_at_random_moments_while_jobs_join_end_in_the_versions_of_each_alone(
    base_folder: Path, tmp_path: Path
) -> None:
    whole, cut = (Library.open(tmp_path / name) for name in ("whole", "cut"))
    for task in ("one", "two", "three"):
        queue_job(whole, base_folder, task, **settings(task))
    do_all(whole, batch_invariant=True)
    queue_job(cut, base_folder, "one", **settings("one"))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(cut.home), str(base_folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"
    assert len(Jobs(cut).page().rows) == 3
    for job in Jobs(cut).page().rows:
        assert job.status == "succeeded", job.error
        assert job.model == f"{job.task}@1"
        assert len(cut.registry.versions(job.task)) == 1
        assert cut.registry.resolve(job.task).digest == whole.registry.resolve(job.task).digest
        assert messages(cut, job).count(f"published {job.model}") == 1
    assert not list((cut.runs / "jobs").iterdir())
