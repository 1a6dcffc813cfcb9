"""Prompts of one user each, beside a task's versions and apart from them: one for a task and a user, in a table of its own.
References are to versions alone, so that whatever works by references (listing, the gate, aliases, rollback) neither gives
nor touches them."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import NotFound, nearest
from softprompt.names import Ref, check_digest, check_task, check_user
from softprompt.prompts.card import Card
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Version, now
from softprompt.registry.scope import Scope

_t, _p, _c = tables.tasks.c, tables.personal.c, tables.cards.c
_of_task = tables.personal.join(tables.tasks, _t.id == _p.task_id)
_FIELDS = (_p.person, _p.number, _p.digest, _p.base, _p.fingerprint, _p.actor, _p.created_at)

NAMED = _t.name + "~" + _p.person
"""What messages call the versions of a user, without their number, as `Version.ref` does."""


class Personal:
    """The users' prompts of one tenant's tasks. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def resolve(self, task: str, user: str) -> Version:
        """A user's prompt of a task that has a live version.

        Raises:
            NameRefused: the task or the user is no name.
            NotFound: no such task, it has no live version, or the user has no prompt of it.
        """
        check_task(task)
        check_user(user)
        with self._scope.database.read() as connection:
            queries.find(connection, self._scope.tenant, Ref(task))
            row = _row(connection, self._scope.tenant, task, user)
            if row is None:
                raise _not_there(connection, self._scope.tenant, task, user)
            return _version(task, row)

    def of(self, task: str) -> list[Version]:
        """All users' prompts of a task, by user.

        Raises:
            NotFound: no such task.
        """
        check_task(task)
        with self._scope.database.read() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, task).id
            statement = sa.select(*_FIELDS, _c.card).join(tables.cards, _c.digest == _p.digest)
            rows = connection.execute(statement.where(_p.task_id == task_id).order_by(_p.person)).fetchall()
        return [_version(task, row) for row in rows]

    def users_on(self, fingerprints: Container[str]) -> set[tuple[str, str, str]]:
        """Tenant, task and user of every prompt of a base that has one of these fingerprints, whatever the tenant."""
        with self._scope.database.read() as connection:
            rows = connection.execute(sa.select(_t.tenant, _t.name, _p.person, _p.fingerprint).select_from(_of_task))
            return {(row.tenant, row.name, row.person) for row in rows if row.fingerprint in fingerprints}

    def owns(self, digest: str) -> bool:
        """Whether a user's prompt of this tenant has this digest."""
        statement = sa.select(_p.id).select_from(_of_task).where(_p.digest == check_digest(digest))
        with self._scope.database.read() as connection:
            return connection.execute(statement.where(_t.tenant == self._scope.tenant).limit(1)).first() is not None

    def publish(
        self,
        task: str,
        prompts: Sequence[tuple[str, Card, str]],
        *,
        base: str,
        ensure_blob: Callable[[str], object],
    ) -> tuple[list[Version], list[str]]:
        """Give users, each with a card and a digest, prompts of a task in the place of those that they had: all or none.
        The new ones, and the digests of those that were replaced, whose blobs may be needed no more.

        `ensure_blob` is called with each digest while nobody can collect it: it must see to it that the blob is in the
        store.

        Raises:
            NameRefused: a user is no name.
            NotFound: no such task.
            RegistryError: the database fails; nothing is changed.
        """
        for user, _, digest in prompts:
            check_user(user)
            check_digest(digest)
        tenant, actor, at = self._scope.tenant, self._scope.actor, now()
        made: list[Version] = []
        replaced: list[str] = []
        with self._scope.database.write() as connection:
            for digest in sorted({digest for _, _, digest in prompts}):
                self._scope.database.lock_digest(connection, digest)
                ensure_blob(digest)
            task_id = queries.task_row(connection, tenant, task, lock=True).id
            for user, card, digest in prompts:
                old = _row(connection, tenant, task, user)
                number = 1 if old is None else old.number + 1
                new = Version(task, number, digest, base, card.fingerprint, card.canonical(), at, actor, user=user)
                queries.add_missing(connection, tables.cards, digest=digest, card=new.card_text)
                same = {
                    name: getattr(new, name) for name in ("number", "digest", "base", "fingerprint", "actor", "created_at")
                }
                if old is None:
                    values = {"task_id": task_id, "person": user, **same}
                    connection.execute(sa.insert(tables.personal).values(values))
                else:
                    this = sa.and_(_p.task_id == task_id, _p.person == user)
                    connection.execute(sa.update(tables.personal).where(this).values(same))
                    replaced += [old.digest] if old.digest != digest else []
                after = {"user": user, "version": number, "digest": digest, "base": base}
                self._scope.record(connection, "personalize", task, after=after)
                made.append(new)
        return made, replaced

    def erase(self, task: str, user: str, reason: str | None = None) -> Version:
        """Take a user's prompt of a task away for good, with what was said of its answers; its blob may be needed no more.

        Raises:
            NameRefused: the task or the user is no name.
            NotFound: no such task, or the user has no prompt of it.
        """
        check_task(task)
        check_user(user)
        tenant = self._scope.tenant
        with self._scope.database.write() as connection:
            task_id = queries.task_row(connection, tenant, task, lock=True).id
            row = _row(connection, tenant, task, user)
            if row is None:
                raise _not_there(connection, tenant, task, user)
            connection.execute(sa.delete(tables.personal).where(_p.task_id == task_id, _p.person == user))
            own = tables.feedback.c
            connection.execute(sa.delete(tables.feedback).where(own.task_id == task_id, own.person == user))
            before = {"user": user, "version": row.number, "digest": row.digest}
            self._scope.record(connection, "erase", task, before=before, reason=reason)
            return _version(task, row)


def holds(connection: Connection, digest: str) -> bool:
    """Whether any tenant's user has a prompt with this digest."""
    return connection.execute(sa.select(_p.id).where(_p.digest == digest).limit(1)).first() is not None


def rows_for_upkeep(*more: sa.ColumnElement[str]) -> sa.Select[tuple[object, ...]]:
    """All users' prompts with the columns by which upkeep knows versions: never deleted and kept, they go for good."""
    columns = (_t.tenant, NAMED.label("task"), _p.number, _p.digest, sa.false().label("deleted"), sa.false().label("purged"))
    return sa.select(*columns, *more).select_from(_of_task)


def _row(connection: Connection, tenant: str, task: str, user: str) -> AnyRow | None:
    source = _of_task.join(tables.cards, _c.digest == _p.digest)
    this = (_t.tenant == tenant, _t.name == task, _p.person == user)
    return connection.execute(sa.select(*_FIELDS, _c.card).select_from(source).where(*this)).first()


def _version(task: str, row: AnyRow) -> Version:
    return Version(
        task, row.number, row.digest, row.base, row.fingerprint, row.card, row.created_at, row.actor, user=row.person
    )


def _not_there(connection: Connection, tenant: str, task: str, user: str) -> NotFound:
    task_id = queries.task_row(connection, tenant, task).id
    users = connection.execute(sa.select(_p.person).where(_p.task_id == task_id)).scalars().all()
    return NotFound(
        f"user {user!r} has no personal version of task {task!r}; `softprompt personalize {task} --list` shows who has one",
        nearest(user, users),
    )
