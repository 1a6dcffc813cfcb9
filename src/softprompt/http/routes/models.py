"""`/v1/models`: what requests may name as `model`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from softprompt.errors import NameRefused, NotFound
from softprompt.http.auth import Caller, need
from softprompt.http.body import StrictRoute, respond
from softprompt.http.errors import unknown_model
from softprompt.http.schemas import Fingerprint
from softprompt.http.state import state_of
from softprompt.serving.answers import ModelRow

router = APIRouter(route_class=StrictRoute, tags=["models"])

Reader = Annotated[Caller, Depends(need("read"))]


class ModelObject(BaseModel):
    """A model that requests may name: a task with a prompt on this base, or the base itself."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds; 0 for the base.")
    owned_by: str = Field(description="The tenant; `softprompt` for the base.")
    task: str | None = Field(description="null for the base.")
    version: int | None = Field(description="The version that `id` means.")
    versions: list[int] = Field(description="Each can be named `task@N`.")
    aliases: dict[str, int] = Field(description="Each can be named `task@alias`.")
    system_fingerprint: Fingerprint

    @classmethod
    def of(cls, row: ModelRow, tenant: str) -> ModelObject:
        """A model as a tenant sees it."""
        return cls(owned_by="softprompt" if row.task is None else tenant, **vars(row))


class ModelList(BaseModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


@router.get("/v1/models", response_model=ModelList)
async def list_models(request: Request, caller: Reader) -> Response:
    """The base, and the tasks that have prompts on it."""
    rows = await state_of(request).service.models(caller.tenant)
    return respond(ModelList(data=[ModelObject.of(row, caller.tenant) for row in rows]))


@router.get("/v1/models/{model:path}", response_model=ModelObject)
async def get_model(
    request: Request,
    model: Annotated[str, Path(description="Any name that requests may use, but `auto`.")],
    caller: Reader,
) -> Response:
    """One model: a task, a version of it, or the base."""
    try:
        row = await state_of(request).service.model(caller.tenant, model)
    except (NotFound, NameRefused) as error:
        raise unknown_model(error) from error
    return respond(ModelObject.of(row, caller.tenant))
