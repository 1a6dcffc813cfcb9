"""What trainings and uploads leave in a home: counted, told, and deleted when nobody will come for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from softprompt.cli.library import OLD_DAYS
from softprompt.errors import LibraryError
from softprompt.jobs.uploads import Uploads
from softprompt.library import leftovers
from softprompt.library.library import Library
from tests.commands import Run
from tests.library_data import make_prompt, state_of

ROWS = b'{"text": "a", "label": "b"}\n'


def leave(home: Path, name: str, days: float) -> str:
    path = home / "runs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return f"runs/{name}"


def test_checkpoints_are_counted_and_the_old_ones_are_swept(run: Run, home: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt(), base="b")
    old = [
        leave(home, "a.checkpoint", 31),
        leave(home, "b.7.partial", 1),
        leave(home, "jobs/d.checkpoint", 99),
        leave(home, "jobs/e.8.partial", 0.1),
    ]
    kept = [
        *(leave(home, "f.checkpoint", 29), leave(home, "g.9.partial", 0), leave(home, "jobs/h.checkpoint", 3)),
        *(leave(home, "trec6@1.jsonl", 999), leave(home, "jobs/trec6@1.jsonl", 999), leave(home, "notes.txt", 999)),
    ]
    (stats,) = run("library", "stats", "--json").rows
    assert (stats["checkpoints"], stats["checkpoint_bytes"], stats["uploads"]) == (7, 35, 0)
    before = state_of(home)
    rows = run("library", "gc", "--json").rows
    assert [(row["file"], row["bytes"], row["digest"]) for row in rows] == [(name, 5, None) for name in old]
    assert rows[0]["why"] == "a checkpoint of 31 days ago"
    assert state_of(home) == before
    shown = run("library", "gc").out
    assert "runs/jobs/d.checkpoint" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert all(row["deleted"] for row in run("library", "gc", "--yes", "--json").rows)
    assert [name for name in (*old, *kept) if (home / name).exists()] == kept
    assert [row["file"] for row in run("library", "gc", "--older-than", "2.5", "--json").rows] == [kept[0], kept[2]]
    assert OLD_DAYS == leftovers.OLD_DAYS


def test_a_checkpoint_that_was_written_since_the_plan_stays(home: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt(), base="b")
        leave(home, "a.checkpoint", 31)
        leave(home, "b.checkpoint", 31)
        plan = library.plan_sweep()
        (home / leave(home, "a.checkpoint", 0)).write_bytes(b"further")
        assert library.sweep(plan) == ["runs/b.checkpoint"]
        assert (home / "runs" / "a.checkpoint").read_bytes() == b"further"
        assert library.sweep(plan) == ["runs/b.checkpoint"]  # which is gone


def test_an_upload_that_was_cut_short_is_swept_and_one_that_is_named_is_not(home: Path) -> None:
    with Library.open(home) as library:
        uploads = Uploads(library)
        stray = uploads.store
        stray.create()
        lost = stray.put(b"its row was never written")
        assert library.plan_sweep() == [], "no upload is named: the registry may be another one"
        upload = uploads.add(ROWS, "rows.jsonl")
        (item,) = library.plan_sweep()
        assert (item.file, item.bytes) == (f"files/{lost}", 25)
        assert library.stats()["uploads"] == 2
        assert library.gc() == []
        assert not stray.has(lost)
        assert uploads.read(upload) == ROWS


def test_an_upload_that_is_named_since_the_plan_stays(home: Path) -> None:
    with Library.open(home) as library:
        uploads = Uploads(library)
        uploads.add(ROWS, "other.jsonl")
        uploads.store.put(ROWS * 2)
        plan = library.plan_sweep()
        upload = uploads.add(ROWS * 2, "rows.jsonl")
        assert len(plan) == 1
        assert library.sweep(plan) == []
        assert uploads.read(upload) == ROWS * 2


def test_what_cannot_be_deleted_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library.open(home) as library:
        name = leave(home, "a.checkpoint", 31)

        def refuse(path: Path, missing_ok: bool = False) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(LibraryError, match=r"a\.checkpoint cannot be deleted: Permission denied"):
            library.sweep()
    assert (home / name).exists()


def test_a_training_that_goes_on_finds_its_checkpoint(home: Path) -> None:
    """What is swept is what is old: one that was written today is not, however many there are."""
    with Library.open(home) as library:
        names = [leave(home, f"{number}.checkpoint", 0) for number in range(3)]
        assert library.gc() == []
    assert all((home / name).exists() for name in names)
