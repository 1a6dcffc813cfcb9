"""Routes for training: `/v1/files` and `/v1/fine_tuning/jobs`, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import calendar
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Form, Path, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from softprompt.errors import FieldError, LibraryError, NotFound, StoreError
from softprompt.http.auth import Caller, need
from softprompt.http.body import StrictRoute
from softprompt.http.errors import ApiError
from softprompt.jobs.jobs import MOST_TRAINED, SUCCEEDED, Event, Job, Jobs
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import MOST_BYTES, File, Files

if TYPE_CHECKING:
    from softprompt.jobs.starter import Starter
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.http")

May = Annotated[Caller, Depends(need("train"))]
Name = Annotated[str, Path(max_length=64, description="The id.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most of them in one answer.")]
After = Annotated[str | None, Query(max_length=128, description="The id that the last page ended with.")]

_PAUSES = "jobs cannot be paused; cancel the job, and create it again later"


def make_router(
    library: Library,
    bases: Mapping[str, str],
    *,
    starter: Starter | None = None,
    most_bytes: int = MOST_BYTES,
    most_trained: int = MOST_TRAINED,
) -> APIRouter:
    """The routes for training on a library.

    Args:
        library: the one that is served; each caller sees that of its tenant.
        bases: names of bases that clients may train on, and what the worker loads for each.
        starter: starts workers for the jobs, while the server runs; without one somebody else must.
        most_bytes: of one uploaded file.
        most_trained: rows that a job may train on, each counted as often as it is seen.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if starter is not None:
            starter.watch()
        yield
        if starter is not None:
            await asyncio.to_thread(starter.close)

    router = APIRouter(lifespan=lifespan, route_class=StrictRoute)

    def files_of(caller: Caller) -> Files:
        actor = f"key:{caller.key.name}" if caller.key is not None else None
        return Files(library.for_tenant(caller.tenant, actor), most_bytes=most_bytes)

    def jobs_of(caller: Caller) -> Jobs:
        files = files_of(caller)
        return Jobs(files.library, files, most_trained=most_trained)

    @router.post("/v1/files", summary="Upload rows to train on", tags=["training"])
    async def upload(request: Request, caller: May, file: UploadFile, purpose: Annotated[str, Form()]) -> Response:
        """JSON Lines in UTF-8, all of one shape: columns, `{"prompt", "completion"}`, or `{"messages": [...]}`."""
        names = [name for name, _ in (await request.form()).multi_items()]
        for name in names:
            if name not in ("file", "purpose"):
                raise ApiError(400, f"the field {name!r} is not supported; leave it out", param=name)
            if names.count(name) > 1:
                raise ApiError(400, f"the field {name!r} is given twice; upload one file at a time", param=name)
        return JSONResponse(_file(await asyncio.to_thread(_add, files_of(caller), file, purpose)))

    @router.get("/v1/files", summary="List files", tags=["training"])
    def list_files(
        caller: May,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: After = None,
    ) -> Response:
        with _told("after"):
            found, more = files_of(caller).page(purpose=purpose, after=after, limit=limit, newest_first=order == "desc")
        return JSONResponse(_page([_file(file) for file in found], more))

    @router.get("/v1/files/{file_id}", summary="One file", tags=["training"])
    def get_file(caller: May, file_id: Name) -> Response:
        with _told("file_id"):
            return JSONResponse(_file(files_of(caller).get(file_id)))

    @router.get("/v1/files/{file_id}/content", summary="A file's bytes", tags=["training"])
    def read_file(caller: May, file_id: Name) -> Response:
        with _told("file_id"):
            return Response(files_of(caller).read(file_id), media_type="application/octet-stream")

    @router.delete("/v1/files/{file_id}", summary="Delete a file", tags=["training"])
    def delete_file(caller: May, file_id: Name) -> Response:
        """For good. A job that still waits for it fails."""
        with _told("file_id"):
            files_of(caller).delete(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    @router.post("/v1/fine_tuning/jobs", summary="Tune a prompt", tags=["training"])
    def create_job(caller: May, body: JobRequest) -> Response:
        """Queue the tuning of a soft prompt; it becomes a version of the task that `suffix` names."""
        with _told("training_file"):
            job = jobs_of(caller).create(body, bases)
        if starter is not None:
            try:
                starter.ensure()
            except (LibraryError, OSError) as error:  # the job is queued, and it is looked after again soon
                log.warning("no worker can be started: %s", error)
        return JSONResponse(_job(job))

    @router.get("/v1/fine_tuning/jobs", summary="List jobs", tags=["training"])
    def list_jobs(request: Request, caller: May, after: After = None, limit: Limit = 20) -> Response:
        if any(name.startswith("metadata") for name in request.query_params):
            raise ApiError(400, "jobs cannot be looked for by metadata; list them all", param="metadata")
        with _told("after"):
            found, more = jobs_of(caller).page(after=after, limit=limit)
        return JSONResponse(_page([_job(job) for job in found], more))

    @router.get("/v1/fine_tuning/jobs/{job_id}", summary="One job", tags=["training"])
    def get_job(caller: May, job_id: Name) -> Response:
        with _told("fine_tuning_job_id"):
            return JSONResponse(_job(jobs_of(caller).get(job_id)))

    @router.get("/v1/fine_tuning/jobs/{job_id}/events", summary="What happened in a job", tags=["training"])
    def list_events(caller: May, job_id: Name, after: After = None, limit: Limit = 20) -> Response:
        """Newest first."""
        with _told("fine_tuning_job_id"):
            found, more = jobs_of(caller).events(job_id, after=_event_number(job_id, after), limit=limit)
        return JSONResponse(_page([_event(job_id, event) for event in found], more))

    @router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", summary="A job's usable prompts", tags=["training"])
    def list_checkpoints(caller: May, job_id: Name, after: After = None, limit: Limit = 10) -> Response:
        """The version that the job published, which is of its best step; none before."""
        with _told("fine_tuning_job_id"):
            job = jobs_of(caller).get(job_id)
        found = [_checkpoint(job)] if job.status == SUCCEEDED and after is None else []
        return JSONResponse(_page(found, False))

    @router.post("/v1/fine_tuning/jobs/{job_id}/cancel", summary="Cancel a job", tags=["training"])
    def cancel(caller: May, job_id: Name) -> Response:
        with _told("fine_tuning_job_id"):
            return JSONResponse(_job(jobs_of(caller).cancel(job_id)))

    @router.post("/v1/fine_tuning/jobs/{job_id}/pause", summary="Not supported", tags=["training"])
    @router.post("/v1/fine_tuning/jobs/{job_id}/resume", summary="Not supported", tags=["training"])
    def pause(caller: May, job_id: Name) -> Response:
        with _told("fine_tuning_job_id"):
            jobs_of(caller).get(job_id)
        raise ApiError(400, _PAUSES, code="unsupported")

    return router


def _add(files: Files, file: UploadFile, purpose: str) -> File:
    if file.size is not None and file.size > files.most_bytes:
        raise ApiError(
            413, f"the file has {file.size} bytes, and at most {files.most_bytes} are taken; split it", param="file"
        )
    with _told("file"):
        return files.add(file.file.read(), file.filename or "", purpose)


@contextmanager
def _told(field: str) -> Iterator[None]:
    """Refusals with the field that they are of: what a message says of a missing id is of `field`."""
    try:
        yield
    except FieldError as error:
        raise ApiError(400, str(error), code="invalid_value", param=error.field) from None
    except NotFound as error:
        raise ApiError(404, str(error), param=field) from None
    except StoreError as error:
        log.error("files: %s", error)
        raise ApiError(503, "the file cannot be kept or read just now; nothing was changed", code="storage") from None


def _page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ends}


def _file(file: File) -> dict[str, Any]:
    return {
        "id": file.name,
        "object": "file",
        "bytes": file.bytes,
        "created_at": _seconds(file.created_at),
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _job(job: Job) -> dict[str, Any]:
    asked = job.request["hyperparameters"]
    usual = {name: asked[name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier")}
    return {
        "id": job.name,
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "estimated_finish": _seconds(job.estimated_finish),
        "status": job.status,
        "model": job.request["model"],
        "fine_tuned_model": job.model,
        "organization_id": "softprompt",
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [job.result_file] if job.result_file is not None else [],
        "hyperparameters": usual,
        "method": {"type": "supervised", "supervised": {"hyperparameters": usual}},
        "seed": job.request["seed"],
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "integrations": [],
        "metadata": job.request.get("metadata"),
        "user_provided_suffix": job.request.get("suffix"),
        "softprompt": {**job.config, "step": job.step, "outcome": job.outcome},
    }


def _event(job: str, event: Event) -> dict[str, Any]:
    return {
        "id": f"ftevent-{job.removeprefix('ftjob-')}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": _seconds(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


def _event_number(job: str, event: str | None) -> int | None:
    if event is None:
        return None
    head, _, number = event.rpartition("-")
    if head != f"ftevent-{job.removeprefix('ftjob-')}" or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise FieldError(f"{event!r} is no event of job {job!r}; give the id that the last page ended with", "after")
    return int(number)


def _checkpoint(job: Job) -> dict[str, Any]:
    outcome = job.outcome or {}
    return {
        "id": f"ftckpt-{job.name.removeprefix('ftjob-')}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(job.finished_at),
        "fine_tuning_job_id": job.name,
        "fine_tuned_model_checkpoint": job.model,
        "step_number": outcome.get("best_step"),
        "metrics": {"step": outcome.get("best_step"), **outcome.get("metrics", {})},
    }


def _seconds(at: str | None) -> int | None:
    """The registry's time as seconds since 1970."""
    return None if at is None else calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ"))
