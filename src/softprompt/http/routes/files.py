"""Routes for uploaded files, `/v1/files`, and what the routes for training share: pages, refusals, ids and times."""

from __future__ import annotations

import asyncio
import calendar
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Self, TypeVar

from fastapi import APIRouter, Depends, Form, Path, Query, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from softprompt.errors import FieldError, NotFound, StoreError
from softprompt.http.auth import Caller, need
from softprompt.http.body import StrictRoute
from softprompt.http.errors import RETRY_SOON_S, ApiError
from softprompt.jobs.uploads import MOST_BYTES, UploadedFile, Uploads

if TYPE_CHECKING:
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.http")

TRAINING = "training"
"""The tag of these routes."""

Trainer = Annotated[Caller, Depends(need("train"))]
Id = Annotated[str, Path(max_length=64, description="The id.")]
After = Annotated[str | None, Query(max_length=128, description="The id that the last page ended with.")]


def _seconds(at: str | None) -> int | None:
    """The registry's time as seconds since 1970."""
    return None if at is None else calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ"))


Time = Annotated[int, BeforeValidator(_seconds), Field(description="Unix seconds.")]
TimeOrNone = Annotated[int | None, BeforeValidator(_seconds), Field(description="Unix seconds.")]
"""Of a time as the registry has it."""


class Identified(BaseModel):
    """Anything that has an id."""

    id: str


Listed = TypeVar("Listed", bound=Identified)


class ListPage(BaseModel, Generic[Listed]):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[Listed]
    has_more: bool = Field(description="Whether there are more behind it.")
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Listed], more: bool) -> Self:
        """A page with the ids that it begins and ends with."""
        first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
        return cls(data=list(rows), has_more=more, first_id=first, last_id=last)


class FileObject(Identified):
    """An uploaded file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: Time
    expires_at: None = None
    filename: str
    purpose: str = Field(
        description="`fine-tune` or `batch`; `fine-tune-results` and `batch_output` are what jobs and batches leave."
    )
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(ListPage[FileObject]):
    """A page of files."""


class DeletedFile(Identified):
    """A file that is gone."""

    object: Literal["file"] = "file"
    deleted: bool = True


def training_answer(body: BaseModel) -> Response:
    """An answer of the routes for training; numbers are written as Python does."""
    return JSONResponse(body.model_dump())


@contextmanager
def refusals_of(field: str) -> Iterator[None]:
    """Refuse with the field of the request that is wrong: an id that is missing is that of `field`.

    Raises:
        ApiError: instead of this package's errors.
    """
    try:
        yield
    except FieldError as error:
        raise ApiError(400, str(error), code="invalid_value", param=error.field) from None
    except NotFound as error:
        raise ApiError(404, str(error), param=field) from None
    except StoreError as error:
        log.error("files: %s", error)
        raise ApiError(
            503, "the file cannot be kept or read just now, and nothing was changed; try again", code="storage",
            retry_after=RETRY_SOON_S,
        ) from None  # fmt: skip


def tenant_library(library: Library, caller: Caller) -> Library:
    """The library as a caller sees it; what the caller changes is written down under the key's name."""
    return library.for_tenant(caller.tenant, f"key:{caller.key.name}" if caller.key is not None else None)


def file_routes(library: Library, *, most_bytes: int = MOST_BYTES) -> APIRouter:
    """The routes for the files of a library's tenants, each of at most `most_bytes`."""
    router = APIRouter(route_class=StrictRoute, tags=[TRAINING])

    def uploads_of(caller: Caller) -> Uploads:
        return Uploads(tenant_library(library, caller), most_bytes=most_bytes)

    @router.post("/v1/files", summary="Upload rows to train on, or requests", response_model=FileObject)
    async def upload(request: Request, caller: Trainer, file: UploadFile, purpose: Annotated[str, Form()]) -> Response:
        """JSON Lines in UTF-8, all of one shape: columns, `{"prompt", "completion"}`, or `{"messages": [...]}`; of `batch`
        the requests of a batch."""
        names = [name for name, _ in (await request.form()).multi_items()]
        for name in names:
            if name not in ("file", "purpose"):
                raise ApiError(400, f"the field {name!r} is not supported; leave it out", param=name)
            if names.count(name) > 1:
                raise ApiError(400, f"the field {name!r} is given twice; upload one file at a time", param=name)
        return training_answer(_file(await asyncio.to_thread(_add, uploads_of(caller), file, purpose)))

    @router.get("/v1/files", summary="List files", response_model=FileList)
    def list_files(
        caller: Trainer,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: After = None,
    ) -> Response:
        with refusals_of("after"):
            page = uploads_of(caller).page(purpose=purpose, after=after, limit=limit, newest_first=order == "desc")
        return training_answer(FileList.of([_file(file) for file in page.rows], page.more))

    @router.get("/v1/files/{file_id}", summary="One file", response_model=FileObject)
    def get_file(caller: Trainer, file_id: Id) -> Response:
        with refusals_of("file_id"):
            return training_answer(_file(uploads_of(caller).get(file_id)))

    @router.get(
        "/v1/files/{file_id}/content",
        summary="A file's bytes",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
    )
    def read_file(caller: Trainer, file_id: Id) -> Response:
        with refusals_of("file_id"):
            uploads = uploads_of(caller)
            return Response(uploads.read(uploads.get(file_id)), media_type="application/octet-stream")

    @router.delete("/v1/files/{file_id}", summary="Delete a file", response_model=DeletedFile)
    def delete_file(caller: Trainer, file_id: Id) -> Response:
        """For good. A job that still waits for it fails."""
        with refusals_of("file_id"):
            uploads_of(caller).delete(file_id)
        return training_answer(DeletedFile(id=file_id))

    return router


def _add(uploads: Uploads, file: UploadFile, purpose: str) -> UploadedFile:
    if file.size is not None and file.size > uploads.most_bytes:
        raise ApiError(
            413, f"the file has {file.size} bytes, and at most {uploads.most_bytes} are taken; split it", param="file"
        )
    with refusals_of("file"):
        return uploads.add(file.file.read(), file.filename or "", purpose)


def _file(file: UploadedFile) -> FileObject:
    return FileObject(id=file.name, **vars(file))
