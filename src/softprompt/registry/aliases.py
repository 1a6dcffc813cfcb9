"""Aliases, forwards and back. One transaction and one audit line each.

The trail of an alias is a stack: a promotion puts a version on it, a rollback takes it off. So going back twice goes
back two promotions, and a promotion after a rollback goes on from where the alias stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NotFound, PromotionRefused
from softprompt.names import Ref, check_alias, check_task, parse_ref
from softprompt.prompts.card import Card
from softprompt.registry import outcomes, queries, tables
from softprompt.registry.gate import Comparison, weigh, weigh_suites
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Move, Version
from softprompt.registry.scope import Scope
from softprompt.registry.traffic.experiments import end_running

_v, _a, _p = tables.versions.c, tables.aliases.c, tables.promotions.c


class Aliases:
    """The aliases of one tenant's tasks. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def of(self, task: str) -> dict[str, int]:
        """The aliases of a task and the numbers they point to.

        Raises:
            NotFound: no such task.
        """
        check_task(task)
        with self._scope.database.read() as connection:
            return queries.aliases_of(connection, queries.task_row(connection, self._scope.tenant, task).id)

    def promote(
        self,
        ref: str,
        alias: str,
        *,
        force: bool = False,
        reason: str | None = None,
        also: Callable[[Connection], object] | None = None,
    ) -> Move:
        """Point an alias at a version. Promoting what is in place already changes nothing. Where the version in place has
        outcomes of suites, those decide, and else the scores of the two cards. `also` is called in the same transaction,
        with the task locked: where it raises, nothing moves.

        Raises:
            NotFound: no such version, or it is deleted.
            PromotionRefused: it is clearly worse than the version in place, an outcome of a suite is missing, or `force`
                comes without a reason.
        """
        check_alias(alias)
        requested = parse_ref(ref)
        if force and not (reason and reason.strip()):
            raise PromotionRefused("a promotion by force has no reason, which the audit keeps; give one with --reason TEXT")
        with self._scope.database.write() as connection:
            task = queries.task_row(connection, self._scope.tenant, requested.task, lock=True)
            version = queries.find(connection, self._scope.tenant, requested)
            if also is not None:
                also(connection)
            before = queries.aliases_of(connection, task.id).get(alias)
            move = Move(task.name, alias, before, version.number, reason, decision="promoted: nothing was there before")
            despite: dict[str, str] = {}
            if before == version.number:
                return replace(move, decision="nothing moved: it is there already")
            if before is not None:
                found = _weighed(connection, task, before, version)
                if found.refusal is not None and not force:
                    raise PromotionRefused(
                        f"{version.ref} is not promoted to {alias}, where {task.name}@{before} is: {found.refusal}; "
                        "to promote it all the same, add --force --reason TEXT"
                    )
                forced = ", forced" if found.refusal is not None else ""
                decision = f"promoted{forced}: {found.words}"
                move = replace(move, same_rows=found.same_rows, decision=decision, suites=found.suites)
                despite = {"despite": found.refusal} if found.refusal is not None else {}
            self._point(connection, task, "promote", move, {"forced": True, **despite} if force else {})
            connection.execute(sa.insert(tables.promotions).values(task_id=task.id, alias=alias, number=version.number))
            return move

    def rollback_target(self, task: str, alias: str) -> Version:
        """The version that a rollback would put the alias back to.

        Raises:
            NotFound: no such task or alias, or nothing is left to go back to.
        """
        check_task(task)
        check_alias(alias)
        with self._scope.database.read() as connection:
            row = queries.task_row(connection, self._scope.tenant, task)
            _, target = _trail(connection, row, alias)
            return queries.find(connection, self._scope.tenant, Ref(task, number=target))

    def rollback(self, task: str, alias: str, *, to: int, reason: str | None = None) -> Move | None:
        """Put an alias back to what it pointed to before its last promotion, past versions deleted since.

        Returns None, and changes nothing, where that is no longer the version `to`: look again.

        Raises:
            NotFound: no such task or alias, or nothing is left to go back to.
        """
        with self._scope.database.write() as connection:
            row = queries.task_row(connection, self._scope.tenant, check_task(task), lock=True)
            undone, target = _trail(connection, row, check_alias(alias))
            if target != to:
                return None
            before = queries.aliases_of(connection, row.id).get(alias)
            connection.execute(sa.update(tables.promotions).where(_p.id.in_(undone)).values(undone=True))
            move = Move(task, alias, before, target, reason)
            self._point(connection, row, "rollback", move, {})
            return move

    def _point(self, connection: Connection, task: AnyRow, action: str, move: Move, more: dict[str, Any]) -> None:
        """Set an alias. The task is locked, so nobody inserts between the two statements."""
        at = sa.and_(_a.task_id == task.id, _a.name == move.alias)
        if not connection.execute(sa.update(tables.aliases).where(at).values(number=move.after)).rowcount:
            connection.execute(sa.insert(tables.aliases).values(task_id=task.id, name=move.alias, number=move.after))
        before = {"alias": move.alias, "version": move.before}
        after = {"alias": move.alias, "version": move.after, **more}
        self._scope.record(connection, action, move.task, before=before, after=after, reason=move.reason)
        if move.alias == queries.PRODUCTION and move.before is not None:  # else it is only pinned
            end_running(connection, self._scope, task.id, f"{move.alias} moved from {move.before} to {move.after}: {action}")


def _weighed(connection: Connection, task: AnyRow, before: int, version: Version) -> Comparison:
    current = outcomes.of_version(connection, task, before)
    if current:
        return weigh_suites(current, version.ref, outcomes.of_version(connection, task, version.number))
    return weigh(Card.parse(queries.version_row(connection, task, before).card), version.card)


def remove(connection: Connection, task_id: int, aliases: Sequence[str]) -> None:
    """Take aliases away, and their trails with them, in the caller's transaction; the task is locked."""
    connection.execute(sa.delete(tables.aliases).where(_a.task_id == task_id, _a.name.in_(aliases)))
    trail = sa.and_(_p.task_id == task_id, _p.alias.in_(aliases))
    connection.execute(sa.update(tables.promotions).where(trail).values(undone=True))


def _trail(connection: Connection, task: AnyRow, alias: str) -> tuple[list[int], int]:
    """The promotions that a rollback undoes, and the number it goes back to."""
    here = queries.aliases_of(connection, task.id).get(alias)
    if here is None:
        raise NotFound(
            f"task {task.name!r} has no alias {alias!r} to roll back; `softprompt show {task.name}` lists its aliases"
        )
    joined = tables.promotions.join(tables.versions, sa.and_(_v.task_id == _p.task_id, _v.number == _p.number))
    statement = (
        sa.select(_p.id, _p.number, _v.deleted)
        .select_from(joined)
        .where(_p.task_id == task.id, _p.alias == alias, ~_p.undone)
        .order_by(_p.id.desc())
    )
    undone: list[int] = []
    for row in connection.execute(statement):
        if row.number != here and not row.deleted:
            return undone, row.number
        undone.append(row.id)
    raise NotFound(
        f"{task.name}@{alias} has nothing to go back to from version {here}: no earlier promotion is left; "
        f"promote a version instead (`softprompt promote {task.name}@N --alias {alias}`)"
    )
