"""Listing: the newest version of each task that passes the filters, in a fixed number of queries."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NameRefused
from softprompt.names import check_tag
from softprompt.records import Entry
from softprompt.schema import aliases, tags, tasks, versions

_METRIC = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:(>=|<=|>|<)\s*([-+0-9.eE]+)\s*)?")
_SHORTEST_FINGERPRINT = 8


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
    wanted = [tasks.c.tenant == tenant, ~versions.c.deleted, *_on_task(filters)]
    special = _on_version(filters)
    joined = versions.join(tasks, versions.c.task_id == tasks.c.id)
    if not special and not filters.every:
        chosen = joined  # tasks.newest says it all
        wanted.append(versions.c.number == tasks.c.newest)
    elif filters.every:
        chosen = joined
        wanted += special
    else:
        newest = (
            sa.select(versions.c.task_id, sa.func.max(versions.c.number).label("number"))
            .select_from(joined)
            .where(*wanted, *special)
            .group_by(versions.c.task_id)
            .subquery("passing")
        )
        same = sa.and_(versions.c.task_id == newest.c.task_id, versions.c.number == newest.c.number)
        chosen = joined.join(newest, same)
    statement = (
        sa.select(
            tasks.c.id.label("task_id"),
            tasks.c.name,
            tasks.c.live,
            versions.c.id,
            versions.c.number,
            versions.c.digest,
            versions.c.base,
            versions.c.fingerprint,
            versions.c.metric,
            versions.c.value,
            versions.c.created_at,
        )
        .select_from(chosen)
        .where(*wanted)
    )
    # Sorted here: databases sort text each in its own way.
    rows = sorted(connection.execute(statement).fetchall(), key=lambda row: (row.name, row.number))
    if filters.task is not None:
        pattern = _glob(filters.task)  # LIKE minds case on one database and not on the other
        rows = [row for row in rows if pattern.fullmatch(row.name)]
    by_task = _aliases(connection, tenant, filters)
    by_version = _tags(connection, statement)
    return [
        Entry(
            task=row.name,
            version=row.number,
            versions=row.live,
            digest=row.digest,
            base=row.base,
            fingerprint=row.fingerprint,
            metric=row.metric,
            value=row.value,
            created_at=row.created_at,
            aliases=tuple(name if number == row.number else f"{name}@{number}" for name, number in by_task[row.task_id]),
            tags=tuple(by_version[row.id]),
        )
        for row in rows
    ]


def _aliases(connection: Connection, tenant: str, filters: Filters) -> dict[int, list[tuple[str, int]]]:
    statement = (
        sa.select(aliases.c.task_id, aliases.c.name, aliases.c.number)
        .join(tasks, aliases.c.task_id == tasks.c.id)
        .where(tasks.c.tenant == tenant, *_on_task(filters))
        .order_by(aliases.c.name)
    )
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for task_id, name, number in connection.execute(statement):
        found[task_id].append((name, number))
    return found


def _tags(connection: Connection, chosen: sa.Select[Any]) -> dict[int, list[str]]:
    ids = chosen.with_only_columns(versions.c.id)
    statement = sa.select(tags.c.version_id, tags.c.tag).where(tags.c.version_id.in_(ids)).order_by(tags.c.tag)
    found: dict[int, list[str]] = defaultdict(list)
    for version_id, tag in connection.execute(statement):
        found[version_id].append(tag)
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
        same = versions.c.base.in_({filters.base, os.path.abspath(filters.base)})
        if len(filters.base) >= _SHORTEST_FINGERPRINT and filters.base.isalnum():
            same |= versions.c.fingerprint.startswith(filters.base, autoescape=True)
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
