"""The review queue: rows that were answered with little confidence, for somebody to say the right answer."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from softprompt.errors import ConfigError
from softprompt.http.console.pages import PAGE_ROWS, OwnLibrary, Page, Trainer, go, problem_of, render, to
from softprompt.http.console.session import HOME
from softprompt.http.console.task import check_name
from softprompt.library.library import Library
from softprompt.registry.traffic.reviews import Review
from softprompt.tasks.form import Form as TaskForm

router = APIRouter(prefix=HOME, route_class=Page)


@router.get("/review")
def show(request: Request, library: OwnLibrary, _: Trainer) -> Response:
    """The tasks that have rows for review."""
    return render(request, "review.html", counts=library.registry.reviews.counts())


@router.get("/review/{task}")
def of_task(request: Request, library: OwnLibrary, _: Trainer, task: str, every: bool = False) -> Response:
    """The rows of a task that nobody has labelled, or all."""
    return _page(request, library, check_name(task), every=every)


@router.post("/review/{task}")
def label(
    request: Request,
    library: OwnLibrary,
    _: Trainer,
    task: str,
    row: Annotated[int, Form()],
    answer: Annotated[str, Form()] = "",
    every: Annotated[bool, Form()] = False,
) -> Response:
    """Say the right answer of a row."""
    form = _form(library, check_name(task))
    try:
        told = form.answer({form.target_field: answer}, f"row {row}")
    except ConfigError as error:
        return _page(request, library, task, every=every, problem=problem_of(error), status=400)
    library.registry.reviews.label(task, {row: told})
    if "hx-request" in request.headers:
        return _page(request, library, task, every=every)
    return go("review", task, every="true" if every else "")


@router.post("/review/{task}/erase")
def erase(library: OwnLibrary, _: Trainer, task: str, row: Annotated[int, Form()]) -> Response:
    """Take a row away for good."""
    library.registry.reviews.erase(check_name(task), [row])
    return go("review", task)


@router.get("/review/{task}/rows.jsonl")
def download(library: OwnLibrary, _: Trainer, task: str) -> Response:
    """The rows that have an answer, as training rows."""
    form = _form(library, check_name(task))
    rows = [one for one in library.registry.reviews.of(task) if one.answer is not None]
    lines = "".join(json.dumps(_row(form, one), ensure_ascii=False) + "\n" for one in rows)
    headers = {"content-disposition": f'attachment; filename="{task}-review.jsonl"'}
    return Response(lines, media_type="application/jsonl", headers=headers)


def _row(form: TaskForm, one: Review) -> dict[str, object]:
    answer = one.answer or ""
    return dict(form.row_of(one.text)) | {form.target_field: list(form.each(answer)) if form.is_set else answer}


def _form(library: Library, task: str) -> TaskForm:
    return TaskForm.of_card(library.registry.resolve(task).card)


def _page(
    request: Request, library: Library, task: str, *, every: bool, problem: str | None = None, status: int = 200
) -> Response:
    rows = library.registry.reviews.of(task)
    form = _form(library, task)
    asked = rows if every else [one for one in rows if one.answer is None]
    asked = sorted(asked, key=lambda one: one.confidence)
    part = "hx-request" in request.headers
    return render(
        request, "review-rows.html" if part else "review-task.html", status=status, task=task, rows=asked[:PAGE_ROWS],
        left=len(asked), total=len(rows), labelled=sum(one.answer is not None for one in rows), every=every,
        labels=list(form.labels) if form.labels is not None and not form.is_set else None, is_set=form.is_set,
        problem=problem, address=to("review", task),
    )  # fmt: skip
