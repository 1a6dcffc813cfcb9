"""The library: a registry and a store, kept true to each other.

A blob is stored before the row that names it, and deleted only when no row names it, so that no row ever names bytes
that were not stored, whoever is killed when.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, Connection

from softprompt.errors import NotFound, StoreError
from softprompt.files import make_home, sync_folder
from softprompt.library import copying, leftovers, maintenance
from softprompt.library.homes import REGISTRY, home_of, no_home, no_library
from softprompt.locks import check_locks
from softprompt.names import check_alias, check_tags, check_task
from softprompt.progress import Progress
from softprompt.prompts.file import read_card
from softprompt.registry.records import Move, Origin, Version
from softprompt.registry.registry import Registry
from softprompt.stores import ReadCache, Store, open_store, read_verified

__all__ = ["Library", "Version"]


class Library:
    """One tenant's library. Safe to share between threads."""

    def __init__(self, home: Path, registry: Registry, store: Store) -> None:
        self.home = home
        self.registry = registry
        self.store = store
        self.cache = ReadCache(home / "cache") if store.remote else None

    @classmethod
    def open(
        cls,
        home: str | Path | None = None,
        *,
        registry: str | None = None,
        store: str | None = None,
        tenant: str = "default",
        actor: str | None = None,
        create: bool = True,
    ) -> Library:
        """Open a library; `create` makes an empty one where there is none, its home its user's alone (mode 0700). One that
        may not be written is read all the same.

        `home` is by default `$SOFTPROMPT_HOME` or `./softprompt-home`, `registry` `$SOFTPROMPT_REGISTRY` or SQLite in
        the home, `store` `$SOFTPROMPT_STORE` or the folder `blobs` in the home.

        Raises:
            LibraryError: the home cannot be made, or this system has no file locks.
            NotFound: there is no library, and none is to be made.
            NameRefused: a URL or the tenant's name is not allowed.
            RegistryError: the registry cannot be opened.
            StoreError: the store cannot be opened.
        """
        check_locks()
        folder = home_of(home)
        registry = registry or os.environ.get("SOFTPROMPT_REGISTRY")
        store = store or os.environ.get("SOFTPROMPT_STORE")
        file = folder / REGISTRY
        new = not file.exists()
        if create:
            try:
                make_home(folder)
            except OSError as error:
                raise no_home(folder, error.strerror) from error
        opened_store = open_store(store or str(folder / "blobs"), create=create)
        if new and registry is None and not create:
            raise no_library(folder)
        if registry is not None:
            return cls(folder, Registry.open(registry, tenant, actor, create=create, home=folder), opened_store)
        url = URL.create("sqlite", database=str(file))
        opened = Registry.open(url, tenant, actor, create=create, home=folder)
        if new:
            sync_folder(folder)
        return cls(folder, opened, opened_store)

    def __repr__(self) -> str:
        return f"Library({str(self.home)!r}, tenant {self.tenant!r})"

    @property
    def tenant(self) -> str:
        """Whose prompts these are."""
        return self.registry.tenant

    @property
    def runs(self) -> Path:
        """Folder of training runs: checkpoints and logs."""
        return self.home / "runs"

    @property
    def histories(self) -> Path:
        """Folder of the curves of this tenant's trainings. Each tenant but the default one has its own, as their tasks may
        have the same names."""
        return self.runs if self.tenant == "default" else self.runs / self.tenant

    def for_tenant(self, tenant: str, actor: str | None = None) -> Library:
        """The same home, registry and store as another tenant sees them."""
        return Library(self.home, self.registry.for_tenant(tenant, actor), self.store)

    def close(self) -> None:
        """Close the connections of the registry and the store."""
        self.registry.close()
        self.store.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, data: bytes, *, base: str, tags: Iterable[str] = ()) -> Version:
        """Add a prompt file as a new version of the task its card names; new even when the same bytes are known.

        `base` is the base as the user named it: an id, or a folder.

        Raises:
            PromptFileError: not a whole prompt file of ours.
            NameRefused: the task or a tag is no name.
            StoreError: the store fails; nothing is published.
            RegistryError: the registry fails; nothing is published.
        """
        (version,) = self.publish_all([data], base=base, tags=tags)
        return version

    def publish_all(
        self,
        files: Sequence[bytes],
        *,
        base: str,
        tags: Iterable[str] = (),
        origins: Sequence[Origin | None] | None = None,
        also: Callable[[Connection, list[Version]], object] | None = None,
    ) -> list[Version]:
        """Add prompt files of one base as new versions in one transaction: a failure or a kill leaves all or none.

        `origins` says what each was trained from. A run publishes once: where the run of an origin has a version
        already, deleted or not, that one is returned and none is added. `also` is called last, in the same transaction:
        where it raises, nothing is published.

        Raises as `publish` does, and then nothing is published. Blobs that were stored by then are garbage for `gc`.
        """
        cards = [read_card(data) for data in files]
        for card in cards:
            check_task(card.task)
        checked_tags = check_tags(tags)
        digests = [self.store.put(data) for data in files]
        stored = dict(zip(digests, files, strict=True))

        def ensure_blob(digest: str) -> None:
            if not self.store.has(digest):  # collected since: nothing named it yet
                self.store.put(stored[digest])

        prompts = list(zip(cards, digests, strict=True))
        return self.registry.publish(
            prompts, base=base, tags=checked_tags, origins=origins, ensure_blob=ensure_blob, also=also
        )

    def read(self, ref: str | Version) -> bytes:
        """The bytes of a version, verified; from the local cache first where the store is remote.

        Raises:
            NotFound: no version of this tenant, or its blob is gone.
            StoreError: the store fails, or the blob is altered.
        """
        version = self.registry.resolve(ref) if isinstance(ref, str) else ref
        if not isinstance(ref, str) and not self.registry.owns(version.digest):
            raise NotFound(f"no version of tenant {self.tenant!r} has the digest {version.digest}; ask for one by its name")
        try:
            if self.cache is not None and version.user is None:  # of a user's nothing must stay behind elsewhere
                return self.cache.read(self.store, version.digest)
            return read_verified(self.store, version.digest)
        except (NotFound, StoreError) as error:
            raise type(error)(f"{version.ref}: {error}") from error

    def promote(
        self,
        ref: str,
        alias: str = "production",
        *,
        force: bool = False,
        reason: str | None = None,
        also: Callable[[Connection], object] | None = None,
    ) -> Move:
        """Point an alias at a version, after reading its blob again. Where suites were run on the version in place, their
        outcomes decide, and else the scores of the two cards. `also` is called in the same transaction: where it raises,
        nothing moves.

        Raises:
            NotFound: no such version, or it is deleted, or its blob is gone.
            PromotionRefused: it is clearly worse than the version in place, an outcome of a suite is missing, or `force`
                comes without a reason.
            StoreError: its blob is altered, or the store fails.
        """
        check_alias(alias)
        version = self.registry.resolve(ref)
        self._reread(version)
        return self.registry.aliases.promote(version.ref, alias, force=force, reason=reason, also=also)

    def rollback(self, task: str, alias: str = "production", *, reason: str | None = None) -> Move:
        """Put an alias back to what it pointed to before its last promotion; again to go further back.

        Raises:
            NotFound: no such task or alias, or nothing is left to go back to, or the blob there is gone.
            StoreError: the blob there is altered, or the store fails.
        """
        while True:
            target = self.registry.aliases.rollback_target(task, alias)
            self._reread(target)
            move = self.registry.aliases.rollback(task, alias, to=target.number, reason=reason)
            if move is not None:  # else another moved the alias meanwhile
                return move

    def restore(self, ref: str) -> Version:
        """Bring a deleted version back, after reading its blob again.

        Raises:
            LibraryError: it is not deleted, or the reference has no number.
            NotFound: no such version, or its blob is gone.
            StoreError: its blob is altered, or the store fails.
        """
        return self.registry.restore(ref, ensure_blob=self._reread)

    def verify(self, progress: Progress | None = None) -> maintenance.Report:
        """Read every blob again and check it and the registry, all tenants; see `maintenance.verify`."""
        return maintenance.verify(self.registry.database, self.store, progress)

    def plan_gc(self, *, purge_deleted: bool = False) -> list[maintenance.Garbage]:
        """What `gc` would delete, all tenants; see `maintenance.plan_gc`."""
        return maintenance.plan_gc(self.registry.database, self.store, purge_deleted=purge_deleted)

    def gc(self, plan: Sequence[maintenance.Garbage] | None = None, *, purge_deleted: bool = False) -> list[str]:
        """Delete what a plan names and is still not needed; return the digests deleted. See `maintenance.gc`. Without a plan
        also what is left of trainings and uploads, as by :meth:`sweep`."""
        chosen = self.plan_gc(purge_deleted=purge_deleted) if plan is None else plan
        deleted = maintenance.gc(self.registry, self.store, self.cache, chosen)
        if plan is None:
            self.sweep()
        return deleted

    def plan_sweep(self, *, days: float = leftovers.OLD_DAYS) -> list[leftovers.Leftover]:
        """What `sweep` would delete: checkpoints that were not written for so many days, and what killed uploads left."""
        return leftovers.plan_sweep(self.registry.database, self.home, days=days)

    def sweep(self, plan: Sequence[leftovers.Leftover] | None = None, *, days: float = leftovers.OLD_DAYS) -> list[str]:
        """Delete what is left of trainings and uploads in the home; return the files deleted. See `leftovers.sweep`."""
        chosen = self.plan_sweep(days=days) if plan is None else plan
        return leftovers.sweep(self.registry.database, self.home, chosen)

    def copy(
        self,
        home: str | Path | None = None,
        *,
        registry: str | None = None,
        store: str | None = None,
        progress: Progress | None = None,
    ) -> copying.CopyReport:
        """Copy all tenants' rows and blobs to another home, registry or store, or bring a former copy up to date; see
        `copying.copy`."""
        target = copying.target_of(home, registry, store)
        return copying.copy(self.registry.database, self.store, target, progress=progress)

    def stats(self) -> dict[str, Any]:
        """Counts of tenants, tasks, versions, blobs and bytes, and of the home's checkpoints and uploads."""
        return {**maintenance.stats(self.registry.database, self.store), **leftovers.count(self.home)}

    def _reread(self, version: Version) -> None:
        """Check a blob in the store itself, not in the cache. Raises `NotFound` or `StoreError`."""
        try:
            read_verified(self.store, version.digest)
        except (NotFound, StoreError) as error:
            if version.purged and isinstance(error, NotFound):
                raise NotFound(
                    f"{version.ref} was purged by `library gc --purge-deleted`: its bytes are gone for good; "
                    "train or import it again"
                ) from error
            raise type(error)(f"{version.ref}: {error}") from error


@contextmanager
def library_or_current(library: Library | None, *, create: bool = False) -> Iterator[Library]:
    """The library that is given; else that of the current home, opened and closed again.

    Raises:
        LibraryError: it cannot be opened.
        NotFound: there is none, and none is to be made.
    """
    if library is not None:
        yield library
        return
    with Library.open(create=create) as opened:
        yield opened
