"""Trainings: listed, watched while they go on, stopped."""

from __future__ import annotations

from typing import Any

import yaml
from fastapi import APIRouter, Request
from starlette.responses import Response

from softprompt.http.console.pages import OwnLibrary, Page, Trainer, go, render
from softprompt.http.console.session import HOME
from softprompt.http.state import state_of
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.records import UNFINISHED, Job
from softprompt.library.library import Library

router = APIRouter(prefix=HOME, route_class=Page)

SHOWN = 25
"""Jobs on a page."""
MOST_EVENTS = 1000
SHOWN_EVENTS = 40
OVER = 286
"""The status that ends htmx's polling."""


@router.get("/jobs")
def show(request: Request, library: OwnLibrary, _: Trainer, after: str | None = None) -> Response:
    """A page of jobs, newest first."""
    page = Jobs(library).page(after=after, limit=SHOWN)
    part = "hx-request" in request.headers
    return render(
        request, "jobs-list.html" if part else "jobs.html", jobs=page.rows, more=page.more, after=after,
        live=any(job.status in UNFINISHED for job in page.rows), trains=state_of(request).training is not None,
    )  # fmt: skip


@router.get("/jobs/{job}")
def watch(request: Request, library: OwnLibrary, _: Trainer, job: str) -> Response:
    """A job, with what has happened so far; the part that changes is asked for again while it runs."""
    found = Jobs(library).get(job)
    told = yaml.safe_dump(dict(found.config), sort_keys=False, allow_unicode=True)
    return render(request, "job.html", task_file=told, request_of=found.request, **_state(library, found))


@router.get("/jobs/{job}/live")
def live(request: Request, library: OwnLibrary, _: Trainer, job: str) -> Response:
    """The part that changes."""
    found = Jobs(library).get(job)
    status = 200 if found.status in UNFINISHED else OVER
    return render(request, "job-live.html", status=status, alone=True, **_state(library, found))


@router.post("/jobs/{job}/stop")
def stop(library: OwnLibrary, _: Trainer, job: str) -> Response:
    """Stop a job that waits or runs; others in its bank go on."""
    Jobs(library).cancel(job)
    return go("jobs", job)


def _state(library: Library, job: Job) -> dict[str, Any]:
    """What a page says of a job."""
    events = Jobs(library).events(job.name, limit=MOST_EVENTS).rows
    measured = [event.data for event in events[::-1] if event.data is not None]
    total = next((data["total_steps"] for data in reversed(measured) if "total_steps" in data), None)
    names = [name for name in dict.fromkeys(key for data in measured for key in data) if name.startswith("valid_")]
    return {
        "job": job,
        "unfinished": job.status in UNFINISHED,
        "events": events[:SHOWN_EVENTS],
        "total": total,
        "share": None if not total else job.step / total,
        "loss": [(data["step"], data.get("train_loss")) for data in measured],
        "valid": {name.removeprefix("valid_"): [(d["step"], d.get(name)) for d in measured if name in d] for name in names},
    }
