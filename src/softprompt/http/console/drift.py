"""Drift: whether what servers saw of a version still looks like what it was tuned for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from softprompt.http.console.pages import OwnLibrary, Page, Reader, Said, render, sentence
from softprompt.http.console.session import HOME
from softprompt.http.console.task import check_name
from softprompt.lifecycle.drift.drift import HOURS, Look, look
from softprompt.lifecycle.drift.page import KINDS, bars, sample_of
from softprompt.names import Ref

router = APIRouter(prefix=HOME, route_class=Page)

SHOWN = 100


@router.get("/drift")
def show(request: Request, library: OwnLibrary, _: Reader) -> Response:
    """The versions that servers saw rows of."""
    return render(request, "drift.html", seen=library.registry.windows.seen(SHOWN))


@router.get("/drift/{task}")
def of_version(
    request: Request,
    library: OwnLibrary,
    _: Reader,
    task: str,
    version: int | None = None,
    hours: float = Query(HOURS, gt=0, le=24 * 365),
) -> Response:
    """A version's rows of the last hours beside those that it was tuned for."""
    found = library.registry.resolve(str(Ref(check_name(task), number=version)))
    progress = Said()
    seen = look(found.ref, library=library, hours=hours, progress=progress)
    return render(
        request, "drift-version.html", task=task, version=found.number, look=seen, rows=seen.rows if seen else [],
        drawn=_drawn(seen) if seen else [], notes=[sentence(one) for one in progress.said], hours=hours,
        versions=[one.number for one in library.registry.versions(task, deleted=False)][::-1],
    )  # fmt: skip


def _drawn(found: Look) -> list[dict[str, Any]]:
    """The bars of each kind of figure, of then and of now."""
    verdicts = {one.what: one for one in found.verdicts}
    drawn = []
    for what, axis in KINDS:
        own = sample_of(found, verdicts.get(what)).tally
        names, before = bars(what, own, found.tally, own)
        _, now = bars(what, own, found.tally, found.tally)
        drawn.append(
            {
                "title": what if what == axis else f"{what}, by {axis}",
                "names": names,
                "series": {"reference": before, "now": now},
            }
        )
    return drawn
