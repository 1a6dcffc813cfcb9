"""The registry: tasks, numbered versions, aliases, tags, audit and keys of one tenant, in SQL.

Every change is one transaction that first locks the task's row, so that two writers of one task queue up: neither a
version number nor an alias is ever lost. Every row belongs to a tenant, and every question names it.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from softprompt.errors import LibraryError
from softprompt.names import Ref, base_name, check_digest, check_tags, check_task, check_tenant, parse_ref
from softprompt.prompts.card import Card
from softprompt.registry import aliases, queries, tables
from softprompt.registry.aliases import Aliases
from softprompt.registry.database import Database
from softprompt.registry.keys import Key, Keys
from softprompt.registry.listing import Filters, search
from softprompt.registry.outcomes import Outcomes
from softprompt.registry.personal import Personal
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import AuditEntry, BaseCount, Entry, Origin, Version, now
from softprompt.registry.scope import Scope
from softprompt.registry.traffic.experiments import Experiments, refuse_if_compared
from softprompt.registry.traffic.feedback import Feedback
from softprompt.registry.traffic.reviews import Reviews
from softprompt.registry.traffic.windows import Windows

__all__ = ["AuditEntry", "Entry", "Filters", "Key", "Registry", "Version"]

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
        self._scope = Scope(database, self.tenant, self.actor)
        self.aliases = Aliases(self._scope)
        self.keys = Keys(self._scope)
        self.personal = Personal(self._scope)
        self.outcomes = Outcomes(self._scope)
        self.experiments, self.feedback = Experiments(self._scope), Feedback(self._scope)
        self.windows, self.reviews = Windows(self._scope), Reviews(self._scope)

    @classmethod
    def open(
        cls,
        url: str | URL,
        tenant: str = "default",
        actor: str | None = None,
        *,
        create: bool = True,
        home: Path | None = None,
    ) -> Registry:
        """Open a registry by URL, of the library in `home`; `create` makes an empty one where there is none.

        Raises:
            NameRefused: not a URL of a registry, or the tenant is no name.
            NotFound: there is none, and none is to be made.
            RegistryError: it cannot be reached, or has a newer schema.
        """
        check_tenant(tenant)
        return cls(Database.open(url, create=create, home=home), tenant, actor)

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
            NotFound: no such task, version or alias, or the version is deleted (unless `deleted` ones are asked for too).
        """
        with self.database.read() as connection:
            return queries.find(connection, self.tenant, parse_ref(ref), deleted=deleted)

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

    def tasks(self, filters: Filters | None = None) -> list[Entry]:
        """The listing; see `Filters`."""
        with self.database.read() as connection:
            return search(connection, self.tenant, filters or Filters())

    def audit(self, task: str | None = None, limit: int | None = None) -> list[AuditEntry]:
        """What was changed, oldest first; of one task, or of all; only the newest `limit` of it.

        Raises:
            NotFound: no such task.
        """
        if task is not None:
            check_task(task)
        with self.database.read() as connection:
            entries = queries.audit(connection, self.tenant, task, limit)
            if task is not None and not entries:
                queries.task_row(connection, self.tenant, task)
        return entries

    def origin(self, ref: str) -> Origin | None:
        """What a version, deleted or not, was trained from; None where that was not kept, as before it was.

        Raises:
            NameRefused: not a reference.
            NotFound: no such task, version or alias.
        """
        requested = parse_ref(ref)
        with self.database.read() as connection:
            number = queries.find(connection, self.tenant, requested, deleted=True).number
            return queries.origin_of(connection, self.tenant, Ref(requested.task, number=number))

    def version_of_run(self, run: str) -> str | None:
        """The version that a training run has published, as TASK@N; None where it has none, or it is deleted."""
        with self.database.read() as connection:
            found = queries.version_of_run(connection, run, self.tenant)
        return None if found is None else str(found)

    def serving_wishes(self, base: str) -> list[tuple[str, Any]]:
        """How the served prompts of a base wish to be served, whatever the tenant; see `queries.serving_wishes`."""
        with self.database.read() as connection:
            return queries.serving_wishes(connection, base)

    def owns(self, digest: str) -> bool:
        """Whether a version of this tenant, deleted or not, or a user's prompt has this digest."""
        statement = sa.select(_v.id).join(tables.tasks, _v.task_id == _t.id)
        statement = statement.where(_v.digest == check_digest(digest), _t.tenant == self.tenant).limit(1)
        with self.database.read() as connection:
            if connection.execute(statement).first() is not None:
                return True
        return self.personal.owns(digest)

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

    def bases(self) -> list[BaseCount]:
        """Which bases the newest versions of all tenants' tasks are made for, that with the most tasks first."""
        count = sa.func.count()
        newest = tables.tasks.join(tables.versions, sa.and_(_v.task_id == _t.id, _v.number == _t.newest))
        statement = sa.select(_v.base, _v.fingerprint, count.label("tasks")).select_from(newest)
        statement = statement.group_by(_v.base, _v.fingerprint).order_by(count.desc(), _v.base)
        with self.database.read() as connection:
            return [BaseCount(row.base, row.fingerprint, row.tasks) for row in connection.execute(statement)]

    def check_names(self, tasks: Iterable[str], base: str) -> None:
        """Refuse tasks that requests could not name, before anything is made for them; see `queries.refuse_hidden`.

        Raises:
            NameRefused: one of them is hidden by a base or by `auto`, or the base, given by its name, would hide a task.
        """
        with self.database.read() as connection:
            queries.refuse_hidden(connection, self.tenant, tasks, base)

    def tasks_named(self, names: Iterable[str]) -> set[tuple[str, str]]:
        """Tenant and name of every task with a live version that has one of these names, whatever the tenant."""
        statement = sa.select(_t.tenant, _t.name).where(_t.name.in_(list(names)), _t.live > 0)
        with self.database.read() as connection:
            return {(row.tenant, row.name) for row in connection.execute(statement)}

    def publish(
        self,
        prompts: Sequence[tuple[Card, str]],
        *,
        base: str,
        tags: Iterable[str] = (),
        origins: Sequence[Origin | None] | None = None,
        ensure_blob: Callable[[str], object],
        also: Callable[[Connection, list[Version]], object] | None = None,
    ) -> list[Version]:
        """Add a version for each prompt, given as card and digest, with the next number of its card's task: all or none.

        `origins` says what each was trained from. A run publishes once: where the run of an origin has a version
        already, deleted or not, that one is returned and none is added.

        `ensure_blob` is called with each digest while nobody can collect it: it must see to it that the blob is in the
        store. `also` is called last, in the same transaction: where it raises, nothing is published.

        Raises:
            NameRefused: a task or a tag is no name, or a task has a name that requests have another meaning for.
            LibraryError: the run of an origin has published another task.
            RegistryError: the database fails; nothing is changed.
        """
        for _, digest in prompts:
            check_digest(digest)
        checked_tags = check_tags(tags)
        kept = [None] * len(prompts) if origins is None else origins
        at = now()
        with self.database.write() as connection:
            for name in {base_name(base), *(card.base for card, _ in prompts)}:
                queries.refuse_hidden(connection, self.tenant, [card.task for card, _ in prompts], name)
            # Digests before tasks, and each in order: writers who lock alike can never wait for each other in a ring.
            for digest in sorted({digest for _, digest in prompts}):
                self.database.lock_digest(connection, digest)
                ensure_blob(digest)
            queries.add_missing(connection, tables.tenants, name=self.tenant, created_at=at)
            for task in sorted({card.task for card, _ in prompts}):
                queries.add_missing(connection, tables.tasks, tenant=self.tenant, name=task, created_at=at)
                queries.task_row(connection, self.tenant, task, lock=True)
            versions = []
            for (card, digest), origin in zip(prompts, kept, strict=True):
                new = Version(card.task, 0, digest, base, card.fingerprint, card.canonical(), at, self.actor, checked_tags)
                versions.append(self._add(connection, new, origin))
            if also is not None:
                also(connection, versions)
            return versions

    def _add(self, connection: Connection, new: Version, origin: Origin | None) -> Version:
        """The next version of a task whose row is locked, or the one that its run has published already."""
        if origin is not None and origin.run is not None:
            published = queries.published_by(connection, origin.run, self.tenant, new.task)
            if published is not None:
                return queries.find(connection, self.tenant, published, deleted=True)
        task = queries.task_row(connection, self.tenant, new.task)
        version = replace(new, number=task.last_number + 1)
        counts = {"last_number": version.number, "newest": version.number, "live": task.live + 1}
        connection.execute(sa.update(tables.tasks).where(_t.id == task.id).values(counts))
        queries.add_missing(connection, tables.cards, digest=version.digest, card=version.card_text)
        version_id = queries.add_version(connection, task.id, version)
        if origin is not None:
            queries.add_origin(connection, version_id, origin)
        after = {"version": version.number, "digest": version.digest, "base": version.base}
        self._scope.record(connection, "publish", version.task, after=after)
        return version

    def tag(self, ref: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Version:
        """Add and remove tags of a version. What is there already, or not there, is no error.

        Raises:
            NameRefused: not a reference or a tag.
            NotFound: no such version.
        """
        added, removed = check_tags(add), check_tags(remove)
        requested = parse_ref(ref)
        tags = tables.tags.c
        with self.database.write() as connection:
            task = queries.task_row(connection, self.tenant, requested.task, lock=True)
            before = queries.find(connection, self.tenant, requested)
            version_id = queries.version_row(connection, task, before.number).id
            connection.execute(sa.delete(tables.tags).where(tags.version_id == version_id, tags.tag.in_(removed)))
            for tag in added:
                queries.add_missing(connection, tables.tags, version_id=version_id, tag=tag)
            after = queries.find(connection, self.tenant, Ref(requested.task, number=before.number))
            if after.tags != before.tags:
                states = [{"version": state.number, "tags": list(state.tags)} for state in (before, after)]
                self._scope.record(connection, "tag", requested.task, before=states[0], after=states[1])
            return after

    def delete(self, ref: str, *, force: bool = False) -> Version:
        """Delete `task@N` softly: hidden, its bytes kept. With `force`, aliases that point to it are removed.

        Raises:
            LibraryError: aliases point to it, and no force is used; an experiment runs with it; or `ref` has no number.
            NotFound: no such version, or it is deleted already.
        """
        requested = _numbered(ref)
        with self.database.write() as connection:
            task = queries.task_row(connection, self.tenant, requested.task, lock=True)
            version = queries.find(connection, self.tenant, requested)
            return self._delete(connection, task, version, force=force)

    def delete_task(self, task: str, *, force: bool = False) -> list[Version]:
        """Delete every live version of a task softly, newest first: all or none.

        Raises:
            LibraryError: aliases point to one, and no force is used; or an experiment runs with one.
            NotFound: no such task.
        """
        check_task(task)
        with self.database.write() as connection:
            row = queries.task_row(connection, self.tenant, task, lock=True)
            names = queries.aliases_of(connection, row.id)
            if names and not force:
                raise LibraryError(
                    f"task {task!r} is not deleted: it has the aliases {', '.join(names)}; add --force to remove them too"
                )
            live = sa.select(_v.number).where(_v.task_id == row.id, ~_v.deleted).order_by(_v.number.desc())
            refs = [Ref(task, number=number) for number in connection.execute(live).scalars().all()]
            versions = [queries.find(connection, self.tenant, ref) for ref in refs]
            return [self._delete(connection, row, version, force=force) for version in versions]

    def _delete(self, connection: Connection, task: AnyRow, version: Version, *, force: bool) -> Version:
        """Delete a live version of a task whose row is locked."""
        refuse_if_compared(connection, task, version.number)
        here = [name for name, number in queries.aliases_of(connection, task.id).items() if number == version.number]
        if here and not force:
            raise LibraryError(
                f"{version.ref} is not deleted: {', '.join(here)} points to it; promote another version first, "
                "or add --force to remove the alias too"
            )
        if here:
            aliases.remove(connection, task.id, here)
        queries.set_deleted(connection, task.id, version.number, True)
        before = {"version": version.number, "digest": version.digest, "aliases": here}
        self._scope.record(connection, "delete", task.name, before=before)
        return queries.find(connection, self.tenant, Ref(task.name, number=version.number), deleted=True)

    def restore(self, ref: str, *, ensure_blob: Callable[[Version], object]) -> Version:
        """Bring a deleted version back; `ensure_blob` checks its bytes while nobody can collect them.

        Raises:
            NotFound: no such version.
            LibraryError: it is not deleted, or the reference has no number.
        """
        requested = _numbered(ref)
        with self.database.write() as connection:
            # The digest is locked before the task, as in publishing: one order everywhere, so no two can wait in a ring.
            version = queries.find(connection, self.tenant, requested, deleted=True)
            self.database.lock_digest(connection, version.digest)
            task = queries.task_row(connection, self.tenant, requested.task, lock=True)
            if not queries.find(connection, self.tenant, requested, deleted=True).deleted:
                raise LibraryError(f"{version.ref} is not deleted; there is nothing to restore")
            ensure_blob(version)
            queries.set_deleted(connection, task.id, version.number, False)
            self._scope.record(connection, "restore", task.name, after={"version": version.number, "digest": version.digest})
            return queries.find(connection, self.tenant, requested)


def _numbered(ref: str) -> Ref:
    """A reference that must name a version by its number."""
    requested = parse_ref(ref)
    if requested.number is None:
        raise LibraryError(
            f"{ref!r} names no version by its number; write {requested.task}@N (`softprompt show {requested.task}`)"
        )
    return requested


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return "unknown"
