"""`softprompt jobs`: what it lists, shows and cancels."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.jobs.jobs import Jobs
from softprompt.jobs.records import Job
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from tests.commands import Run
from tests.jobs_data import lines


def queued(home: Path, task: str, tenant: str = "default") -> Job:
    """A job that waits."""
    with Library.open(home, tenant=tenant) as library:
        request = JobRequest(model="m", training_file=Uploads(library).add(lines(), "rows.jsonl").name, suffix=task)
        return Jobs(library).create(request, {"m": "nowhere"})


def test_jobs_are_listed_newest_first_and_of_one_tenant(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Library.open(home).close()
    assert run("jobs", "list", "--json").rows == []
    first, second = queued(home, "a-task-with-a-name-of-some-length"), queued(home, "two")
    theirs = queued(home, "theirs", tenant="acme")
    rows = run("jobs", "list", "--json").rows
    assert [(row["job"], row["task"], row["status"]) for row in rows] == [
        (second.name, "two", "queued"),
        (first.name, "a-task-with-a-name-of-some-length", "queued"),
    ]
    assert [row["job"] for row in run("jobs", "list", "--limit", "1", "--json").rows] == [second.name]
    assert [row["job"] for row in run("jobs", "list", "--tenant", "acme", "--json").rows] == [theirs.name]
    shown = run("jobs", "list").out
    assert first.name in shown
    assert second.name in shown  # whole, in the 80 columns that a terminal has at least


def test_a_job_is_shown_with_its_last_events(run: Run, home: Path) -> None:
    job = queued(home, "one")
    (row,) = run("jobs", "show", job.name, "--json").rows
    assert (row["job"], row["status"], row["config"]["task"]) == (job.name, "queued", "one")
    messages = [event["message"] for event in row["events"]]
    assert any("labels were inferred" in message for message in messages)
    (last,) = run("jobs", "show", job.name, "--events", "1", "--json").rows
    assert [event["message"] for event in last["events"]] == messages[-1:]
    (none,) = run("jobs", "show", job.name, "--events", "0", "--json").rows
    assert none["events"] == []
    shown = run("jobs", "show", job.name)
    assert shown.code == 0
    assert job.name in shown.out
    assert "Events" in shown.out


def test_a_job_is_cancelled_once(run: Run, home: Path) -> None:
    job = queued(home, "one")
    (row,) = run("jobs", "cancel", job.name, "--json").rows
    assert (row["job"], row["status"]) == (job.name, "cancelled")
    assert "cancelled" in run("jobs", "cancel", job.name).refused()
    (row,) = run("jobs", "show", job.name, "--json").rows
    assert row["status"] == "cancelled"


def test_jobs_that_are_not_there_or_another_tenants_are_refused_alike(run: Run, home: Path) -> None:
    theirs = queued(home, "theirs", tenant="acme")
    for command in ("show", "cancel"):
        answer = [run("jobs", command, name).refused().replace(name, "") for name in (theirs.name, "ftjob-none")]
        assert answer[0] == answer[1]
    (row,) = run("jobs", "list", "--tenant", "acme", "--json").rows
    assert row["status"] == "queued"
