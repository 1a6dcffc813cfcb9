"""Residents: prompts in memory, ready to serve, by reference, for one base and all tenants of a library.

A prompt that is there is given at once while the registry's last word is fresh: nothing had changed at all. One question
serves for all prompts. While requests come it is asked ahead of time, and nobody waits for it; after a pause the first
request does. After a change each reference is looked up again before it answers, and what replaces a prompt is read and
checked whole before it takes the place. So nothing answers that was out of date when the question was asked, except while
the registry or the store cannot be reached: then what is there answers, after a short wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import TTLCache

from softprompt.errors import ConfigError, EngineError, LibraryError, NotFound, PromptFileError, StoreError
from softprompt.library.passages import Passages
from softprompt.names import parse_ref
from softprompt.serving.residents.changes import AWAY_S, PATIENCE_S, Changes
from softprompt.serving.residents.resident import Resident, as_version, load_resident

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

_LOG = logging.getLogger(__name__)
_LOADERS = 8

Key = tuple[str, str, str | None]
"""Tenant and reference; and of a user's own prompt the user, whom so no reference can name."""


@dataclass(frozen=True)
class ResidentsStatus:
    """How many prompts are there, and how often they were."""

    prompts: int
    bytes: int
    hits: int
    misses: int
    """Requests whose prompt had to be fetched."""
    evictions: int
    failures: int
    """Checks that failed or took too long, so that a prompt stayed which may be out of date."""


@dataclass(eq=False)
class _Entry:
    """What a reference means."""

    resident: Resident
    asked: int
    """The change of the registry that it is known to be after."""
    not_before: float = -math.inf
    """When a check that failed may be tried again."""


class Residents:
    """Prompts of one base by reference, bounded by the bytes of their vectors and by count. Safe from any thread."""

    def __init__(
        self,
        library: Library,
        base: FrozenBase,
        *,
        max_bytes: int,
        max_prompts: int,
        fresh_s: float = 1.0,
        most_unknown: int = 1024,
        patience_s: float = PATIENCE_S,
        away_s: float = AWAY_S,
        clock: Callable[[], float] = time.monotonic,
        swapped: Callable[[str, Resident, float], None] | None = None,
        passages: Passages | None = None,
    ) -> None:
        """Keep prompts of a library and of its other tenants.

        Args:
            max_bytes: bound on the vectors held in all. A prompt larger than that is served and not kept.
            max_prompts: bound on the distinct prompts held.
            fresh_s: seconds for which the registry's last word holds.
            most_unknown: bound on the names remembered that mean nothing.
            patience_s: seconds that a request whose prompt is there waits for a check.
            away_s: seconds after a failed check in which none is waited for.
            clock: seconds that never go back.
            passages: what finds passages for inputs.
            swapped: told the tenant, the prompt and the seconds of each `aget` of one that is there.
        """
        self._swapped, self._passages = swapped, passages or Passages()
        self.library, self.base = library, base
        self.fingerprints = base.fingerprints  # may read files, which must not hold up an event loop later
        self.max_bytes, self.max_prompts, self.fresh_s = max_bytes, max_prompts, fresh_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._holders: dict[str, set[Key]] = {}  # by digest: references to one prompt share its vectors
        self._bytes = 0
        self._loading: dict[Key, Future[Resident]] = {}
        self._unknown: TTLCache[Key, tuple[str, str]] = TTLCache(most_unknown, fresh_s, timer=clock)
        self._libraries: dict[str, Library] = {library.tenant: library}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="residents-load")
        self.changes = Changes(
            library.registry, fresh_s=fresh_s, patience_s=patience_s, away_s=away_s, clock=clock, failed=self._report
        )
        """Of the registry, seen by requests."""
        self._hits = self._misses = self._evictions = self._failures = 0
        self._late = StoreError(f"nothing came within {patience_s:g} s")

    def get(self, ref: str, tenant: str | None = None) -> Resident:
        """The prompt that `task`, `task@3` or `task@alias` means, loaded where it is not there.

        Args:
            tenant: whose; by default the library's own.

        Raises:
            NotFound, NameRefused: the tenant has no such version.
            FingerprintMismatch, StoreError, PromptFileError, RegistryError: as :func:`load_resident`.
        """
        key = (tenant or self.library.tenant, ref, None)
        there, entry = self._find(key)
        if there is not None:
            return there
        loading = self._load(key)
        try:
            return loading.result(self.changes.patience_s if entry else None)
        except TimeoutError:
            if entry is None or loading.done():
                raise
            return self._stay(key, entry, self._late)

    async def aget(self, ref: str, tenant: str | None = None, user: str | None = None) -> Resident:
        """The same without holding up the event loop; with `user` that user's own prompt of the task `ref`."""
        key = (tenant or self.library.tenant, ref, user)
        began = time.perf_counter()
        there, entry = self._find(key)
        if there is None:
            there = await self._await(key, entry)
        if entry is not None and self._swapped is not None:
            self._swapped(key[0], there, time.perf_counter() - began)
        return there

    async def _await(self, key: Key, entry: _Entry | None) -> Resident:
        loaded = asyncio.wrap_future(self._load(key))
        loaded.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio logs it as never seen
        try:  # others may wait for the same load
            return await asyncio.wait_for(asyncio.shield(loaded), self.changes.patience_s if entry else None)
        except TimeoutError:
            if entry is None or loaded.done():
                raise
            return await asyncio.to_thread(self._stay, key, entry, self._late)

    def forget(self, task: str, user: str, tenant: str) -> None:
        """Have a user's own prompt no more in memory."""
        key = (tenant, task, user)
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                self._drop(key, entry)

    def status(self) -> ResidentsStatus:
        """How things stand now."""
        with self._lock:
            counts = (self._hits, self._misses, self._evictions, self._failures)
            return ResidentsStatus(len(self._holders), self._bytes, *counts)

    def tenant_library(self, tenant: str) -> Library:
        """The library as a tenant sees it."""
        with self._lock:
            if tenant not in self._libraries:
                self._libraries[tenant] = self.library.for_tenant(tenant)
            return self._libraries[tenant]

    def close(self) -> None:
        """Stop the threads, once what they do is done. What is there is still served."""
        self.changes.close()
        self._loaders.shutdown(wait=True, cancel_futures=True)

    def _find(self, key: Key) -> tuple[Resident | None, _Entry | None]:
        """What is there and may answer at once; and what is there at all."""
        fresh, away = self.changes.fresh(), self.changes.away
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None, None
            self._entries.move_to_end(key)
            if away or (fresh and (entry.asked == self.changes.number or self._clock() < entry.not_before)):
                self._hits += 1
                return entry.resident, entry
            return None, entry

    def _load(self, key: Key) -> Future[Resident]:
        parse_ref(key[1])  # what cannot be a name is neither looked for nor remembered
        with self._lock:
            there = key in self._entries
            self._hits += there
            self._misses += not there
            if (known := self._unknown.get(key)) is not None:
                message, others = known
                raise NotFound(message, others)
            if key not in self._loading:
                try:
                    self._loading[key] = self._loaders.submit(self._load_now, key)
                except RuntimeError:
                    raise EngineError("the service is closed; start it again") from None
            return self._loading[key]

    def _load_now(self, key: Key) -> Resident:
        """What a reference means now, put in place where it is not there."""
        try:
            with self._lock:
                entry = self._entries.get(key)
            known = self.changes.settle()
            asked = self.changes.number  # before the look-up: whatever changes from here on is looked at again
            if entry is None:
                return self._look_up(key, asked, None)
            if not known or entry.asked == asked:
                return entry.resident
            try:
                return self._look_up(key, asked, entry.resident)
            except NotFound:
                with self._lock:
                    self._drop(key, entry)
                raise
            except Exception as error:  # damaged, of another base, store or registry down
                return self._stay(key, entry, error)
        finally:
            with self._lock:
                self._loading.pop(key, None)

    def _look_up(self, key: Key, asked: int, there: Resident | None) -> Resident:
        """Resolve a reference and put in place what it means; `there` is what stands there."""
        library = self.tenant_library(key[0])
        try:
            version = _resolve(library, key[1], key[2])
        except NotFound as error:
            with self._lock:
                self._unknown[key] = error.parts
            raise
        if there is None or (version.digest, version.number) != (there.digest, there.version):
            try:
                there = self._ready(library, version)
            except (NotFound, ConfigError) as error:  # of its bytes, its labels: nothing that a request could mend
                raise PromptFileError(str(error)) from error
        elif key[2] is not None:  # a user's own is served as its task means now, which may be another version
            try:
                there = as_version(there, library, version, self._passages)
            except ConfigError as error:
                raise PromptFileError(str(error)) from error
        with self._lock:
            self._put(key, _Entry(there, asked))
        return there

    def _ready(self, library: Library, version: Version) -> Resident:
        """A version's prompt: the one that is there under another name, or else loaded."""
        with self._lock:
            holder = next(iter(self._holders.get(version.digest, ())), None)
            shared = self._entries[holder].resident if holder else None
        if shared is None or version.fingerprint not in self.fingerprints:
            return load_resident(library, version, self.base, self._passages)
        return as_version(shared, library, version, self._passages)

    def _stay(self, key: Key, entry: _Entry, error: Exception) -> Resident:
        """The prompt that is there, in the place of one that cannot be had. Raises the error where it was deleted since."""
        ref = entry.resident.ref
        name = ref if key[2] is None else key[1]
        try:
            self.changes.ask(lambda: _resolve(self.tenant_library(key[0]), name, key[2]))
        except NotFound:
            with self._lock:
                self._drop(key, entry)
            raise error from None
        except (LibraryError, TimeoutError, RuntimeError):  # the registry is away, too, or all is closed
            _LOG.debug("whether %s is deleted is not known", ref)
        entry.not_before = self._clock() + self.changes.away_s
        self._report(f"{key[1]!r} of tenant {key[0]!r} stays at {ref}", error)
        return entry.resident

    def _report(self, what: str, error: Exception) -> None:
        with self._lock:
            self._failures += 1
        _LOG.warning("%s: %s: %s", what, type(error).__name__, error)

    def _put(self, key: Key, entry: _Entry) -> None:
        """Enter a prompt as the one used last, and evict those used longest ago. The lock is held."""
        if (old := self._entries.get(key)) is not None:
            self._drop(key, old)
        self._unknown.pop(key, None)
        size = entry.resident.bytes
        if size > self.max_bytes or self.max_prompts < 1:
            return
        holders = self._holders.setdefault(entry.resident.digest, set())
        if not holders:
            self._bytes += size
        holders.add(key)
        self._entries[key] = entry
        while self._bytes > self.max_bytes or len(self._holders) > self.max_prompts:
            oldest = next(iter(self._entries))
            self._drop(oldest, self._entries[oldest])
            self._evictions += 1

    def _drop(self, key: Key, entry: _Entry) -> None:
        """Forget a reference, and its prompt when it was the last one. The lock is held."""
        if self._entries.get(key) is not entry:
            return
        del self._entries[key]
        holders = self._holders[entry.resident.digest]
        holders.discard(key)
        if not holders:
            del self._holders[entry.resident.digest]
            self._bytes -= entry.resident.bytes


def _resolve(library: Library, ref: str, user: str | None) -> Version:
    """What a reference means, or a user's own prompt of a task."""
    return library.registry.resolve(ref) if user is None else library.registry.personal.resolve(ref, user)
