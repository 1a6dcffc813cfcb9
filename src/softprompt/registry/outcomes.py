"""What suites found of versions: one outcome for a version and a suite, with what each row counts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NotFound, nearest
from softprompt.names import check_suite, parse_ref
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Check, Outcome, now
from softprompt.registry.scope import Scope

_t, _v, _o = tables.tasks.c, tables.versions.c, tables.outcomes.c
_IN_BODY = ("definition", "rows", "answers", "right", "checks", "calibration")
"""Fields of an outcome that are read together."""


class Outcomes:
    """The outcomes of one tenant's versions. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def put(self, outcome: Outcome) -> Outcome:
        """Keep an outcome, in the place of the one that the version has of this suite.

        Raises:
            NameRefused: the suite is no name.
            NotFound: no such version, or it is deleted.
        """
        check_suite(outcome.suite)
        kept = replace(outcome, actor=self._scope.actor, created_at=now())
        body = json.dumps(
            {name: _plain(getattr(outcome, name)) for name in _IN_BODY}, separators=(",", ":"), allow_nan=False
        )
        values = {"digest": kept.digest, "body": zlib.compress(body.encode(), 9), "actor": kept.actor}
        with self._scope.database.write() as connection:
            task = queries.task_row(connection, self._scope.tenant, kept.task, lock=True)
            queries.find(connection, self._scope.tenant, parse_ref(kept.ref))
            version_id = queries.version_row(connection, task, kept.version).id
            this = sa.and_(_o.version_id == version_id, _o.suite == kept.suite)
            connection.execute(sa.delete(tables.outcomes).where(this))
            whole = values | {"version_id": version_id, "suite": kept.suite, "created_at": kept.created_at}
            connection.execute(sa.insert(tables.outcomes).values(whole))
            after = {"version": kept.version, "suite": kept.suite, "digest": kept.digest, "rows": len(kept.rows)}
            self._scope.record(connection, "suite", kept.task, after=after)
        return kept

    def drop(self, ref: str, suite: str, reason: str | None = None) -> Outcome:
        """Take away what a suite found of a version, which the gate then asks of nobody.

        Raises:
            NotFound: there is none.
        """
        with self._scope.database.write() as connection:
            version = queries.find(connection, self._scope.tenant, parse_ref(ref), deleted=True)
            task = queries.task_row(connection, self._scope.tenant, version.task, lock=True)
            gone = _only(of_version(connection, task, version.number), version.ref, suite)
            version_id = queries.version_row(connection, task, version.number).id
            connection.execute(sa.delete(tables.outcomes).where(_o.version_id == version_id, _o.suite == suite))
            before = {"version": gone.version, "suite": suite, "digest": gone.digest, "rows": len(gone.rows)}
            self._scope.record(connection, "drop suite", version.task, before=before, reason=reason)
            return gone

    def of(self, ref: str) -> list[Outcome]:
        """All outcomes of a version, by suite.

        Raises:
            NameRefused: not a reference.
            NotFound: no such task, version or alias.
        """
        with self._scope.database.read() as connection:
            version = queries.find(connection, self._scope.tenant, parse_ref(ref), deleted=True)
            task = queries.task_row(connection, self._scope.tenant, version.task)
            return of_version(connection, task, version.number)

    def one(self, ref: str, suite: str) -> Outcome:
        """The outcome of a version that a suite has.

        Raises:
            NotFound: there is none.
        """
        return _only(self.of(ref), ref, suite)


def of_version(connection: Connection, task: AnyRow, number: int) -> list[Outcome]:
    """The outcomes of a version of a task, given by its row, by suite."""
    joined = tables.outcomes.join(tables.versions, _v.id == _o.version_id)
    statement = sa.select(tables.outcomes).select_from(joined).where(_v.task_id == task.id, _v.number == number)
    rows = connection.execute(statement).fetchall()
    return sorted((_outcome(task.name, number, row) for row in rows), key=lambda one: one.suite)


def _only(outcomes: Sequence[Outcome], ref: str, suite: str) -> Outcome:
    found = {one.suite: one for one in outcomes}
    if suite not in found:
        raise NotFound(
            f"{ref} has no outcome of suite {suite!r}; `softprompt suite run {ref} --suite FILE` makes one"
            f"{nearest(suite, found)}"
        )
    return found[suite]


def _outcome(task: str, number: int, row: AnyRow) -> Outcome:
    body: dict[str, Any] = json.loads(zlib.decompress(row.body))
    checks = tuple(Check(**{name: _fixed(value) for name, value in one.items()}) for one in body.pop("checks"))
    fixed = {name: _fixed(value) for name, value in body.items()}
    return Outcome(
        task, number, row.suite, row.digest, checks=checks, actor=row.actor, created_at=row.created_at, **fixed
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """A field in the types of JSON; of what rows count, whole numbers are written as such."""
    if isinstance(value, Check):
        return {**vars(value), "values": [int(one) if float(one).is_integer() else one for one in value.values]}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
