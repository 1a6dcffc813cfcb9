"""What clients say of answers: outcomes, comments and corrections. What is said of one request twice counts once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.names import check_task
from softprompt.registry import queries, tables
from softprompt.registry.records import now
from softprompt.registry.scope import Scope
from softprompt.registry.traffic.experiments import Experiment, count_outcome

_f = tables.feedback.c


@dataclass(frozen=True)
class Said:
    """What is said of an answer."""

    task: str
    name: str
    """Of the request."""
    version: int
    """What answered."""
    user: str | None = None
    """Whose own version that was; None for one that all share."""
    experiment: int | None = None
    arm: str | None = None
    outcome: float | None = None
    """From 0 to 1."""
    comment: str | None = None
    correction: Mapping[str, Any] | None = None
    """The row as it should be."""


@dataclass(frozen=True)
class Kept:
    """What became of it."""

    new: bool
    """False where the request has been spoken of before: then that stays."""
    counted: Experiment | None = None
    """The experiment that counts the outcome, as it stands then."""


@dataclass(frozen=True)
class Correction:
    """A row as it should be."""

    id: int
    row: dict[str, Any]
    used_by: int | None
    """The version that was made with it."""


class Feedback:
    """What is said of one tenant's tasks. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def add(self, said: Said) -> Kept:
        """Keep what is said, and count its outcome, in one transaction.

        Raises:
            NotFound: no such task.
            RegistryError: the database fails; nothing is kept.
        """
        with self._scope.database.write() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, check_task(said.task)).id
            if not self._insert(connection, task_id, said):
                return Kept(new=False)
            if said.experiment is None or said.arm is None or said.outcome is None:
                return Kept(new=True)
            return Kept(new=True, counted=count_outcome(connection, said.experiment, said.arm, said.outcome))

    def _insert(self, connection: Connection, task_id: int, said: Said) -> bool:
        corrected = None if said.correction is None else json.dumps(said.correction, ensure_ascii=False)
        return queries.add_missing(
            connection, tables.feedback, task_id=task_id, name=said.name, number=said.version, person=said.user,
            experiment_id=said.experiment, arm=said.arm, outcome=said.outcome, comment=said.comment, correction=corrected,
            actor=self._scope.actor, created_at=now(),
        )  # fmt: skip

    def add_corrections(self, task: str, version: int, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep corrections, by names of their own, that no client has sent; those that are there stay.

        Raises:
            NotFound: no such task.
        """
        with self._scope.database.write() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, check_task(task)).id
            for name, row in rows.items():
                self._insert(connection, task_id, Said(task, name, version, correction=row))

    def corrections(self, task: str) -> list[Correction]:
        """All corrections of a task, oldest first.

        Raises:
            NotFound: no such task.
        """
        with self._scope.database.read() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, check_task(task)).id
            this = sa.and_(_f.task_id == task_id, _f.correction.is_not(None))
            rows = connection.execute(sa.select(_f.id, _f.correction, _f.used_by).where(this).order_by(_f.id))
            return [Correction(row.id, json.loads(row.correction), row.used_by) for row in rows]

    def used(self, connection: Connection, ids: Iterable[int], version: int) -> None:
        """Say which version was made with corrections."""
        for number in ids:
            connection.execute(sa.update(tables.feedback).where(_f.id == number).values(used_by=version))
