"""Whether the server runs and can answer, and its counters."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from softprompt.errors import SoftPromptError
from softprompt.http.auth import comes_from_here
from softprompt.http.body import respond
from softprompt.http.state import state_of
from softprompt.http.traffic import CONTENT_TYPE, exposition

READY_S = 2.0
"""Seconds that the registry has to answer."""

ENGINE_ENDED = "the engine has ended"
"""The status of a server that will not answer again."""

router = APIRouter(tags=["server"])


class Status(BaseModel):
    """How the server is."""

    status: str


class Ready(Status):
    """A server that can answer."""

    status: str = "ready"
    base: str
    fingerprint: str


@router.get("/health", response_model=Status)
@router.get("/healthz", response_model=Status)
async def alive() -> Response:
    """Whether the server runs."""
    return respond(Status(status="ok"))


@router.get("/readyz", response_model=Ready, responses={503: {"model": Status, "description": "Not ready."}})
async def ready(request: Request) -> Response:
    """Whether it can answer: the base is loaded, its engine runs, the registry answers, and the server is not stopping."""
    state = state_of(request)
    if state.draining:
        return respond(Status(status="stopping"), 503)
    if not state.service.engine.status().accepts:
        return respond(Status(status=ENGINE_ENDED), 503)
    try:
        await asyncio.wait_for(asyncio.to_thread(state.keyring.registry.keys.any_live), READY_S)
    except (SoftPromptError, TimeoutError):
        return respond(Status(status="the registry does not answer"), 503)
    return respond(Ready(base=state.service.base_name, fingerprint=state.service.fingerprint))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format. Where there are keys, those of tasks are for `admin` keys and this machine."""
    state = state_of(request)
    tasks = not await state.keyring.needed() or comes_from_here(request.client, request.headers)
    authorization = request.headers.get("authorization")
    if not tasks and authorization is not None:
        tasks = (await state.keyring.identify(authorization)).allows("admin")
    return Response(exposition(state.service.monitor.registry, tasks=tasks), media_type=CONTENT_TYPE)
