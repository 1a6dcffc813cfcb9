"""The queue of jobs as a worker sees it, all tenants: claiming, beating, finishing. No torch.

A job belongs to the worker whose name its row holds, and every change of a running job asks for that name. So a worker
that was taken for dead and was not can change nothing any more, and a job is finished once. No clock is compared: a
worker is dead at once where the lock of its home was free, which the system gives up with the process, and elsewhere
when its count of beats stands still while another one watches.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.jobs.records import FAILED, PAUSED, QUEUED, RUNNING, SUCCEEDED, add_event, place_of, record_of
from softprompt.registry import tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Version, now

if TYPE_CHECKING:
    from softprompt.library.library import Library

MOST_ATTEMPTS = 5
"""Workers that may die over a job without getting further, before it fails."""

ALONE_AFTER = 2
"""So many dead workers and a job is trained alone: one that kills its worker must not take others along."""

STALE_SECONDS = 20.0
"""A worker elsewhere that has not beaten for so long, as we see it, is dead."""

_j = tables.jobs.c


MOST_BESIDE = 8
"""Jobs that a worker trains at once, those that joined counted."""


@dataclass(frozen=True)
class Claim:
    """A job that is this worker's to do."""

    id: int
    name: str
    tenant: str
    actor: str
    base: str
    config: Mapping[str, Any]
    request: Mapping[str, Any]
    training_file: str
    validation_file: str | None
    bank: str
    """Names those that began together, for good: their checkpoint is called so."""
    step: int
    """The furthest step that any worker told of."""
    attempts: int


class Lost(Exception):
    """The job is not this worker's any more: it was cancelled, or another one took it."""


class Queue:
    """A worker's view. Safe to share between threads."""

    def __init__(self, library: Library, *, stale_seconds: float = STALE_SECONDS, bank_size: int = MOST_BESIDE) -> None:
        self.library = library
        self._where = f"{socket.gethostname()}:{library.home}"
        self.worker = ""
        self.place = place_of(library.home)
        self._database = library.registry.database
        self._stale = stale_seconds
        self._bank_size = bank_size
        self._seen: dict[str, tuple[int, float]] = {}

    def claim(self) -> list[Claim]:
        """Jobs of one base to train at once; none when there is nothing to do. The caller holds the lock of its home.

        Each claim is made under a new name: jobs of an earlier one that could not be finished are orphans by then.
        """
        self.worker = f"{self._where} {secrets.token_hex(8)}"
        with self._database.write() as connection:
            rows = self._orphans(connection) or self._waiting(connection)
            hopeless = [row for row in rows if row.attempts >= MOST_ATTEMPTS]
            for row in hopeless:
                message = f"{MOST_ATTEMPTS} workers died over this job; see worker.log in the home, and use a smaller batch"
                _fail(connection, row.id, "worker_died", message)
            if hopeless:
                rows = []
            claims = self._take(connection, rows, secrets.token_hex(8))
        return self.claim() if hopeless else claims

    def _take(self, connection: Connection, rows: Sequence[AnyRow], bank: str) -> list[Claim]:
        """Make jobs this worker's; those that have no bank get this one."""
        claimed = []
        for row in rows:
            changes = {"status": RUNNING, "worker": self.worker, "place": self.place, "bank": row.bank or bank}
            statement = sa.update(tables.jobs).where(_j.id == row.id).values(**changes, attempts=_j.attempts + 1)
            claimed.append(connection.execute(statement.returning(tables.jobs)).one())
            begins = "started" if row.bank is None else "a worker goes on with the job"
            add_event(connection, row.id, f"{begins} of one that died" if row.status == RUNNING else begins)
        return [record_of(Claim, row, "config", "request") for row in claimed]

    def waits(self) -> bool:
        """Whether a job waits here."""
        with self._database.read() as connection:
            return connection.execute(sa.select(_j.id).where(self._waits).limit(1)).first() is not None

    def join(self, beside: Collection[int], bank: str, fingerprints: Collection[str]) -> list[Claim]:
        """Jobs that wait and may be trained with those of this worker that run, the oldest first: as many as a bank has room
        for. They are claimed as part of theirs.

        A job may join where it is for their base and has trained in no other bank. Nobody is let past one who waits longer
        and may not, so that this one waits for no more than those that were there before it; nor while jobs of a dead worker
        wait, or one of these is suspected of having killed some.

        Args:
            beside: those that run.
            bank: their bank.
            fingerprints: of the base that they run on.
        """
        with self._database.write() as connection:
            own = connection.execute(sa.select(_j.base, _j.attempts).where(self._own(beside))).fetchall()
            if not own or any(row.attempts > ALONE_AFTER for row in own) or self._orphans(connection):
                return []
            waiting = sa.select(tables.jobs).where(self._waits, _j.id.not_in(list(beside))).order_by(_j.id)
            waiting = waiting.limit(max(0, self._bank_size - len(beside))).with_for_update(skip_locked=True)
            rows = []
            for row in connection.execute(waiting):
                wanted = json.loads(row.request).get("fingerprint")
                if row.base != own[0].base or row.bank not in {None, bank} or wanted not in {None, *fingerprints}:
                    break
                rows.append(row)
            return self._take(connection, rows, bank)

    def beat(self, jobs: Collection[int]) -> set[int]:
        """Show that this worker lives; return those of the jobs that are still its own."""
        with self._database.write() as connection:
            statement = sa.update(tables.jobs).where(self._own(jobs)).values(beats=_j.beats + 1).returning(_j.id)
            return set(connection.execute(statement).scalars())

    def paused(self, job: int) -> bool:
        """Whether a job was paused, or goes on after a pause: what it has trained is wanted."""
        with self._database.read() as connection:
            statement = sa.select(_j.id).where(_j.id == job, _j.status.in_((PAUSED, QUEUED)))
            return connection.execute(statement).first() is not None

    def own(self, jobs: Collection[int]) -> set[int]:
        """Those of the jobs that are still this worker's."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(_j.id).where(self._own(jobs))).scalars())

    def record(
        self,
        job: int,
        message: str,
        *,
        level: str = "info",
        data: Mapping[str, Any] | None = None,
        step: int | None = None,
        estimated_finish: str | None = None,
    ) -> None:
        """Write an event of a job, and how far it is; nothing where the job is no longer this worker's."""
        changes: dict[str, Any] = {"beats": _j.beats + 1}
        if step is not None:
            changes = {
                "attempts": sa.case((_j.step < step, 0), else_=_j.attempts),
                "step": sa.case((_j.step < step, step), else_=_j.step),
                "estimated_finish": estimated_finish,
            }
        with self._database.write() as connection:
            if connection.execute(sa.update(tables.jobs).where(self._own([job])).values(changes)).rowcount:
                add_event(connection, job, message, level=level, data=data)

    def fail(self, job: int, code: str, message: str, field: str | None = None) -> None:
        """The job has failed for good; nothing where it is no longer this worker's."""
        with self._database.write() as connection:
            if self._hold(connection, job):
                _fail(connection, job, code, message, field)

    def succeed(
        self,
        connection: Connection,
        job: int,
        version: Version,
        outcome: Mapping[str, Any],
        trained_tokens: int,
        result_file: str,
    ) -> None:
        """The job has become a version, in the transaction that publishes it: the two are never torn apart.

        Raises:
            Lost: the job is no longer this worker's; nothing may be published.
        """
        if not self._hold(connection, job):
            raise Lost
        changes = {"trained_tokens": trained_tokens, "result_file": result_file}
        _close(connection, job, SUCCEEDED, model=version.ref, outcome=json.dumps(outcome), **changes)
        add_event(connection, job, f"published {version.ref}")

    def _hold(self, connection: Connection, job: int) -> bool:
        """Lock the job's row; whether it is this worker's."""
        return connection.execute(sa.select(_j.id).where(self._own([job])).with_for_update()).first() is not None

    def _own(self, jobs: Collection[int]) -> sa.ColumnElement[bool]:
        return sa.and_(_j.id.in_(list(jobs)), _j.status == RUNNING, _j.worker == self.worker)

    @property
    def _waits(self) -> sa.ColumnElement[bool]:
        return sa.and_(_j.status == QUEUED, _j.place == self.place)

    def _waiting(self, connection: Connection) -> list[AnyRow]:
        """The oldest job that waits here, and others on its base; of those that were paused, others of its bank, whose
        checkpoint has what they have trained."""
        oldest = sa.select(_j.base, _j.bank).where(self._waits).order_by(_j.id).limit(1)
        if (first := connection.execute(oldest).first()) is None:
            return []
        alike = sa.and_(_j.base == first.base, _j.bank.is_(None) if first.bank is None else _j.bank == first.bank)
        statement = sa.select(tables.jobs).where(self._waits, alike).order_by(_j.id).limit(self._bank_size)
        return list(connection.execute(statement.with_for_update(skip_locked=True)))

    def _orphans(self, connection: Connection) -> list[AnyRow]:
        """The jobs of one bank whose worker is dead, in the order in which it had them."""
        statement = sa.select(tables.jobs).where(_j.status == RUNNING, _j.worker != self.worker, _j.place == self.place)
        rows = list(connection.execute(statement.order_by(_j.id).with_for_update(skip_locked=True)))
        dead = [row for row in rows if self._is_dead(row)]
        if dead and dead[0].attempts >= ALONE_AFTER:
            return dead[:1]
        return [row for row in dead if row.bank == dead[0].bank]

    def _is_dead(self, row: AnyRow) -> bool:
        if row.worker.rpartition(" ")[0] == self._where:
            return True  # it held the lock that this worker holds now
        key = f"{row.id} {row.worker}"
        beats, since = self._seen.get(key, (-1, 0.0))
        if row.beats != beats:
            self._seen[key] = (row.beats, time.monotonic())
            return False
        return time.monotonic() - since >= self._stale


def checkpoints_of(library: Library) -> Path:
    """Where the trainings of jobs keep their checkpoints."""
    return library.runs / "jobs"


def _close(connection: Connection, job: int, status: str, **changes: Any) -> None:
    values = {"status": status, "finished_at": now(), "estimated_finish": None, **changes}
    connection.execute(sa.update(tables.jobs).where(_j.id == job).values(values))


def _fail(connection: Connection, job: int, code: str, message: str, field: str | None = None) -> None:
    _close(connection, job, FAILED, error=json.dumps({"code": code, "message": message, "param": field}))
    add_event(connection, job, message, level="error")
