"""Workers that are killed: their jobs go on, end as if nothing had happened, and are published once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softprompt.jobs.jobs import Jobs
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.records import UNFINISHED
from softprompt.jobs.starter import Starter
from softprompt.library.library import Library
from tests.jobs_data import do_all, queue_job

pytestmark = pytest.mark.slow

DRIVER = """
import sys
from pathlib import Path
import torch, transformers.models.llama.modeling_llama
from softprompt.bases.options import BaseOptions
from softprompt.jobs import bank
from softprompt.jobs.worker import trainer, work
from softprompt.library.library import Library
from tests.kills import kill_now_and_then
from tests.jobs.test_kill import newest

home = Path(sys.argv[1])

def train():
    work(Library.open(home), trainer(BaseOptions(dtype="float32", device="cpu"), 0.0), idle_seconds=0.05)

print(kill_now_and_then(train, lambda: newest(home), 4))
"""


def newest(home: Path) -> int:
    """When the last checkpoint was written."""
    return max((file.stat().st_mtime_ns for file in (home / "runs" / "jobs").glob("*.checkpoint")), default=0)


def test_four_kills_at_random_moments_end_in_the_same_versions_once(base_folder: Path, tmp_path: Path) -> None:
    homes = [Library.open(tmp_path / name) for name in ("whole", "cut")]
    for library in homes:
        for task in ("one", "two"):
            queue_job(library, base_folder, task, softprompt={"max_steps": 60})
    do_all(homes[0])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(homes[1].home)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"
    whole, cut = homes
    jobs = Jobs(cut)
    for job in jobs.page().rows:
        assert job.status == "succeeded", job.error
        assert job.model == f"{job.task}@1"
        assert len(cut.registry.versions(job.task)) == 1
        assert cut.registry.resolve(job.task).digest == whole.registry.resolve(job.task).digest
        messages = [event.message for event in jobs.events(job.name, limit=1000).rows]
        assert messages.count(f"published {job.model}") == 1
        assert messages.count("a worker goes on with the job of one that died") == 4
        assert any(message.startswith("going on from step") for message in messages)
    assert not list((cut.runs / "jobs").iterdir())


def test_a_starter_starts_one_worker_where_there_is_work(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    starter = Starter(library, options=["--dtype", "float32", "--device", "cpu", "--idle-seconds", "0.1"])
    assert not starter.ensure()
    job = queue_job(library, base_folder)
    lock = WorkerLock(library.home)
    assert lock.acquire()
    assert not starter.ensure(), "a worker is there"
    lock.release()
    assert starter.ensure()
    assert not starter.ensure(), "it was started just now"
    starter.close()
    deadline = time.monotonic() + 120
    while Jobs(library).get(job.name).status in UNFINISHED:
        assert time.monotonic() < deadline, (library.home / "worker.log").read_text()
        time.sleep(0.1)
    assert Jobs(library).get(job.name).status == "succeeded"
    assert lock.acquire(patience=30), "it ends by itself"


def test_the_log_of_the_worker_before_is_kept(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    queue_job(library, base_folder)
    starter = Starter(library, command=[sys.executable, "-c", "print(1234)"], pause_seconds=0.0, largest_log=3)
    deadline = time.monotonic() + 60
    starts = 0
    while starts < 3:  # the third sees that the second has ended
        assert time.monotonic() < deadline
        starts += starter.ensure()
        time.sleep(0.01)
    starter.close()
    assert (library.home / "worker.log.1").read_text() == "1234\n"


def test_a_worker_that_cannot_start_is_started_more_and_more_seldom(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    queue_job(library, base_folder)
    starter = Starter(library, command=[sys.executable, "-c", "raise SystemExit(3)"], pause_seconds=0.2)
    starts = 0
    began = time.monotonic()
    while starts < 3:
        starts += starter.ensure()
        time.sleep(0.01)
    assert time.monotonic() - began > 0.2 + 0.4
    assert starter._pause >= 0.8
    starter.close()
