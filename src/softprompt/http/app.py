"""The server's application: its routes, family by family, behind the middleware."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from softprompt.http import errors
from softprompt.http.console import routes as console
from softprompt.http.middleware import Middleware
from softprompt.http.routes import (
    chat,
    classify,
    completions,
    decisions,
    embeddings,
    feedback,
    health,
    models,
    moderations,
    responses,
)
from softprompt.http.state import ServerState

_DESCRIPTION = """One frozen language model, a library of tuned soft prompts: `model` names the task.

`task` means its production version, else its newest; `task@3` and `task@production` name one; the base's own name means no
prompt; `auto` lets the input choose. Of a chat a task reads the last message, the user's. Answers are greedy unless a
temperature is given. With `stream`, an answer comes as server-sent events."""


def create_app(state: ServerState, training: Sequence[APIRouter] = ()) -> FastAPI:
    """The server's routes, and those for `training`. `/v1/` of all of them is for callers with a key."""
    app = FastAPI(
        title="softprompt",
        version=version("softprompt"),
        description=_DESCRIPTION,
        docs_url=None,  # pages that load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = state
    for router in (
        models.router,
        completions.router,
        chat.router,
        classify.router,
        decisions.router,
        moderations.router,
        embeddings.router,
        responses.router,
        feedback.router,
        health.router,
        *training,
    ):
        app.include_router(router, responses=errors.REFUSALS)
    app.include_router(console.router)
    errors.install(app)
    app.add_middleware(Middleware, state=state)
    return app
