"""Listing: the newest version of each task that passes the filters, in a fixed number of queries."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from operator import itemgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NameRefused
from softprompt.names import check_tag
from softprompt.registry.queries import tags_of
from softprompt.registry.records import Entry
from softprompt.registry.tables import aliases, tags, tasks, versions

_METRIC = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:(>=|<=|>|<)\s*([-+0-9.eE]+)\s*)?")
_BATCH = 5000
"""Ids in one question for tags; databases bound the parameters of a statement."""
_FINGERPRINT = re.compile("[0-9a-f]{8,64}")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a listing asks for; None asks for nothing."""

    base: str | None = None
    """Id or folder of the base, or its fingerprint (8 digits of it are enough)."""
    task: str | None = None
    """Name of the task; `*` and `?` match any text."""
    tag: str | None = None
    metric: str | None = None
    """Name of a metric, with a bound on its value if one is wanted: `accuracy`, `accuracy>=0.8`."""
    every: bool = False
    """Every live version, not only the newest that passes."""


def search(connection: Connection, tenant: str, filters: Filters) -> list[Entry]:
    """The entries that pass, by name of task, then number.

    Raises:
        NameRefused: a filter cannot be read.
    """
    mine = [tasks.c.tenant == tenant, *_on_task(filters)]
    passing = [~versions.c.deleted, *_on_version(filters)]
    joined = versions.join(tasks, versions.c.task_id == tasks.c.id)
    if filters.every:
        chosen, conditions = joined, [*mine, *passing]
    elif len(passing) == 1:
        chosen, conditions = joined, [*mine, versions.c.number == tasks.c.newest]  # that says it all
    else:
        newest = _newest(passing, mine if filters.task is not None else [])
        same = sa.and_(versions.c.task_id == newest.c.task_id, versions.c.number == newest.c.number)
        chosen, conditions = joined.join(newest, same), mine
    v = versions.c
    columns = (tasks.c.name, v.number, tasks.c.live, v.digest, v.base, v.fingerprint, v.metric, v.value, v.created_at)
    statement = sa.select(v.id, v.task_id, *columns).select_from(chosen).where(*conditions)
    # Sorted here: databases sort text each in its own way.
    rows = sorted(map(tuple, connection.execute(statement)), key=itemgetter(2, 3))
    if filters.task is not None:
        pattern = _glob(filters.task)  # LIKE minds case on one database and not on the other
        rows = [row for row in rows if pattern.fullmatch(row[2])]
    by_task = _aliases(connection, tenant, filters)
    by_version: dict[int, tuple[str, ...]] = {}
    for start in range(0, len(rows), _BATCH):
        by_version |= tags_of(connection, [row[0] for row in rows[start : start + _BATCH]])
    none: list[tuple[str, int]] = []
    return [
        Entry._make(
            (
                *row[2:],
                tuple(alias if to == row[3] else f"{alias}@{to}" for alias, to in sorted(by_task.get(row[1], none))),
                by_version.get(row[0], ()),
            )
        )
        for row in rows
    ]


def _newest(passing: list[sa.ColumnElement[bool]], mine: list[sa.ColumnElement[bool]]) -> sa.Subquery:
    """The highest number that passes, for each task: of any tenant, since the index knows none; the caller sorts out."""
    statement = sa.select(versions.c.task_id, sa.func.max(versions.c.number).label("number")).where(*passing)
    if mine:
        statement = statement.where(versions.c.task_id.in_(sa.select(tasks.c.id).where(*mine)))
    return statement.group_by(versions.c.task_id).subquery("passing")


def _aliases(connection: Connection, tenant: str, filters: Filters) -> dict[int, list[tuple[str, int]]]:
    statement = (
        sa.select(aliases.c.task_id, aliases.c.name, aliases.c.number)
        .join(tasks, aliases.c.task_id == tasks.c.id)
        .where(tasks.c.tenant == tenant, *_on_task(filters))
    )
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for task_id, name, number in connection.execute(statement):
        found[task_id].append((name, number))
    return found


def _on_task(filters: Filters) -> list[sa.ColumnElement[bool]]:
    if filters.task is None:
        return []
    if not set("*?") & set(filters.task):
        return [tasks.c.name == filters.task]
    escaped = re.sub(r"([%_\\])", r"\\\1", filters.task).replace("*", "%").replace("?", "_")
    return [tasks.c.name.like(escaped, escape="\\")]


def _on_version(filters: Filters) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if filters.base is not None:
        same: sa.ColumnElement[bool] = versions.c.base.in_({filters.base, os.path.abspath(filters.base)})
        if not os.path.isabs(filters.base):
            # An id at any of its revisions; no LIKE, which minds case on one database and not on the other.
            at = f"{filters.base}@"
            same |= sa.func.substr(versions.c.base, 1, len(at)) == at
        if _FINGERPRINT.fullmatch(filters.base):
            # A range and not LIKE, which uses no index on SQLite. 'g' comes after every hex digit.
            same |= versions.c.fingerprint.between(filters.base, filters.base + "g")
        found.append(same)
    if filters.tag is not None:
        check_tag(filters.tag)
        found.append(versions.c.id.in_(sa.select(tags.c.version_id).where(tags.c.tag == filters.tag)))
    if filters.metric is not None:
        found += _on_metric(filters.metric)
    return found


def _on_metric(text: str) -> list[sa.ColumnElement[bool]]:
    match = _METRIC.fullmatch(text)
    try:
        bound = float(match[3]) if match and match[3] is not None else None
    except ValueError:
        match = None
    if match is None:
        raise NameRefused(f"metric filter {text!r} cannot be read; write accuracy, or 'accuracy>=0.8'")
    found: list[sa.ColumnElement[bool]] = [versions.c.metric == match[1]]
    if bound is not None:
        value = versions.c.value
        compared = {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}
        found.append(compared[match[2]])
    return found


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."))
