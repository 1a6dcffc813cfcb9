"""200 rounds of `kill -9` at random moments: no acknowledged change is lost, and `verify` has nothing to object to."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softprompt.library.library import Library
from tests.services.kill9_worker import TASKS, work

pytestmark = pytest.mark.services

ROUNDS = 100
WORKERS = 3


def test_folder_and_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _kill_and_check(tmp_path, None, None, capsys)
    assert list((tmp_path / "home" / "blobs.tmp").iterdir()) == []


def test_redis_and_postgres(
    redis_url: str, postgres_database: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _kill_and_check(tmp_path, postgres_database(), redis_url, capsys)


def _kill_and_check(folder: Path, registry: str | None, store: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    home = folder / "home"
    _kill_often(folder, (str(home), registry, store))
    logged = [row for log in sorted(folder.glob("*.log")) for row in _whole_lines(log)]
    done = Counter(row["did"] for row in logged)
    with capsys.disabled():
        sys.stdout.write(f"\n{ROUNDS} kills; acknowledged: {dict(done)}\n")
    unexpected = [row["why"] for row in logged if "bug" in row.get("why", "") or "database is locked" in row.get("why", "")]
    assert not unexpected
    for kind in ("publish", "promote", "delete", "restore", "rollback", "gc"):
        assert done[kind] >= 5, f"too few to say anything: {done}"
    with Library.open(home, registry=registry, store=store) as library:
        report = library.verify()
        assert report.problems == []
        _check_versions(library, logged)
        _check_moves(library, logged)
        library.gc()
        report = library.verify()
        assert (report.problems, report.unneeded) == ([], 0)
        for task in TASKS:  # life goes on
            assert library.read(library.registry.versions(task, deleted=False)[-1])


def _kill_often(folder: Path, place: tuple[str, str | None, str | None]) -> None:
    """Run workers, and kill one after the other while all are at work."""
    context = multiprocessing.get_context("forkserver")  # starts a worker in milliseconds
    context.set_forkserver_preload(["tests.services.kill9_worker", "psycopg", "redis", "softprompt.stores.redis_server"])
    choose = random.Random(9)
    seeds = iter(range(1_000_000))

    def start() -> Any:
        seed = next(seeds)
        log = folder / f"worker{seed:04}.log"
        process = context.Process(target=work, args=(*place, str(log), seed), daemon=True)
        process.start()
        return process, log

    workers = [start() for _ in range(WORKERS)]
    for _ in range(ROUNDS):
        victim = choose.randrange(WORKERS)
        process, log = workers[victim]
        deadline = time.monotonic() + 60
        while not log.exists() or not log.stat().st_size:
            assert process.is_alive(), f"a worker ended by itself: {process.exitcode}"
            assert time.monotonic() < deadline, "a worker does nothing"
            time.sleep(0.01)
        time.sleep(choose.uniform(0, 0.5))
        assert process.is_alive(), f"a worker ended by itself: {process.exitcode}"
        process.kill()
        process.join()
        process.close()
        workers[victim] = start()
    for process, _ in workers:
        process.kill()
        process.join()
        process.close()


def _whole_lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last may have been cut by the kill."""
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]]


def _check_versions(library: Library, logged: list[dict[str, Any]]) -> None:
    """Every published version is there, with its bytes; numbers have no gap and none was given twice."""
    for task in TASKS:
        versions = {version.number: version for version in library.registry.versions(task)}
        assert sorted(versions) == list(range(1, len(versions) + 1))
        published = [row for row in logged if row["did"] == "publish" and row["task"] == task]
        assert len({row["number"] for row in published}) == len(published)
        for row in published:
            assert versions[row["number"]].digest == row["digest"]
        for version in versions.values():
            if not version.purged:
                library.read(version)


def _check_moves(library: Library, logged: list[dict[str, Any]]) -> None:
    """Every move, deletion and restoration is in the audit, and the state is where the audit ends."""
    for task in TASKS:
        entries = library.registry.audit(task)
        marks = {entry.reason for entry in entries}
        aliases: dict[str, int] = {}
        deleted: dict[int, bool] = {}
        counted: Counter[tuple[str, int]] = Counter()
        for entry in entries:
            if entry.action in ("promote", "rollback"):
                assert entry.before is not None
                assert entry.after is not None
                assert aliases.get(entry.after["alias"]) == entry.before["version"], "a move was lost"
                aliases[entry.after["alias"]] = entry.after["version"]
            elif entry.action in ("delete", "restore"):
                number = (entry.before or entry.after or {})["version"]
                deleted[number] = entry.action == "delete"
                counted[entry.action, number] += 1
        assert library.registry.aliases.of(task) == aliases
        assert {v.number for v in library.registry.versions(task) if v.deleted} == {n for n, gone in deleted.items() if gone}
        mine = [row for row in logged if row.get("task") == task]
        assert {row["mark"] for row in mine if row["did"] in ("promote", "rollback")} <= marks
        acknowledged = Counter((row["did"], row["number"]) for row in mine if row["did"] in ("delete", "restore"))
        assert all(counted[change] >= times for change, times in acknowledged.items())
