"""Fine-tuning jobs of a tenant, as clients see them: made, listed, read, cancelled. No torch."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import FieldError, NameRefused, NotFound, nearest
from softprompt.files import write_whole
from softprompt.jobs.request import JobRequest, Plan, make_plan, told_hyperparameters
from softprompt.jobs.rows import Upload, read_upload
from softprompt.jobs.uploads import TRAINING, Files
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import now
from softprompt.tasks.config import parse_config
from softprompt.training.schedule import total_steps

if TYPE_CHECKING:
    from softprompt.library.library import Library

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)

MOST_TRAINED = 2_000_000
"""Rows that a job may train on: nobody else's is done meanwhile, but for those beside it in the bank."""

_j, _e = tables.jobs.c, tables.job_events.c


@dataclass(frozen=True)
class Job:
    """A job and how it stands."""

    name: str
    """Its id: `ftjob-...`."""
    task: str
    status: str
    request: Mapping[str, Any]
    """What was asked."""
    config: Mapping[str, Any]
    """The task file that it became."""
    training_file: str
    validation_file: str | None
    step: int
    trained_tokens: int | None
    model: str | None
    """The version it became: `task@3`."""
    outcome: Mapping[str, Any] | None
    """Steps and scores of that version."""
    result_file: str | None
    error: Mapping[str, Any] | None
    created_at: str
    finished_at: str | None
    estimated_finish: str | None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status not in UNFINISHED

    def row(self) -> dict[str, Any]:
        """The job as a row for people and machines."""
        return {
            "job": self.name,
            "task": self.task,
            "status": self.status,
            "step": self.step,
            "model": self.model,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "training_file": self.training_file,
            "error": (self.error or {}).get("message"),
        }


@dataclass(frozen=True)
class Event:
    """Something that happened in a job."""

    number: int
    """Counts up within the job."""
    level: str
    type: str
    message: str
    data: Mapping[str, Any] | None
    created_at: str


class Jobs:
    """One tenant's jobs. Safe to share between threads."""

    def __init__(self, library: Library, files: Files | None = None, *, most_trained: int = MOST_TRAINED) -> None:
        """`most_trained` rows may a job train on, each counted as often as it is seen."""
        self.library = library
        self._most_trained = most_trained
        self.files = files or Files(library)
        self._database = library.registry.database

    @property
    def tenant(self) -> str:
        """Whose jobs these are."""
        return self.library.tenant

    def create(self, request: JobRequest, bases: Mapping[str, str]) -> Job:
        """Check a request against its rows and queue it.

        Args:
            request: what is asked.
            bases: names of bases that may be asked for, and what to load for each.

        Raises:
            FieldError: no such base or file, or a setting or row is wrong; nothing is queued.
            StoreError: a file cannot be read.
        """
        if request.model not in bases:
            hint = nearest(request.model, bases)
            if "@" in request.model:
                hint = "; to start from a version, give its base, and softprompt.prompt_tuning_init_prompt"
            raise FieldError(f"there is no base {request.model!r} to train on{hint}", "model")
        filename, train = self._upload(request.training_file, "training_file")
        validation = None
        if request.validation_file is not None:
            _, validation = self._upload(request.validation_file, "validation_file")
        plan = make_plan(request, filename, train, validation)
        self._check_length(plan, len(train.rows))
        for ref in _parents(plan.config):
            self._check_parent(ref)
        told = request.model_dump(mode="json", include={"model", "suffix", "metadata"}) | {
            "hyperparameters": told_hyperparameters(request),
            "seed": plan.config.get("seed", 0),
            "softprompt": plan.config,
        }
        at = now()
        values = {
            "name": f"ftjob-{secrets.token_hex(12)}",
            "tenant": self.tenant,
            "task": plan.config["task"],
            "base": bases[request.model],
            "request": json.dumps(told),
            "config": json.dumps(plan.config),
            "training_file": request.training_file,
            "validation_file": request.validation_file,
            "place": place_of(self.library.home),
            "status": QUEUED,
            "actor": self.library.registry.actor,
            "created_at": at,
        }
        with self._database.write() as connection:
            queries.add_missing(connection, tables.tenants, name=self.tenant, created_at=at)
            row = connection.execute(sa.insert(tables.jobs).values(values).returning(tables.jobs)).one()
            add_event(connection, row.id, f"created job {row.name} for task {row.task}, {len(train.rows)} rows")
            for note in plan.notes:
                add_event(connection, row.id, note)
        return _job(row)

    def _check_length(self, plan: Plan, rows: int) -> None:
        """Refuse what would keep the worker for too long."""
        config = parse_config(plan.config)
        steps, size = total_steps(config, rows), min(config.per_device_train_batch_size, rows)
        if steps * size > self._most_trained:
            raise FieldError(
                f"{steps} steps of {size} rows are {steps * size} rows to train on; a job may have {self._most_trained}: "
                "lower n_epochs or max_steps",
                "softprompt.max_steps" if config.max_steps is not None else "hyperparameters",
            )

    def page(self, *, after: str | None = None, limit: int = 20, every: bool = True) -> tuple[list[Job], bool]:
        """A page of jobs, newest first, and whether there are more behind it; `every` one, or those unfinished.

        Raises:
            NotFound: `after` names no job.
        """
        statement = sa.select(tables.jobs).where(_j.tenant == self.tenant)
        if not every:
            statement = statement.where(_j.status.in_(UNFINISHED))
        with self._database.read() as connection:
            if after is not None:
                statement = statement.where(_j.id < self._row(connection, after).id)
            rows = connection.execute(statement.order_by(_j.id.desc()).limit(limit + 1)).fetchall()
        return [_job(row) for row in rows[:limit]], len(rows) > limit

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            NotFound: this tenant has none.
        """
        with self._database.read() as connection:
            return _job(self._row(connection, name))

    def events(self, name: str, *, after: int | None = None, limit: int = 20) -> tuple[list[Event], bool]:
        """A page of what happened in a job, newest first, and whether there is more behind it.

        Raises:
            NotFound: this tenant has no such job.
        """
        with self._database.read() as connection:
            statement = sa.select(tables.job_events).where(_e.job_id == self._row(connection, name).id)
            if after is not None:
                statement = statement.where(_e.number < after)
            rows = connection.execute(statement.order_by(_e.number.desc()).limit(limit + 1)).fetchall()
        return [_event(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, name: str) -> Job:
        """Cancel a job that waits or runs; what it has trained is lost.

        Raises:
            NotFound: this tenant has no such job.
            FieldError: it is finished already.
        """
        with self._database.write() as connection:
            row = self._row(connection, name, lock=True)
            which = sa.and_(_j.id == row.id, _j.status.in_(UNFINISHED))
            changes = {"status": CANCELLED, "finished_at": now(), "estimated_finish": None}
            statement = sa.update(tables.jobs).where(which).values(changes).returning(tables.jobs)
            changed = connection.execute(statement).first()
            if changed is None:
                told = {SUCCEEDED: "has succeeded", FAILED: "has failed", CANCELLED: "is cancelled already"}[row.status]
                raise FieldError(f"job {name!r} {told}; there is nothing to cancel", "fine_tuning_job_id")
            add_event(connection, row.id, "cancelled")
        return _job(changed)

    def _upload(self, name: str, field: str) -> tuple[str, Upload]:
        try:
            file = self.files.get(name)
            if file.purpose != TRAINING:
                raise FieldError(f"{field}: file {name!r} is for {file.purpose!r}; upload one for {TRAINING!r}", field)
            return file.filename, read_upload(self.files.read_bytes(file), file.filename)
        except NotFound as error:
            raise FieldError(f"{field}: {error}", field) from None

    def _check_parent(self, ref: str) -> None:
        try:
            self.library.registry.resolve(ref)
        except (NotFound, NameRefused) as error:
            raise FieldError(str(error), "softprompt.prompt_tuning_init_prompt") from None

    def _row(self, connection: Connection, name: str, *, lock: bool = False) -> AnyRow:
        statement = sa.select(tables.jobs).where(_j.tenant == self.tenant, _j.name == name)
        row = None
        if name.isprintable():  # PostgreSQL refuses NUL as an error
            row = connection.execute(statement.with_for_update() if lock else statement).first()
        if row is None:
            raise NotFound(
                f"there is no job {name!r}; `softprompt jobs list` or GET /v1/fine_tuning/jobs lists those there are"
            )
        return row


def place_of(home: Path) -> str:
    """The name of a home, made once: jobs are done where their files are, whatever the host is called today."""
    file = home / "place"
    if not file.exists():
        write_whole(file, secrets.token_hex(16).encode(), replace=False)
    return file.read_text(encoding="ascii").strip()


def add_event(
    connection: Connection,
    job_id: int,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write down what happened in a job, in the transaction of the change; its row is locked by that."""
    counted = sa.update(tables.jobs).where(_j.id == job_id).values(last_event=_j.last_event + 1)
    number = connection.execute(counted.returning(_j.last_event)).scalar_one()
    values = {
        "job_id": job_id,
        "number": number,
        "level": level,
        "type": "message" if data is None else "metrics",
        # No database keeps NUL, and none half a character; a message may quote either.
        "message": message.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode(),
        "data": None if data is None else json.dumps(data),
        "created_at": now(),
    }
    connection.execute(sa.insert(tables.job_events).values(values))


def unfinished(library: Library) -> bool:
    """Whether a job of any tenant waits or runs in this home."""
    here = sa.and_(_j.status.in_(UNFINISHED), _j.place == place_of(library.home))
    with library.registry.database.read() as connection:
        return connection.execute(sa.select(_j.id).where(here).limit(1)).first() is not None


def _parents(config: Mapping[str, Any]) -> Sequence[str]:
    given = config.get("prompt_tuning_init_prompt", ())
    return [given] if isinstance(given, str) else given


def _job(row: AnyRow) -> Job:
    def read(text: str | None) -> Any:
        return None if text is None else json.loads(text)

    return Job(
        name=row.name,
        task=row.task,
        status=row.status,
        request=read(row.request),
        config=read(row.config),
        training_file=row.training_file,
        validation_file=row.validation_file,
        step=row.step,
        trained_tokens=row.trained_tokens,
        model=row.model,
        outcome=read(row.outcome),
        result_file=row.result_file,
        error=read(row.error),
        created_at=row.created_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
    )


def _event(row: AnyRow) -> Event:
    data = None if row.data is None else json.loads(row.data)
    return Event(row.number, row.level, row.type, row.message, data, row.created_at)
