"""Routes for fine-tuning jobs, `/v1/fine_tuning/jobs`, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from softprompt.errors import FieldError, LibraryError
from softprompt.http.auth import Caller
from softprompt.http.body import StrictRoute
from softprompt.http.errors import for_clients
from softprompt.http.routes.files import (
    TRAINING,
    After,
    Id,
    Identified,
    ListPage,
    Time,
    TimeOrNone,
    Trainer,
    refusals_of,
    tenant_library,
    training_answer,
)
from softprompt.jobs.jobs import MOST_TRAINED, Jobs
from softprompt.jobs.records import SUCCEEDED, Event, Job
from softprompt.jobs.request import JobRequest

if TYPE_CHECKING:
    from softprompt.jobs.starter import Starter
    from softprompt.library.library import Library
    from softprompt.tasks.wording.chat import ChatFrame

log = logging.getLogger("softprompt.http")

Limit = Annotated[int, Query(ge=1, le=1000, description="Most of them in one answer.")]

_PATH = "/v1/fine_tuning/jobs"
_JOB = "fine_tuning_job_id"


class UsualHyperparameters(BaseModel):
    """The hyperparameters that OpenAI's clients know; `auto` where the request is silent."""

    n_epochs: int | float | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    beta: float | Literal["auto"] | None = Field(
        default=None, description="Of the method `dpo` alone.", exclude_if=lambda value: value is None
    )


class SettingsObject(BaseModel):
    """Settings of a method."""

    hyperparameters: UsualHyperparameters


class MethodObject(BaseModel):
    """How a job trains: its type, and the settings under that name."""

    type: Literal["supervised", "dpo"]
    supervised: SettingsObject | None = Field(default=None, exclude_if=lambda value: value is None)
    dpo: SettingsObject | None = Field(default=None, exclude_if=lambda value: value is None)


class JobObject(Identified):
    """A fine-tuning job and how it stands."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: Time
    finished_at: TimeOrNone
    estimated_finish: TimeOrNone
    status: str = Field(description="`queued`, `running`, `paused`, `succeeded`, `failed`, `cancelled`.")
    model: str = Field(description="The name of the base.")
    fine_tuned_model: str | None = Field(description="The version that it became: `task@3`.")
    organization_id: str = "softprompt"
    training_file: str
    validation_file: str | None
    result_files: list[str] = Field(description="Validations while it trained, as CSV.")
    hyperparameters: UsualHyperparameters
    method: MethodObject
    seed: int
    trained_tokens: int | None
    error: Mapping[str, Any] | None = Field(description="Why it failed: `code`, `message`, `param`.")
    integrations: list[Any] = Field(default_factory=list)
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    softprompt: dict[str, Any] = Field(description="The task file that it became, with its `step` and its `outcome`.")


class JobList(ListPage[JobObject]):
    """A page of jobs."""


class EventObject(Identified):
    """Something that happened in a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: Time
    level: str = Field(description="`info`, `warn` or `error`.")
    type: str = Field(description="`message`, or `metrics` where there is `data`.")
    message: str
    data: Mapping[str, Any] | None


class EventList(ListPage[EventObject]):
    """A page of events."""


class CheckpointObject(Identified):
    """A prompt that a job made and that can be used."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: TimeOrNone
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str | None
    step_number: int | None
    metrics: dict[str, Any] = Field(
        description="`step`, `train_loss` and `valid_loss` there (of a token, or of the right label), and test scores."
    )


class CheckpointList(ListPage[CheckpointObject]):
    """The prompts of a job."""


def job_routes(
    library: Library,
    bases: Mapping[str, str],
    *,
    starter: Starter | None = None,
    most_trained: int = MOST_TRAINED,
    context: int | None = None,
    fingerprint: str | None = None,
    frame: ChatFrame | None = None,
) -> APIRouter:
    """The routes for the fine-tuning jobs of a library's tenants.

    Args:
        library: the one that is served; each caller sees that of its tenant.
        bases: names of bases that clients may train on, and what the worker loads for each.
        starter: starts workers for the jobs, while the server runs; without one somebody else must.
        most_trained: rows that a job may train on, each counted as often as it is seen.
        context: tokens that the base takes, where that has a bound.
        fingerprint: of the base that is served, on which alone jobs train.
        frame: how its chat template words an answer, where it has one.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if starter is not None:
            starter.watch()
        yield
        if starter is not None:
            await asyncio.to_thread(starter.close)

    router = APIRouter(lifespan=lifespan, route_class=StrictRoute, tags=[TRAINING])

    def jobs_of(caller: Caller) -> Jobs:
        return Jobs(tenant_library(library, caller), most_trained=most_trained, context=context, frame=frame)

    def ensure() -> None:
        if starter is not None:
            try:
                starter.ensure()
            except (LibraryError, OSError) as error:  # the job is queued, and it is looked after again soon
                log.warning("no worker can be started: %s", error)

    @router.post(_PATH, summary="Tune a prompt", response_model=JobObject)
    def create_job(caller: Trainer, body: JobRequest) -> Response:
        """Queue the tuning of a soft prompt; it becomes a version of the task that `suffix` names."""
        with refusals_of("training_file"):
            job = jobs_of(caller).create(body, bases, fingerprint=fingerprint)
        ensure()
        return training_answer(_job(job))

    @router.get(_PATH, summary="List jobs", response_model=JobList)
    def list_jobs(caller: Trainer, after: After = None, limit: Limit = 20) -> Response:
        with refusals_of("after"):
            page = jobs_of(caller).page(after=after, limit=limit)
        return training_answer(JobList.of([_job(job) for job in page.rows], page.more))

    @router.get(f"{_PATH}/{{job_id}}", summary="One job", response_model=JobObject)
    def get_job(caller: Trainer, job_id: Id) -> Response:
        with refusals_of(_JOB):
            return training_answer(_job(jobs_of(caller).get(job_id)))

    @router.get(f"{_PATH}/{{job_id}}/events", summary="What happened in a job", response_model=EventList)
    def list_events(caller: Trainer, job_id: Id, after: After = None, limit: Limit = 20) -> Response:
        """Newest first."""
        with refusals_of(_JOB):
            page = jobs_of(caller).events(job_id, after=_event_number(job_id, after), limit=limit)
        return training_answer(EventList.of([_event(job_id, event) for event in page.rows], page.more))

    @router.get(f"{_PATH}/{{job_id}}/checkpoints", summary="A job's usable prompts", response_model=CheckpointList)
    def list_checkpoints(caller: Trainer, job_id: Id, after: After = None, limit: Limit = 10) -> Response:
        """The version that the job published, which is of its best step; none before."""
        with refusals_of(_JOB):
            job = jobs_of(caller).get(job_id)
        rows = [_checkpoint(job)] if job.status == SUCCEEDED and after is None else []
        return training_answer(CheckpointList.of(rows, more=False))

    @router.post(f"{_PATH}/{{job_id}}/cancel", summary="Cancel a job", response_model=JobObject)
    def cancel(caller: Trainer, job_id: Id) -> Response:
        with refusals_of(_JOB):
            return training_answer(_job(jobs_of(caller).cancel(job_id)))

    @router.post(f"{_PATH}/{{job_id}}/pause", summary="Pause a job", response_model=JobObject)
    def pause(caller: Trainer, job_id: Id) -> Response:
        """What it has trained is kept; others go on."""
        with refusals_of(_JOB):
            return training_answer(_job(jobs_of(caller).pause(job_id)))

    @router.post(f"{_PATH}/{{job_id}}/resume", summary="Resume a paused job", response_model=JobObject)
    def resume(caller: Trainer, job_id: Id) -> Response:
        """It waits for a worker again, and goes on from where it was paused."""
        with refusals_of(_JOB):
            job = jobs_of(caller).resume(job_id)
        ensure()
        return training_answer(_job(job))

    return router


def _job(job: Job) -> JobObject:
    request, usual = job.request, UsualHyperparameters(**job.request["hyperparameters"])
    method = request.get("method", "supervised")  # jobs of before had no other
    return JobObject(
        **vars(job)
        | {
            "id": job.name,
            "model": request["model"],
            "fine_tuned_model": job.model,
            "result_files": [job.result_file] if job.result_file is not None else [],
            "hyperparameters": usual,
            "method": MethodObject.model_validate({"type": method, method: SettingsObject(hyperparameters=usual)}),
            "seed": request["seed"],
            "metadata": request.get("metadata"),
            "user_provided_suffix": request.get("suffix"),
            "error": job.error and {**job.error, "message": for_clients(job.error["message"])},
            "softprompt": {**job.config, "step": job.step, "outcome": job.outcome},
        }
    )


def _id(kind: str, job: str, *rest: object) -> str:
    return "-".join((kind, job.removeprefix("ftjob-"), *map(str, rest)))


def _event(job: str, event: Event) -> EventObject:
    shown = vars(event) | {"message": for_clients(event.message)}
    return EventObject(id=_id("ftevent", job, event.number), **shown)


def _event_number(job: str, event: str | None) -> int | None:
    if event is None:
        return None
    head, _, number = event.rpartition("-")
    if head != _id("ftevent", job) or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise FieldError(f"{event!r} is no event of job {job!r}; give the id that the last page ended with", "after")
    return int(number)


def _checkpoint(job: Job) -> CheckpointObject:
    outcome = job.outcome or {}
    step = outcome.get("best_step")
    return CheckpointObject.model_validate(
        {
            "id": _id("ftckpt", job.name),
            "created_at": job.finished_at,
            "fine_tuning_job_id": job.name,
            "fine_tuned_model_checkpoint": job.model,
            "step_number": step,
            "metrics": {"step": step, **outcome.get("losses", {}), **outcome.get("metrics", {})},
        }
    )
