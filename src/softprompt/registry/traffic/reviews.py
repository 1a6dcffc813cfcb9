"""Rows that were answered with little confidence, kept for somebody to say the right answer: where a server was told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NotFound
from softprompt.registry import queries, tables
from softprompt.registry.records import Record, now
from softprompt.registry.scope import Scope

MOST_ROWS = 1000
"""Of a task, that nobody has labelled: the oldest go first. Those with an answer are somebody's work, and stay beside them
until they are erased."""

_t, _r = tables.tasks.c, tables.reviews.c


@dataclass(frozen=True)
class Review(Record):
    """A row for review."""

    id: int
    task: str
    version: int
    text: str
    """What was asked, as the client sent it."""
    output: str
    """What was answered."""
    confidence: float
    answer: str | None = None
    """The right one, once somebody has said it."""
    created_at: str = ""


@dataclass(frozen=True)
class Count(Record):
    """Rows for review of one task."""

    task: str
    rows: int
    labelled: int
    """How many of them somebody has said the right answer of."""


class Reviews:
    """The rows of one tenant's tasks. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def add(self, task: str, rows: Sequence[Review]) -> None:
        """Keep rows, the oldest first; of those without an answer the ones beyond :data:`MOST_ROWS` go.

        Raises:
            NotFound: there is no such task.
            RegistryError: the database fails; nothing is kept.
        """
        with self._scope.database.write() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, task, lock=True).id
            for row in rows[-MOST_ROWS:]:
                texts = {
                    name: getattr(row, name).replace("\0", "\ufffd") for name in ("text", "output")
                }  # no registry has NUL
                values = {"task_id": task_id, "number": row.version, **texts}
                values |= {"confidence": row.confidence, "answer": row.answer, "created_at": row.created_at or now()}
                connection.execute(sa.insert(tables.reviews).values(values))
            waiting = sa.select(_r.id).where(_r.task_id == task_id, _r.answer.is_(None)).order_by(_r.id.desc())
            surplus = connection.execute(waiting.offset(MOST_ROWS)).scalars().all()
            connection.execute(sa.delete(tables.reviews).where(_r.id.in_(surplus)))

    def of(self, task: str) -> list[Review]:
        """The rows of a task, oldest first.

        Raises:
            NotFound: there is no such task.
        """
        with self._scope.database.read() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, task).id
            rows = connection.execute(sa.select(tables.reviews).where(_r.task_id == task_id).order_by(_r.id)).fetchall()
        return [
            Review(row.id, task, row.number, row.text, row.output, row.confidence, row.answer, row.created_at)
            for row in rows
        ]

    def counts(self) -> list[Count]:
        """How many rows each task has, those with the most that nobody has labelled first."""
        labelled = sa.func.count(_r.answer)
        statement = sa.select(_t.name, sa.func.count().label("rows"), labelled.label("labelled"))
        statement = statement.select_from(tables.reviews.join(tables.tasks, _t.id == _r.task_id))
        statement = statement.where(_t.tenant == self._scope.tenant).group_by(_t.name)
        with self._scope.database.read() as connection:
            found = [Count(row.name, row.rows, row.labelled) for row in connection.execute(statement)]
        return sorted(found, key=lambda one: (one.labelled - one.rows, one.task))

    def label(self, task: str, answers: Mapping[int, str]) -> None:
        """Say the right answers of rows, by their ids: all or none.

        Raises:
            NotFound: there is no such task, or no such row.
        """
        with self._scope.database.write() as connection:
            task_id = self._check(connection, task, list(answers))
            for row, answer in answers.items():
                this = sa.and_(_r.id == row, _r.task_id == task_id)
                connection.execute(sa.update(tables.reviews).where(this).values(answer=answer))

    def erase(self, task: str, ids: Sequence[int] | None = None) -> int:
        """Take rows of a task away for good, or all of them; how many. The audit keeps the number, and no text.

        Raises:
            NotFound: there is no such task, or no such row; nothing is erased.
        """
        with self._scope.database.write() as connection:
            task_id = self._check(connection, task, ids or ())
            these = _r.task_id == task_id if ids is None else sa.and_(_r.task_id == task_id, _r.id.in_(ids))
            count = connection.execute(sa.select(sa.func.count()).select_from(tables.reviews).where(these)).scalar_one()
            connection.execute(sa.delete(tables.reviews).where(these))
            self._scope.record(connection, "erase review", task, before={"rows": count})
            return int(count)

    def _check(self, connection: Connection, task: str, ids: Sequence[int]) -> int:
        task_id: int = queries.task_row(connection, self._scope.tenant, task, lock=True).id
        there = sa.select(_r.id).where(_r.task_id == task_id, _r.id.in_([one for one in ids if one < 1 << 63]))
        if missing := set(ids) - set(connection.execute(there).scalars()):
            raise NotFound(
                f"task {task!r} has no row {min(missing)} for review; `softprompt review {task}` lists those there are"
            )
        return task_id
