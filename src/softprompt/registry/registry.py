"""The registry: tasks, numbered versions, aliases, tags, audit and keys of one tenant, in SQL.

Every change is one transaction that first locks the task's row, so that two writers of one task queue up: neither a
version number nor an alias is ever lost. Every row belongs to a tenant, and every question names it.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from softprompt.names import Ref, check_digest, check_tags, check_task, check_tenant, parse_ref
from softprompt.prompts.card import Card
from softprompt.registry import aliases, keys, queries, tables
from softprompt.registry.database import Database
from softprompt.registry.keys import Key
from softprompt.registry.listing import Filters, search
from softprompt.registry.records import AuditEntry, BaseCount, Entry, Move, Version, now

__all__ = ["AuditEntry", "Entry", "Filters", "Key", "Move", "Registry", "Version"]

_t, _v = tables.tasks.c, tables.versions.c


class Registry:
    """One tenant's view of a registry. Safe to share between threads."""

    def __init__(self, database: Database, tenant: str = "default", actor: str | None = None) -> None:
        """Look at a database as one tenant.

        Raises:
            NameRefused: the tenant is no name.
        """
        self.database = database
        self.tenant = check_tenant(tenant)
        self.actor = (actor or os.environ.get("SOFTPROMPT_ACTOR") or _user())[:128]

    @classmethod
    def open(cls, url: str | URL, tenant: str = "default", actor: str | None = None) -> Registry:
        """Open a registry by URL.

        Raises:
            NameRefused: not a URL of a registry, or the tenant is no name.
            RegistryError: it cannot be reached, or has a newer tables.
        """
        check_tenant(tenant)
        return cls(Database.open(url), tenant, actor)

    def for_tenant(self, tenant: str, actor: str | None = None) -> Registry:
        """The same database as another tenant sees it."""
        return Registry(self.database, tenant, actor or self.actor)

    def close(self) -> None:
        """Close the database's connections."""
        self.database.close()

    def resolve(self, ref: str, *, deleted: bool = False) -> Version:
        """The version that a reference means; a bare task means its production alias, else its newest live version.

        Raises:
            NameRefused: not a reference.
            NotFound: no such task, version or alias, or the version is deleted (unless `deleted` ones are wanted).
        """
        wanted = parse_ref(ref)
        with self.database.read() as connection:
            return queries.find(connection, self.tenant, wanted, deleted=deleted)

    def versions(self, task: str, *, deleted: bool = True) -> list[Version]:
        """All versions of a task by number, those deleted too unless told otherwise.

        Raises:
            NotFound: no such task.
        """
        check_task(task)
        with self.database.read() as connection:
            task_id = queries.task_row(connection, self.tenant, task).id
            statement = queries.VERSIONS.where(_v.task_id == task_id).order_by(_v.number)
            rows = connection.execute(statement if deleted else statement.where(~_v.deleted)).fetchall()
            tags = queries.tags_of(connection, sa.select(_v.id).where(_v.task_id == task_id))
        return [queries.version(task, row, tags.get(row.id, ())) for row in rows]

    def aliases(self, task: str) -> dict[str, int]:
        """The aliases of a task and the numbers they point to.

        Raises:
            NotFound: no such task.
        """
        check_task(task)
        with self.database.read() as connection:
            return queries.aliases_of(connection, queries.task_row(connection, self.tenant, task).id)

    def tasks(self, filters: Filters | None = None) -> list[Entry]:
        """The listing; see `Filters`."""
        with self.database.read() as connection:
            return search(connection, self.tenant, filters or Filters())

    def audit(self, task: str | None = None, limit: int | None = None) -> list[AuditEntry]:
        """What was changed, oldest first; of one task, or of all; only the newest `limit` of it.

        Raises:
            NotFound: no such task.
        """
        a = tables.audit.c
        statement = sa.select(tables.audit).where(a.tenant == self.tenant).order_by(a.id.desc()).limit(limit)
        if task is not None:
            statement = statement.where(a.task == check_task(task))
        with self.database.read() as connection:
            rows = connection.execute(statement).fetchall()
            if task is not None and not rows:
                queries.task_row(connection, self.tenant, task)
        return [
            AuditEntry(
                seq=row.id,
                at=row.at,
                actor=row.actor,
                action=row.action,
                task=row.task,
                before=json.loads(row.before) if row.before else None,
                after=json.loads(row.after) if row.after else None,
                reason=row.reason,
            )
            for row in reversed(rows)
        ]

    def owns(self, digest: str) -> bool:
        """Whether a version of this tenant, deleted or not, has this digest."""
        statement = sa.select(_v.id).join(tables.tasks, _v.task_id == _t.id)
        statement = statement.where(_v.digest == check_digest(digest), _t.tenant == self.tenant).limit(1)
        with self.database.read() as connection:
            return connection.execute(statement).first() is not None

    def state(self) -> tuple[int, int]:
        """A value that is another one after any change, whatever the tenant: while it stays, nothing has changed.

        The newest line of the audit, and how many of the last thousand there are: a server numbers lines before it commits
        them, so that one may still appear below the newest.
        """
        line = tables.audit.c.id
        with self.database.read() as connection:
            newest = connection.execute(sa.select(sa.func.max(line))).scalar() or 0
            recent = sa.select(sa.func.count()).select_from(tables.audit).where(line > newest - 1000)
            return newest, connection.execute(recent).scalar_one()

    def publish(
        self,
        prompts: Sequence[tuple[Card, str]],
        *,
        base: str,
        tags: Iterable[str] = (),
        ensure_blob: Callable[[str], object],
        also: Callable[[Connection, list[Version]], object] | None = None,
    ) -> list[Version]:
        """Add a version for each prompt, given as card and digest, with the next number of its card's task: all or none.

        `ensure_blob` is called with each digest while nobody can collect it: it must see to it that the blob is in the
        store. `also` is called last, in the same transaction: where it raises, nothing is published.

        Raises:
            NameRefused: a task or a tag is no name.
            RegistryError: the database fails; nothing is changed.
        """
        for card, digest in prompts:
            check_task(card.task)
            check_digest(digest)
        wanted_tags = check_tags(tags)
        at = now()
        with self.database.write() as connection:
            # Digests before tasks, and each in order: writers who lock alike can never wait for each other in a ring.
            for digest in sorted({digest for _, digest in prompts}):
                self.database.lock_digest(connection, digest)
                ensure_blob(digest)
            queries.add_missing(connection, tables.tenants, name=self.tenant, created_at=at)
            for task in sorted({card.task for card, _ in prompts}):
                queries.add_missing(connection, tables.tasks, tenant=self.tenant, name=task, created_at=at)
                queries.task_row(connection, self.tenant, task, lock=True)
            versions = [self._add_version(connection, card, digest, base, wanted_tags, at) for card, digest in prompts]
            if also is not None:
                also(connection, versions)
            return versions

    def _add_version(
        self, connection: Connection, card: Card, digest: str, base: str, tags: tuple[str, ...], at: str
    ) -> Version:
        """The next version of a task whose row is locked."""
        task = queries.task_row(connection, self.tenant, card.task)
        number = task.last_number + 1
        counts = {"last_number": number, "newest": number, "live": task.live + 1}
        connection.execute(sa.update(tables.tasks).where(_t.id == task.id).values(counts))
        version = Version(
            task=card.task,
            number=number,
            digest=digest,
            base=base,
            fingerprint=card.fingerprint,
            card_text=card.canonical(),
            created_at=at,
            actor=self.actor,
            tags=tags,
        )
        queries.add_missing(connection, tables.cards, digest=digest, card=version.card_text)
        queries.add_version(connection, task.id, version)
        self.record(connection, "publish", card.task, after={"version": number, "digest": digest, "base": base})
        return version

    def tag(self, ref: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Version:
        """Add and remove tags of a version. What is there already, or not there, is no error.

        Raises:
            NameRefused: not a reference or a tag.
            NotFound: no such version.
        """
        added, removed = check_tags(add), check_tags(remove)
        wanted = parse_ref(ref)
        tags = tables.tags.c
        with self.database.write() as connection:
            task = queries.task_row(connection, self.tenant, wanted.task, lock=True)
            before = queries.find(connection, self.tenant, wanted)
            version_id = queries.version_row(connection, task, before.number).id
            gone = sa.delete(tables.tags).where(tags.version_id == version_id, tags.tag.in_(removed))
            connection.execute(gone)
            for tag in added:
                queries.add_missing(connection, tables.tags, version_id=version_id, tag=tag)
            after = queries.find(connection, self.tenant, Ref(wanted.task, number=before.number))
            if after.tags != before.tags:
                states = [{"version": state.number, "tags": list(state.tags)} for state in (before, after)]
                self.record(connection, "tag", wanted.task, before=states[0], after=states[1])
            return after

    def promote(self, ref: str, alias: str, *, force: bool = False, reason: str | None = None) -> Move:
        """See `aliases.promote`."""
        return aliases.promote(self, ref, alias, force=force, reason=reason)

    def rollback_target(self, task: str, alias: str) -> Version:
        """See `aliases.rollback_target`."""
        return aliases.rollback_target(self, task, alias)

    def rollback(self, task: str, alias: str, *, to: int, reason: str | None = None) -> Move | None:
        """See `aliases.rollback`."""
        return aliases.rollback(self, task, alias, to=to, reason=reason)

    def delete(self, ref: str, *, force: bool = False) -> Version:
        """See `aliases.delete`."""
        return aliases.delete(self, ref, force=force)

    def restore(self, ref: str, *, ensure_blob: Callable[[Version], object]) -> Version:
        """See `aliases.restore`."""
        return aliases.restore(self, ref, ensure_blob=ensure_blob)

    def create_key(self, name: str, scopes: Iterable[str]) -> tuple[str, Key]:
        """Add an API key for this tenant; return its secret, never to be seen again, and the key.

        Raises:
            NameRefused: not a name, an unknown scope, or a live key has this name.
        """
        with self.database.write() as connection:
            at = now()
            queries.add_missing(connection, tables.tenants, name=self.tenant, created_at=at)
            tenants = tables.tenants.c  # locked, so that two creators of one name queue up
            connection.execute(sa.select(tenants.name).where(tenants.name == self.tenant).with_for_update())
            made = keys.create(connection, tenant=self.tenant, name=name, scopes=scopes, actor=self.actor, now=at)
            self.record(connection, "key-create", None, after={"key": name, "scopes": made[1].row()["scopes"]})
            return made

    def list_keys(self) -> list[Key]:
        """The tenant's keys, revoked ones too, oldest first."""
        with self.database.read() as connection:
            return keys.every(connection, self.tenant)

    def revoke_key(self, name_or_id: str) -> Key:
        """Revoke a key of this tenant at once and for good.

        Raises:
            NotFound: it has no such key.
        """
        with self.database.write() as connection:
            key = keys.revoke(connection, tenant=self.tenant, name_or_id=name_or_id)
            self.record(connection, "key-revoke", None, before={"key": key.name, "id": key.id})
            return key

    def has_keys(self) -> bool:
        """Whether any tenant has a live key."""
        with self.database.read() as connection:
            return keys.any_live(connection)

    def bases(self) -> list[BaseCount]:
        """Which bases the newest versions of all tenants' tasks are made for, that with the most tasks first."""
        with self.database.read() as connection:
            return queries.bases(connection)

    def authenticate(self, secret: str) -> Key:
        """The live key whose secret this is, whatever tenant it belongs to.

        Raises:
            Denied: there is none.
        """
        with self.database.read() as connection:
            return keys.authenticate(connection, secret)

    def record(
        self,
        connection: Connection,
        action: str,
        task: str | None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """A line of the audit, in the transaction of the change."""
        who = {"tenant": self.tenant, "actor": self.actor}
        queries.record(connection, action=action, task=task, before=before, after=after, reason=reason, **who)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return "unknown"
