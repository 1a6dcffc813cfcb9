"""The console's routes, family by family."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from softprompt.http.console import (
    audit,
    drift,
    experiments,
    jobs,
    keys,
    library,
    map,
    playground,
    reviews,
    signin,
    task,
    train,
)
from softprompt.http.console.pages import Page
from softprompt.http.console.session import HOME
from softprompt.http.errors import ApiError

router = APIRouter(include_in_schema=False)
families = (signin, library, map, task, playground, train, jobs, reviews, experiments, drift, keys, audit)
for family in families:
    router.include_router(family.router)

_rest = APIRouter(prefix=HOME, route_class=Page)


@_rest.get("/{path:path}")
def nowhere(request: Request, path: str) -> Response:
    """What no page is."""
    raise ApiError(404, f"there is no page {request.url.path}; {HOME} has them all")


router.include_router(_rest)
