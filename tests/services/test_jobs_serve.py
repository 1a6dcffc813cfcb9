"""`softprompt serve`, its worker, and `kill -9` of either: what was queued ends, once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from softprompt.jobs.jobs import Jobs
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.records import UNFINISHED
from softprompt.library.library import Library
from tests.jobs_data import lines
from tests.services.served import Served, wait, worker_of

pytestmark = pytest.mark.services


def test_server_and_worker_are_killed_and_jobs_end_once(base_folder: Path, tmp_path: Path) -> None:
    check(base_folder, tmp_path / "home")


def test_on_postgres(base_folder: Path, tmp_path: Path, postgres_database: Callable[[], str]) -> None:
    check(base_folder, tmp_path / "home", "--registry", postgres_database())


def check(base: Path, home: Path, *place: str) -> None:
    home.mkdir()
    server = Served(home, base, *place)
    with Library.open(home, registry=place[1] if place else None) as library:
        follow(server, library, base, place)


def follow(server: Served, library: Library, base: Path, place: tuple[str, ...]) -> None:
    home, jobs = library.home, Jobs(library)
    file = server.client.files.create(file=("rows.jsonl", lines()), purpose="fine-tune")
    settings = {"max_steps": 3000, "num_virtual_tokens": 6, "per_device_train_batch_size": 4, "eval_per_epoch": 1}
    first, second = (
        server.client.fine_tuning.jobs.create(
            model=server.base, training_file=file.id, suffix=name, extra_body={"softprompt": settings}
        ).id
        for name in ("first", "second")
    )
    wait(lambda: jobs.get(first).step > 0)
    worker = worker_of(home)
    server.kill()
    before = jobs.get(first).step
    wait(lambda: jobs.get(first).step > before)  # the worker has outlived its server
    os.kill(worker, signal.SIGKILL)
    wait(WorkerLock(home).is_free)
    assert jobs.get(first).status == "running"

    server = Served(home, base, *place)
    wait(lambda: {jobs.get(first).status, jobs.get(second).status}.isdisjoint(UNFINISHED))
    for name, task in ((first, "first"), (second, "second")):
        job = server.client.fine_tuning.jobs.retrieve(name)
        assert (job.status, job.fine_tuned_model) == ("succeeded", f"{task}@1"), job.error
        assert len(library.registry.versions(task)) == 1
        published = [event for event in server.client.fine_tuning.jobs.list_events(name, limit=1000) if
                     re.fullmatch(f"published {task}@1", event.message)]  # fmt: skip
        assert len(published) == 1
    answer = server.client.post("/classify", body={"model": "first", "input": "the red apple 3"}, cast_to=object)
    assert answer["data"][0]["label"] in ("good", "bad")  # type: ignore[index]
    server.kill()
