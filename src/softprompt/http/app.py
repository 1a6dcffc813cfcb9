"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from softprompt.errors import NameRefused, NotFound, SoftPromptError
from softprompt.http import errors, predict
from softprompt.http.answers import ChatAnswer, ClassifyAnswer, CompletionAnswer, ModelList, ModelObject, model_object
from softprompt.http.auth import Caller, comes_from_here, need
from softprompt.http.body import StrictRoute
from softprompt.http.call import whole
from softprompt.http.middleware import Middleware
from softprompt.http.schemas import ChatRequest, ClassifyRequest, CompletionRequest
from softprompt.http.state import ServerState, state_of
from softprompt.http.traffic import CONTENT_TYPE, exposition

READY_S = 2.0
"""Seconds that the registry has to answer."""

_DESCRIPTION = """One frozen language model, a library of tuned soft prompts: `model` names the task.

`task` means its production version, else its newest; `task@3` and `task@production` name one; the base's own name means no
prompt; `auto` lets the input choose. Answers are greedy unless a temperature is given. With `stream`, an answer comes as
server-sent events."""


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """A refusal."""

    error: ErrorDetail


_REFUSALS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorAnswer, "description": "Another refusal."},
    400: {"model": ErrorAnswer, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorAnswer, "description": "A key is needed."},
    403: {"model": ErrorAnswer, "description": "The key lacks the scope."},
    404: {"model": ErrorAnswer, "description": "No such model."},
    408: {"model": ErrorAnswer, "description": "The body did not come."},
    413: {"model": ErrorAnswer, "description": "The body is too long."},
    429: {"model": ErrorAnswer, "description": "Too much at once; `retry-after` says when to come again."},
    503: {"model": ErrorAnswer, "description": "The server is stopping, or its library cannot be reached."},
}
_EVENTS = {"text/event-stream": {"schema": {"type": "string", "description": "With `stream`: chunks, then `[DONE]`."}}}

router = APIRouter(route_class=StrictRoute)


@router.get("/v1/models", response_model=ModelList, tags=["models"])
async def list_models(request: Request, caller: Annotated[Caller, Depends(need("read"))]) -> Response:
    """The base, and the tasks that have prompts on it."""
    rows = await state_of(request).live.models(caller.tenant)
    return whole(ModelList(data=[model_object(row, caller.tenant) for row in rows]))


@router.get("/v1/models/{model:path}", response_model=ModelObject, tags=["models"])
async def get_model(
    request: Request,
    model: Annotated[str, Path(description="Any name that requests may use, but `auto`.")],
    caller: Annotated[Caller, Depends(need("read"))],
) -> Response:
    """One model: a task, a version of it, or the base."""
    try:
        row = await state_of(request).live.model(caller.tenant, model)
    except (NotFound, NameRefused) as error:
        raise errors.unknown_model(error) from error
    return whole(model_object(row, caller.tenant))


@router.post(
    "/v1/completions",
    response_model=CompletionAnswer,
    responses={200: {"content": _EVENTS}},
    dependencies=[Depends(need("predict"))],
    tags=["answers"],
)
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continue raw text or token ids behind a task's prompt; no template is put around them."""
    return await predict.complete(request, body)


@router.post(
    "/v1/chat/completions",
    response_model=ChatAnswer,
    responses={200: {"content": _EVENTS}},
    dependencies=[Depends(need("predict"))],
    tags=["answers"],
)
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation through the task's template; a task with labels answers with the likeliest."""
    return await predict.chat(request, body)


@router.post(
    "/v1/classify",
    response_model=ClassifyAnswer,
    dependencies=[Depends(need("predict"))],
    tags=["answers"],
)
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """The likeliest label of each input, and the probability of each label."""
    return await predict.classify(request, body)


@router.get("/healthz", tags=["server"], response_model=dict[str, str])
async def alive() -> Response:
    """Whether the server runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", tags=["server"], response_model=dict[str, str], responses={503: {"description": "Not ready."}})
async def ready(request: Request) -> Response:
    """Whether it can answer: the base is loaded, its engine runs, the registry answers, and the server is not stopping."""
    state = state_of(request)
    if state.draining:
        return JSONResponse({"status": "stopping"}, 503)
    if not state.live.engine.status().accepts:
        return JSONResponse({"status": "the engine has ended"}, 503)
    try:
        await asyncio.wait_for(asyncio.to_thread(state.keyring.registry.keys.any_live), READY_S)
    except (SoftPromptError, TimeoutError):
        return JSONResponse({"status": "the registry does not answer"}, 503)
    return JSONResponse({"status": "ready", "base": state.live.base_name, "fingerprint": state.live.fingerprint})


@router.get("/metrics", tags=["server"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format. Where there are keys, those of tasks are for `admin` keys and this machine."""
    state = state_of(request)
    tasks = not await state.keyring.needed() or comes_from_here(request.client, request.headers)
    authorization = request.headers.get("authorization")
    if not tasks and authorization is not None:
        tasks = (await state.keyring.identify(authorization)).allows("admin")
    return Response(exposition(state.live.monitor.registry, tasks=tasks), media_type=CONTENT_TYPE)


def create_app(state: ServerState, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The server's routes, and those of `routers`, behind the edge. `/v1/` of all of them is for callers with a key."""
    app = FastAPI(
        title="softprompt",
        version=version("softprompt"),
        description=_DESCRIPTION,
        docs_url=None,  # pages that load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = state
    for one in (router, *routers):
        app.include_router(one, responses=_REFUSALS)
    errors.install(app)
    app.add_middleware(Middleware, state=state)
    return app
