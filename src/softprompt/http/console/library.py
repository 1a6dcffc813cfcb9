"""The library: its tasks, searched, a page at a time."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from softprompt.errors import NameRefused
from softprompt.http.console.pages import PAGE_ROWS, OwnLibrary, Page, Reader, problem_of, render
from softprompt.http.console.session import HOME
from softprompt.registry.listing import Filters
from softprompt.registry.records import Entry

router = APIRouter(prefix=HOME, route_class=Page)


@router.get("")
@router.get("/")
def show(
    request: Request,
    library: OwnLibrary,
    _: Reader,
    q: str = "",
    tag: str = "",
    base: str = "",
    metric: str = "",
    every: bool = False,
    page: int = 1,
) -> Response:
    """The newest version of each task, or every version, that passes the filters."""
    entries: list[Entry] = []
    problem = None
    try:
        entries = library.registry.tasks(
            Filters(task=pattern(q), tag=tag.strip() or None, base=base.strip() or None, metric=metric.strip() or None,
                    every=every)
        )  # fmt: skip
    except NameRefused as error:
        problem = problem_of(error)
    pages = max(1, -(-len(entries) // PAGE_ROWS))
    at = min(max(1, page), pages)
    filters = {"q": q, "tag": tag, "base": base, "metric": metric, "every": "true" if every else ""}
    part = "hx-request" in request.headers
    return render(
        request, "library-list.html" if part else "library.html", entries=entries[(at - 1) * PAGE_ROWS : at * PAGE_ROWS],
        total=len(entries), page=at, pages=pages, filters=filters, problem=problem, filtered=any(filters.values()),
    )  # fmt: skip


def pattern(text: str) -> str | None:
    """A search as a pattern of names: with * or ? as it stands, else anywhere in the name."""
    told = text.strip()
    if not told:
        return None
    return told if set("*?") & set(told) else f"*{told}*"
