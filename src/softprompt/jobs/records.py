"""Jobs and their events as the registry keeps them: what a tenant's view and a worker's view share. No torch."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.files import write_whole
from softprompt.registry import tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import now

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from softprompt.library.library import Library

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
PAUSED = "paused"
WANTED = (QUEUED, RUNNING)
"""Statuses of jobs that a worker has to do."""
UNFINISHED = (*WANTED, PAUSED)
"""Statuses that are no end."""

_j = tables.jobs.c

T = TypeVar("T")
Record = TypeVar("Record", bound="DataclassInstance")


@dataclass(frozen=True)
class Job:
    """A job and how it stands."""

    name: str
    """Its id: `ftjob-...`."""
    task: str
    status: str
    request: Mapping[str, Any]
    """What the client requested."""
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

    def row(self) -> dict[str, Any]:
        """The job as a row for people and machines."""
        plain = ("task", "status", "step", "model", "created_at", "finished_at", "training_file")
        values = {name: getattr(self, name) for name in plain}
        return {"job": self.name, **values, "error": (self.error or {}).get("message")}


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


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list."""

    rows: list[T]
    more: bool
    """Whether there are more behind it."""


def fetch_page(connection: Connection, statement: sa.Select[Any], limit: int, record: Callable[[AnyRow], T]) -> Page[T]:
    """The first `limit` rows of a statement that is in order, each made a record."""
    rows = connection.execute(statement.limit(limit + 1)).fetchall()
    return Page([record(row) for row in rows[:limit]], len(rows) > limit)


def find_row(connection: Connection, table: sa.Table, tenant: str, name: str, *, lock: bool = False) -> AnyRow | None:
    """The row of a tenant that has a name; locked for a change of it."""
    if not name.isprintable():  # PostgreSQL refuses NUL as an error
        return None
    statement = sa.select(table).where(table.c.tenant == tenant, table.c.name == name)
    return connection.execute(statement.with_for_update() if lock else statement).first()


def record_of(kind: type[Record], row: AnyRow, *in_json: str) -> Record:
    """A record from the columns that its fields are named after; those in `in_json` are JSON, or null."""
    values = {field.name: getattr(row, field.name) for field in fields(kind)}
    for name in in_json:
        values[name] = None if values[name] is None else json.loads(values[name])
    return kind(**values)


def job_of(row: AnyRow) -> Job:
    """A row of the table of jobs."""
    return record_of(Job, row, "request", "config", "outcome", "error")


def event_of(row: AnyRow) -> Event:
    """A row of the table of events."""
    return record_of(Event, row, "data")


def add_event(
    connection: Connection, job_id: int, message: str, *, level: str = "info", data: Mapping[str, Any] | None = None
) -> None:
    """Write down what happened in a job, in the transaction of the change; its row is locked by that."""
    counted = sa.update(tables.jobs).where(_j.id == job_id).values(last_event=_j.last_event + 1)
    values = {
        "job_id": job_id,
        "number": connection.execute(counted.returning(_j.last_event)).scalar_one(),
        "level": level,
        "type": "message" if data is None else "metrics",
        # No database keeps NUL, and none half a character; a message may quote either.
        "message": message.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode(),
        "data": None if data is None else json.dumps(data),
        "created_at": now(),
    }
    connection.execute(sa.insert(tables.job_events).values(values))


PLACE = "place"
"""File in a home that has its name."""


def place_of(home: Path) -> str:
    """The name of a home, made once: jobs are done where their files are, whatever the host is called today."""
    file = home / PLACE
    if not file.exists():
        write_whole(file, secrets.token_hex(16).encode(), replace=False)  # the first one stays
    return file.read_text(encoding="ascii").strip()


def unfinished(library: Library, statuses: Sequence[str] = WANTED) -> bool:
    """Whether a job of any tenant has one of these statuses in this home: by default whether one waits or runs."""
    if not (library.home / PLACE).exists():  # which the first job makes; the home may be one that nobody can write to
        return False
    here = sa.and_(_j.status.in_(statuses), _j.place == place_of(library.home))
    with library.registry.database.read() as connection:
        return connection.execute(sa.select(_j.id).where(here).limit(1)).first() is not None
