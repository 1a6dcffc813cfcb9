"""A/B: experiments between two versions of a task, begun, looked at, ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from softprompt.errors import ConfigError, LibraryError
from softprompt.http.console.pages import Admin, OwnLibrary, Page, Reader, go, problem_of, render
from softprompt.http.console.session import HOME
from softprompt.http.console.task import check_name
from softprompt.library.library import Library
from softprompt.lifecycle import experiments
from softprompt.registry.traffic.experiments import RUNNING

router = APIRouter(prefix=HOME, route_class=Page)

SHOWN = 50


@router.get("/ab")
def show(request: Request, library: OwnLibrary, _: Reader, task: str = "") -> Response:
    """The experiments there are, and a form for a new one."""
    return _page(request, library, {"task": task, "weight": "0.5"})


@router.post("/ab")
def start(
    request: Request,
    library: OwnLibrary,
    _: Admin,
    task: Annotated[str, Form()] = "",
    control: Annotated[str, Form()] = "",
    candidate: Annotated[str, Form()] = "",
    weight: Annotated[str, Form()] = "0.5",
    max_outcomes: Annotated[str, Form()] = "",
    shadow: Annotated[bool, Form()] = False,
    auto: Annotated[bool, Form()] = False,
) -> Response:
    """Begin an experiment."""
    values = {"task": task, "control": control, "candidate": candidate, "weight": weight, "max_outcomes": max_outcomes}
    try:
        made = experiments.start(
            library,
            task.strip(),
            control=control.strip() or None,
            candidate=candidate.strip() or None,
            weight=_number(weight, "weight"),
            max_outcomes=int(_number(max_outcomes, "outcomes")) if max_outcomes.strip() else None,
            shadow=shadow,
            auto=auto,
        )
    except (ConfigError, LibraryError) as error:
        return _page(request, library, values, problem=problem_of(error), status=400)
    return go("ab", made.task)


@router.get("/ab/{task}")
def of_task(request: Request, library: OwnLibrary, _: Reader, task: str) -> Response:
    """The experiment of a task that runs, or ran last."""
    return _of_task(request, library, check_name(task), part="hx-request" in request.headers)


@router.post("/ab/{task}/weight")
def change(request: Request, library: OwnLibrary, _: Admin, task: str, weight: Annotated[str, Form()] = "") -> Response:
    """Give the candidate another share."""
    try:
        experiments.change(library, check_name(task), weight=_number(weight, "weight"))
    except (ConfigError, LibraryError) as error:
        return _of_task(request, library, task, problem=problem_of(error), status=409)
    return go("ab", task)


@router.post("/ab/{task}/stop")
def stop(request: Request, library: OwnLibrary, _: Admin, task: str, winner: Annotated[str, Form()] = "") -> Response:
    """End it; a winner is promoted."""
    try:
        experiments.stop(library, check_name(task), winner=winner or None)
    except LibraryError as error:
        return _of_task(request, library, task, problem=problem_of(error), status=409)
    return go("ab", task)


def _of_task(
    request: Request, library: Library, task: str, *, problem: str | None = None, status: int = 200, part: bool = False
) -> Response:
    rows = experiments.status(library, task)
    return render(
        request, "ab-rows.html" if part else "ab-task.html", status=status, task=task, rows=rows,
        running=rows[0]["state"] == RUNNING, problem=problem,
    )  # fmt: skip


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{what}: {text!r} is no number; give one") from None


def _page(
    request: Request, library: Library, values: dict[str, str], *, problem: str | None = None, status: int = 200
) -> Response:
    found = library.registry.experiments.newest(SHOWN)
    filled = dict.fromkeys(("task", "control", "candidate", "weight", "max_outcomes"), "") | values
    return render(
        request, "ab.html", status=status, experiments=[(one, experiments.rows(one)) for one in found], values=filled,
        problem=problem,
    )  # fmt: skip
