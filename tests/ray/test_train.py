"""`softprompt train --ray` on a real Ray: the prompts of one machine, each once, whatever becomes of workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from softprompt.bases.options import BaseOptions
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.models import save_base

pytestmark = pytest.mark.ray

CHILD = """
import sys
from pathlib import Path
import softprompt
from softprompt.progress import Bars
folder, home, source, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
base = softprompt.BaseOptions(source=source, batch_invariant=True)
with softprompt.Library.open(home) as library:
    softprompt.train_on_ray(
        sorted(folder.glob("*.yaml")), base=base, library=library, progress=Bars(), workers=2, bank_size=size, every=0.0
    )
"""
"""Keeps a checkpoint behind each step, which the command does each half a minute."""


def task_files(folder: Path, count: int = 6, **more: Any) -> list[Path]:
    """Task files, of which later ones end before earlier ones."""
    folder.mkdir()
    rows = [
        {"text": f"the {colour} {thing} {number}", "label": "good" if colour == "red" else "bad"}
        for number in range(8)
        for colour in ("red", "blue")
        for thing in ("apple", "stone")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = []
    for number in range(count):
        keys = {
            "task": f"task{number}", "data": "rows.jsonl", "labels": ["good", "bad"], "learning_rate": 0.1, "seed": number,
            "num_virtual_tokens": 5 + number % 3, "max_steps": 12 - number, "per_device_train_batch_size": 4,
        }  # fmt: skip
        files.append(folder / f"task{number}.yaml")
        files[-1].write_text(json.dumps(keys | more))
    return files


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, until the block ends, with all that it started."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those of Ray's processes that train."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [one for one in found if any("ray::Worker" in word for word in _command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def reached(log: Path) -> int:
    """How far training is, in per cent, as the terminal was told."""
    return max((int(found) for found in re.findall(r"^train: (\d+)%", log.read_text(), re.MULTILINE)), default=-1)


def until(condition: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def said(log: Path) -> str:
    """A log on one line."""
    return " ".join(log.read_text().split())


def digests(home: Path) -> dict[str, list[str]]:
    """Of all versions there are, by task, in the order in which they were published."""
    with Library.open(home) as library:
        names = [entry.task for entry in library.registry.tasks()]
        versions = {name: library.registry.versions(name) for name in names}
        first = sorted(versions, key=lambda name: versions[name][0].created_at)
        return {name: [version.digest for version in versions[name]] for name in first}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "files"
    task_files(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What one machine makes of all tasks in one bank."""
    home = tmp_path_factory.mktemp("whole") / "home"
    base = BaseOptions(source="builtin/tiny", batch_invariant=True)
    with Library.open(home) as library:
        train([*sorted(folder.glob("*.yaml"))], base=base, library=library)
    return digests(home)


def child(folder: Path, home: Path, source: str = "builtin/tiny", size: int = 2) -> list[str]:
    return [sys.executable, "-c", CHILD, str(folder), str(home), source, str(size)]


def test_a_killed_worker_costs_no_prompt_and_makes_none_twice(
    folder: Path, whole: dict[str, list[str]], tmp_path: Path
) -> None:
    """`kill -9` in the middle: every prompt is bit for bit that of one machine, there once, in the order of tasks."""
    log = tmp_path / "log"
    with started(child(folder, tmp_path / "home"), log) as process:
        until(lambda: reached(log) >= 20, process, log)
        victim, *others = workers_of(process)
        assert len(others) == 1
        victim.send_signal(signal.SIGKILL)
        assert process.wait(600) == 0, log.read_text()
    assert digests(tmp_path / "home") == whole
    assert [*digests(tmp_path / "home")] == [f"task{number}" for number in range(6)]
    assert "a worker was lost" in log.read_text()
    assert re.search(r"going on from step [1-9]\d* of a training that was stopped", log.read_text())
    assert not list((tmp_path / "home" / "runs").glob("*.checkpoint"))


def test_a_killed_driver_is_called_again(folder: Path, whole: dict[str, list[str]], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(child(folder, tmp_path / "home"), log) as process:
        until(lambda: reached(log) >= 50, process, log)
        process.kill()
        process.wait()
    with started(child(folder, tmp_path / "home"), log) as process:
        assert process.wait(600) == 0, log.read_text()
    first = re.search(r"^train: (\d+)%", log.read_text(), re.MULTILINE)
    assert first is not None
    assert int(first[1]) > 0, "the first line of a resumed training is where it goes on"
    assert digests(tmp_path / "home") == whole


def test_the_command_prints_rows_stops_at_ctrl_c_and_goes_on(
    folder: Path, whole: dict[str, list[str]], tmp_path: Path
) -> None:
    files, log, home = [str(file) for file in sorted(folder.glob("*.yaml"))], tmp_path / "log", tmp_path / "home"
    command = [sys.executable, "-m", "softprompt.cli", "train", *files, "--ray", "--batch-invariant", "--bank-size", "2"]
    command += ["--home", str(home), "--json"]
    with started(command, log) as process:
        until(lambda: reached(log) >= 20, process, log)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        output, _ = process.communicate(timeout=600)
    assert (process.returncode, output) == (130, "")
    assert said(log).count("error: stopped by SIGINT;") == 1
    assert "call the same command again to go on" in said(log)
    assert list((home / "runs").glob("*.checkpoint"))
    with started(command, log) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, log.read_text()
    rows = [json.loads(line) for line in output.splitlines()]
    assert {row["task"]: [row["digest"]] for row in rows} == whole
    assert [row["version"] for row in rows] == [1] * 6
    assert digests(home) == whole
    assert re.search(r"going on from step [1-9]\d* of a training that was stopped", log.read_text())


def test_two_processes_that_share_the_rows_of_a_bank_give_the_result_of_one(tmp_path: Path) -> None:
    """But for rounding, which one step does not enlarge; a row that was lost or counted twice changes the loss."""
    keys = {"max_steps": 1, "per_device_train_batch_size": 7, "optim": "adafactor"}
    files = task_files(tmp_path / "files", count=2, **keys)
    command = [sys.executable, "-m", "softprompt.cli", "train", *map(str, files), "--ray", "--workers", "1"]
    command += ["--processes", "2", "--home", str(tmp_path / "home"), "--json"]
    with started(command, tmp_path / "log") as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert len(output.splitlines()) == 2
    with Library.open(tmp_path / "home") as library, Library.open(tmp_path / "alone") as alone:
        for tuned in train([*files], library=alone):
            task = tuned.prompt.card.task
            prompt = SoftPrompt.from_bytes(library.read(f"{task}@1"))
            assert tuned.moved is not None
            assert tuned.moved > 0.01
            torch.testing.assert_close(prompt.vectors_PD, tuned.prompt.vectors_PD, rtol=0, atol=1e-5)
            (row,) = map(json.loads, (library.histories / f"{task}@1.jsonl").read_text().splitlines())
            assert row["loss"] == pytest.approx(tuned.history[0]["loss"], rel=1e-5)


def test_a_lost_process_of_several_ends_them_all_and_the_bank_goes_on(folder: Path, tmp_path: Path) -> None:
    script = CHILD.replace("workers=2", "workers=1, processes=2").replace(", batch_invariant=True", "")
    log = tmp_path / "log"
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "home"), "builtin/tiny", "6"]
    with started(command, log) as process:
        until(lambda: reached(log) >= 20, process, log)
        workers_of(process)[-1].send_signal(signal.SIGKILL)
        assert process.wait(600) == 0, log.read_text()
    assert {name: len(found) for name, found in digests(tmp_path / "home").items()} == {f"task{n}": 1 for n in range(6)}
    assert re.search(r"going on from step [1-9]\d* of a training that was stopped", log.read_text())


def test_another_base_under_the_same_name_is_refused_by_name(tmp_path: Path) -> None:
    """The base is exchanged, and a worker killed: the one in its place has another."""
    folder = tmp_path / "files"
    task_files(folder, count=4, max_steps=600)  # there is much to do still
    base, log = save_base(tmp_path / "one"), tmp_path / "log"
    other = save_base(tmp_path / "two", seed=1)
    with started(child(folder, tmp_path / "home", str(base)), log) as process:
        until(lambda: reached(log) >= 0 and "load: 100%" in log.read_text(), process, log)  # nobody reads the base any more
        base.rename(tmp_path / "gone")
        shutil.copytree(other, base)
        workers_of(process)[0].send_signal(signal.SIGKILL)
        assert process.wait(600) == 1, log.read_text()
    assert "BaseModelError" in said(log)
    assert "is another base on" in said(log)
    assert "put the same files on all machines" in said(log)
    assert list((tmp_path / "home" / "runs").glob("*.checkpoint"))


def refused(folder: Path, tmp_path: Path, *options: str) -> str:
    """What the command says that is refused."""
    command = [sys.executable, "-m", "softprompt.cli", "train", str(folder / "task0.yaml"), "--ray"]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "home"), *options], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_base_that_workers_cannot_load_a_ray_that_is_not_there_or_has_no_room(folder: Path, tmp_path: Path) -> None:
    base = save_base(tmp_path / "damaged")
    (base / "tokenizer.json").write_text("{")
    assert "damaged" in refused(folder, tmp_path, "--set", f"base={base}")
    room = refused(folder, tmp_path, "--worker-gpus", "64")
    assert "1 worker of 64 GPU: 64 in all" in room
    assert "--worker-gpus" in room
    assert "no Ray at '127.0.0.1:1'" in refused(folder, tmp_path, "--address", "127.0.0.1:1")
    assert not (tmp_path / "home" / "blobs").is_dir() or not list((tmp_path / "home" / "blobs").rglob("*.safetensors"))


def test_a_function_that_cannot_be_sent_is_refused_by_name(tmp_path: Path) -> None:
    lock = threading.Lock()

    def find(query: str, k: int) -> list[str]:
        with lock:
            return ["a passage"]

    rows = [{"text": f"what is {n}", "label": "good" if n % 2 else "bad"} for n in range(40)]
    task = Task(task="found", data=rows, labels=["good", "bad"], input="{passages} {text}", retriever=find, max_steps=2)
    from softprompt.errors import ConfigError
    from softprompt.training.workers.train import train_on_ray

    with Library.open(tmp_path / "home") as library, pytest.raises(ConfigError, match=r"the bank found cannot be sent"):
        train_on_ray(task, library=library, workers=1)
