"""What servers saw lately of the rows that versions serve: one window for a version and a server, sums alone and no text;
and references for versions whose card has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.names import Ref
from softprompt.prompts.card import REFERENCE
from softprompt.registry import queries, tables
from softprompt.registry.records import Record, Version, now
from softprompt.registry.scope import Scope

KEEP_DAYS = 7
"""Windows that no server has written to for so long go."""
MOST_SERVERS = 256
"""Windows of a version that are kept, the newest ones: each start of a server makes one."""

_t, _v, _w, _r = tables.tasks.c, tables.versions.c, tables.windows.c, tables.drift_references.c


@dataclass(frozen=True)
class Window:
    """What one server saw of the last rows of a version."""

    server: str
    rows: int
    tally: Mapping[str, Any]
    began_at: str
    ended_at: str


@dataclass(frozen=True)
class Seen(Record):
    """How much servers saw of a version lately."""

    task: str
    version: int
    rows: int
    last: str
    """When the newest of them came."""


class Windows:
    """The windows and references of one tenant's versions. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def store(self, server: str, found: Mapping[tuple[str, int], Window]) -> None:
        """Put windows of a server in the place of those that it stored before, by task and number. Old ones of the same
        versions go; a version that is there no more is left out.

        Raises:
            RegistryError: the database fails; nothing is changed.
        """
        old = (datetime.now(UTC) - timedelta(days=KEEP_DAYS)).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._scope.database.write() as connection:
            for (task, number), window in sorted(found.items()):
                version = self._version_id(connection, task, number)
                if version is None:
                    continue
                own = sa.and_(_w.version_id == version, _w.server == server)
                connection.execute(
                    sa.delete(tables.windows).where(sa.or_(own, sa.and_(_w.version_id == version, _w.ended_at < old)))
                )
                values = {"version_id": version, "server": server, "rows": window.rows, "tally": _json(window.tally)}
                values |= {"began_at": window.began_at, "ended_at": window.ended_at}
                connection.execute(sa.insert(tables.windows).values(values))
                others = sa.select(_w.server).where(_w.version_id == version).order_by(_w.ended_at.desc(), _w.server)
                surplus = connection.execute(others.offset(MOST_SERVERS)).scalars().all()
                if surplus:
                    gone = sa.and_(_w.version_id == version, _w.server.in_(surplus))
                    connection.execute(sa.delete(tables.windows).where(gone))

    def of(self, version: Version, *, hours: float | None = None) -> list[Window]:
        """What servers saw of a version, the newest first; only those that saw something in the last `hours`.

        Raises:
            RegistryError: the database fails.
        """
        statement = sa.select(tables.windows).join(tables.versions, _v.id == _w.version_id)
        statement = statement.join(tables.tasks, _t.id == _v.task_id).where(
            _t.tenant == self._scope.tenant, _t.name == version.task, _v.number == version.number
        )
        if hours is not None:
            since = datetime.now(UTC) - timedelta(hours=hours)
            statement = statement.where(_w.ended_at >= since.strftime("%Y-%m-%dT%H:%M:%SZ"))
        with self._scope.database.read() as connection:
            rows = connection.execute(statement.order_by(_w.ended_at.desc(), _w.server)).fetchall()
        return [Window(row.server, row.rows, json.loads(row.tally), row.began_at, row.ended_at) for row in rows]

    def seen(self, limit: int) -> list[Seen]:
        """The versions that servers saw rows of, the last seen first.

        Raises:
            RegistryError: the database fails.
        """
        last = sa.func.max(_w.ended_at).label("last")
        statement = sa.select(_t.name, _v.number, sa.func.sum(_w.rows).label("rows"), last).select_from(
            tables.windows.join(tables.versions, _v.id == _w.version_id).join(tables.tasks, _t.id == _v.task_id)
        )
        statement = statement.where(_t.tenant == self._scope.tenant, ~_v.deleted).group_by(_t.name, _v.number)
        with self._scope.database.read() as connection:
            rows = connection.execute(statement.order_by(last.desc(), _t.name, _v.number).limit(limit))
            return [Seen(row.name, row.number, int(row.rows), row.last) for row in rows]

    def reference(self, version: Version) -> Any:
        """How the rows looked that a version was tuned for: what was set for it, else what its card says; None for neither.

        Raises:
            RegistryError: the database fails.
        """
        with self._scope.database.read() as connection:
            found = self._version_id(connection, version.task, version.number)
            told = connection.execute(sa.select(_r.reference).where(_r.version_id == found)).scalar()
        return version.card.recipe.get(REFERENCE) if told is None else json.loads(told)

    def set_reference(self, version: Version, reference: Mapping[str, Any], source: str) -> None:
        """Keep a reference for a version, in the place of another one; `source` says what rows it is of.

        Raises:
            NotFound: there is no such version.
            RegistryError: the database fails; nothing is changed.
        """
        with self._scope.database.write() as connection:
            task = queries.task_row(connection, self._scope.tenant, version.task, lock=True)
            found = queries.version_row(connection, task, version.number).id
            connection.execute(sa.delete(tables.drift_references).where(_r.version_id == found))
            values = {"version_id": found, "reference": _json(reference), "source": source}
            values |= {"actor": self._scope.actor, "created_at": now()}
            connection.execute(sa.insert(tables.drift_references).values(values))
            # What was seen was scaled by the reference of then.
            connection.execute(sa.delete(tables.windows).where(_w.version_id == found))
            self._scope.record(connection, "reference", task.name, after={"version": version.number, "source": source})

    def find(self, task: str, number: int) -> Version | None:
        """A version that is live, by its number.

        Raises:
            RegistryError: the database fails.
        """
        with self._scope.database.read() as connection:
            if self._version_id(connection, task, number) is None:
                return None
            found = queries.find(connection, self._scope.tenant, Ref(task, number=number), deleted=True)
            return None if found.deleted else found

    def _version_id(self, connection: Connection, task: str, number: int) -> int | None:
        statement = sa.select(_v.id).join(tables.tasks, _t.id == _v.task_id)
        this = (_t.tenant == self._scope.tenant, _t.name == task, _v.number == number)
        found: int | None = connection.execute(statement.where(*this)).scalar()
        return found


def key_of(reference: Any) -> str:
    """What names a reference: windows are scaled by one, and say nothing beside another."""
    return "" if reference is None else hashlib.sha256(_json(reference).encode()).hexdigest()[:16]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
