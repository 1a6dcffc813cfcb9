"""What moves: aliases forwards and back, versions deleted and restored. One transaction and one audit line each.

The trail of an alias is a stack: a promotion puts a version on it, a rollback takes it off. So going back twice goes
back two promotions, and a promotion after a rollback goes on from where the alias stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import LibraryError, NotFound, PromotionRefused
from softprompt.names import Ref, check_alias, check_task, parse_ref
from softprompt.prompts.card import Card
from softprompt.registry import queries, tables
from softprompt.registry.gate import reason_to_refuse
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Move, Version

if TYPE_CHECKING:
    from softprompt.registry.registry import Registry

_t, _v, _a, _p = tables.tasks.c, tables.versions.c, tables.aliases.c, tables.promotions.c


def promote(registry: Registry, ref: str, alias: str, *, force: bool = False, reason: str | None = None) -> Move:
    """Point an alias at a version. Promoting what is in place already changes nothing.

    Raises:
        NotFound: no such version, or it is deleted.
        PromotionRefused: it scores clearly worse than the version in place, or `force` comes without a reason.
    """
    check_alias(alias)
    wanted = parse_ref(ref)
    if force and not (reason and reason.strip()):
        raise PromotionRefused("--force needs --reason TEXT: it is kept in the audit")
    with registry.database.write() as connection:
        task = queries.task_row(connection, registry.tenant, wanted.task, lock=True)
        version = queries.find(connection, registry.tenant, wanted)
        before = queries.aliases_of(connection, task.id).get(alias)
        if before == version.number:
            return Move(task.name, alias, before, version.number, reason)
        if before is not None and not force:
            current = Card.parse(queries.version_row(connection, task, before).card)
            refusal = reason_to_refuse(current, version.card)
            if refusal is not None:
                raise PromotionRefused(
                    f"{version.ref} is not promoted to {alias}, where {task.name}@{before} is: {refusal}; "
                    "to promote it all the same, add --force --reason TEXT"
                )
        _point(connection, task, alias, version.number)
        connection.execute(sa.insert(tables.promotions).values(task_id=task.id, alias=alias, number=version.number))
        return _moved(registry, connection, "promote", Move(task.name, alias, before, version.number, reason), force)


def rollback_target(registry: Registry, task: str, alias: str) -> Version:
    """The version that a rollback would put the alias back to.

    Raises:
        NotFound: no such task or alias, or nothing is left to go back to.
    """
    check_task(task)
    check_alias(alias)
    with registry.database.read() as connection:
        row = queries.task_row(connection, registry.tenant, task)
        _, target = _trail(connection, row, alias)
        return queries.find(connection, registry.tenant, Ref(task, number=target))


def rollback(registry: Registry, task: str, alias: str, *, to: int, reason: str | None = None) -> Move | None:
    """Put an alias back to what it pointed to before its last promotion, past versions deleted since.

    Returns None, and changes nothing, where that is no longer the version `to`: look again.

    Raises:
        NotFound: no such task or alias, or nothing is left to go back to.
    """
    with registry.database.write() as connection:
        row = queries.task_row(connection, registry.tenant, check_task(task), lock=True)
        undone, target = _trail(connection, row, check_alias(alias))
        if target != to:
            return None
        before = queries.aliases_of(connection, row.id).get(alias)
        connection.execute(sa.update(tables.promotions).where(_p.id.in_(undone)).values(undone=True))
        _point(connection, row, alias, target)
        return _moved(registry, connection, "rollback", Move(task, alias, before, target, reason))


def delete(registry: Registry, ref: str, *, force: bool = False) -> Version:
    """Delete a version softly: hidden, its bytes kept. With `force`, aliases that point to it are removed.

    Raises:
        LibraryError: aliases point to it, and no force is used.
        NotFound: no such version, or it is deleted already.
    """
    wanted = parse_ref(ref)
    if wanted.number is None:
        raise LibraryError(
            f"{ref!r} names no version by its number; write {wanted.task}@N (`softprompt show {wanted.task}`)"
        )
    with registry.database.write() as connection:
        task = queries.task_row(connection, registry.tenant, wanted.task, lock=True)
        version = queries.find(connection, registry.tenant, wanted)
        here = [name for name, number in queries.aliases_of(connection, task.id).items() if number == version.number]
        if here and not force:
            raise LibraryError(
                f"{version.ref} is not deleted: {', '.join(here)} points to it; promote another version first, "
                "or add --force to remove the alias too"
            )
        if here:
            at = sa.and_(_a.task_id == task.id, _a.name.in_(here))
            connection.execute(sa.delete(tables.aliases).where(at))
            trail = sa.and_(_p.task_id == task.id, _p.alias.in_(here))
            connection.execute(sa.update(tables.promotions).where(trail).values(undone=True))
        which = sa.and_(_v.task_id == task.id, _v.number == version.number)
        connection.execute(sa.update(tables.versions).where(which).values(deleted=True))
        _recount(connection, task.id)
        before = {"version": version.number, "digest": version.digest, "aliases": here}
        registry.record(connection, "delete", task.name, before=before)
        return queries.find(connection, registry.tenant, Ref(task.name, number=version.number), deleted=True)


def restore(registry: Registry, ref: str, *, ensure_blob: Callable[[Version], object]) -> Version:
    """Bring a deleted version back; `ensure_blob` checks its bytes while nobody can collect them.

    Raises:
        NotFound: no such version.
        LibraryError: it is not deleted.
    """
    wanted = parse_ref(ref)
    if wanted.number is None:
        raise LibraryError(
            f"{ref!r} names no version by its number; write {wanted.task}@N (`softprompt show {wanted.task}`)"
        )
    with registry.database.write() as connection:
        # The digest is locked before the task, as in publishing: one order everywhere, so no two can wait in a ring.
        version = queries.find(connection, registry.tenant, wanted, deleted=True)
        registry.database.lock_digest(connection, version.digest)
        task = queries.task_row(connection, registry.tenant, wanted.task, lock=True)
        if not queries.find(connection, registry.tenant, wanted, deleted=True).deleted:
            raise LibraryError(f"{version.ref} is not deleted; there is nothing to restore")
        ensure_blob(version)
        which = sa.and_(_v.task_id == task.id, _v.number == version.number)
        connection.execute(sa.update(tables.versions).where(which).values(deleted=False, purged=False))
        _recount(connection, task.id)
        after = {"version": version.number, "digest": version.digest}
        registry.record(connection, "restore", task.name, after=after)
        return queries.find(connection, registry.tenant, wanted)


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


def _point(connection: Connection, task: AnyRow, alias: str, number: int) -> None:
    """Set an alias. The task is locked, so nobody inserts between the two statements."""
    at = sa.and_(_a.task_id == task.id, _a.name == alias)
    if not connection.execute(sa.update(tables.aliases).where(at).values(number=number)).rowcount:
        connection.execute(sa.insert(tables.aliases).values(task_id=task.id, name=alias, number=number))


def _moved(registry: Registry, connection: Connection, action: str, move: Move, force: bool = False) -> Move:
    after: dict[str, Any] = {"alias": move.alias, "version": move.after}
    if force:
        after["forced"] = True
    before = {"alias": move.alias, "version": move.before}
    registry.record(connection, action, move.task, before=before, after=after, reason=move.reason)
    return move


def _recount(connection: Connection, task_id: int) -> None:
    """Bring the task's counts of live versions up to date."""
    alive = sa.select(sa.func.max(_v.number), sa.func.count()).where(_v.task_id == task_id, ~_v.deleted)
    newest, live = connection.execute(alive).one()
    connection.execute(sa.update(tables.tasks).where(_t.id == task_id).values(newest=newest, live=live))
