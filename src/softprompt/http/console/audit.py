"""The audit: who changed what, when, from what to what."""

from __future__ import annotations

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from softprompt.errors import LibraryError
from softprompt.http.console.pages import PAGE_ROWS, Admin, OwnLibrary, Page, problem_of, render
from softprompt.http.console.session import HOME
from softprompt.http.console.task import check_name
from softprompt.registry.records import AuditEntry

router = APIRouter(prefix=HOME, route_class=Page)

MOST_PAGES = 1000


@router.get("/audit")
def show(
    request: Request, library: OwnLibrary, _: Admin, task: str = "", page: int = Query(1, ge=1, le=MOST_PAGES)
) -> Response:
    """A page of the audit, newest first; of one task where it is named."""
    entries: list[AuditEntry] = []
    problem = None
    try:
        name = check_name(task.strip()) if task.strip() else None
        entries = library.registry.audit(name, page * PAGE_ROWS + 1)[::-1]
    except LibraryError as error:
        problem = problem_of(error)
    shown = entries[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return render(
        request, "audit.html", status=200 if problem is None else 404, entries=shown, task=task, page=page,
        more=len(entries) > page * PAGE_ROWS, problem=problem,
    )  # fmt: skip
