"""Residents: prompts in memory, ready to serve, by reference, for one base and all tenants of a library.

A prompt that is there is given at once, as it is. When the registry has not been asked for a while, it is asked in the
background, once for all prompts: has anything changed at all? Only after a change is each reference looked up again, the
next time it is asked for; and what replaces a prompt is read and checked whole before it takes the place.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from softprompt.errors import EngineError, NotFound
from softprompt.names import parse_ref
from softprompt.serving.resident import Resident, load_resident

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

_LOG = logging.getLogger(__name__)
_LOADERS, _CHECKERS = 8, 2

Key = tuple[str, str]
"""Tenant and reference."""


@dataclass(frozen=True)
class ResidentsStatus:
    """How many prompts are there, and how often they were."""

    prompts: int
    bytes: int
    hits: int
    misses: int
    """Requests that had to wait for the library."""
    evictions: int
    failures: int
    """Checks in the background that failed, so that a prompt stayed which may be out of date."""


@dataclass(eq=False)
class _Entry:
    """What a reference means."""

    resident: Resident
    asked: int
    """The change of the registry that it is known to be after."""
    checking: bool = False
    not_before: float = 0.0
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
    ) -> None:
        """Keep prompts of a library and of its other tenants.

        Args:
            max_bytes: bound on the vectors held in all. A prompt larger than that is served and not kept.
            max_prompts: bound on the distinct prompts held.
            fresh_s: seconds for which the registry's last word holds.
            most_unknown: bound on the names remembered that mean nothing.
        """
        self.library, self.base = library, base
        self.fingerprints = base.fingerprints  # may read files, which must not hold up an event loop later
        self.max_bytes, self.max_prompts, self.fresh_s = max_bytes, max_prompts, fresh_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._holders: dict[str, set[Key]] = {}  # by digest: references to one prompt share its vectors
        self._bytes = 0
        self._loading: dict[Key, Future[Resident]] = {}
        self._unknown: TTLCache[Key, str] = TTLCache(most_unknown, fresh_s)
        self._libraries: dict[str, Library] = {library.tenant: library}
        # Apart, so that checks of what is there, which nobody waits for, never hold up loads, which somebody does.
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="residents-load")
        self._checkers = ThreadPoolExecutor(_CHECKERS, thread_name_prefix="residents-check")
        self._state: tuple[int, int] | None = None
        self._change = 0
        self._asking = False
        self._ask_after = 0.0
        self._hits = self._misses = self._evictions = self._failures = 0

    def get(self, ref: str, tenant: str | None = None) -> Resident:
        """The prompt that `task`, `task@3` or `task@alias` means, loaded where it is not there.

        Args:
            tenant: whose; by default the library's own.

        Raises:
            NotFound, NameRefused: the tenant has no such version.
            FingerprintMismatch, StoreError, PromptFileError, RegistryError: as :func:`load_resident`.
        """
        key = (tenant or self.library.tenant, ref)
        return self._find(key) or self._load(key).result()

    async def aget(self, ref: str, tenant: str | None = None) -> Resident:
        """The same without holding up the event loop."""
        key = (tenant or self.library.tenant, ref)
        if (found := self._find(key)) is not None:
            return found
        loaded = asyncio.wrap_future(self._load(key))
        loaded.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio logs it as never seen
        return await asyncio.shield(loaded)  # others may wait for the same load

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
        """Stop the threads, once what they do is done."""
        for pool in (self._checkers, self._loaders):
            pool.shutdown(wait=True, cancel_futures=True)

    def _find(self, key: Key) -> Resident | None:
        """What is there, and whatever check is due begun."""
        now = time.monotonic()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            if now >= self._ask_after and not self._asking:
                self._asking = True
                self._start(self._ask, key)
            elif entry.asked != self._change and not entry.checking and now >= entry.not_before:
                entry.checking = True
                self._start(self._check, key, entry)
            return entry.resident

    def _start(self, work: Callable[..., None], *about: object) -> None:
        try:
            self._checkers.submit(work, *about)
        except RuntimeError:  # closed: what is there is still served
            _LOG.debug("residents are closed, and no check begins")

    def _load(self, key: Key) -> Future[Resident]:
        parse_ref(key[1])  # what cannot be a name is neither looked for nor remembered
        with self._lock:
            self._misses += 1
            if (message := self._unknown.get(key)) is not None:
                raise NotFound(message)
            if key not in self._loading:
                try:
                    self._loading[key] = self._loaders.submit(self._load_now, key)
                except RuntimeError:
                    raise EngineError("the service is closed; start it again") from None
            return self._loading[key]

    def _load_now(self, key: Key) -> Resident:
        if self._state is None:  # or the first answer of the registry would count as a change
            self._ask(key)
        asked = self._change  # taken first: whatever changes from here on makes the entry one to be checked
        try:
            library = self.tenant_library(key[0])
            try:
                version = library.registry.resolve(key[1])
            except NotFound as error:
                with self._lock:
                    self._unknown[key] = str(error)
                raise
            resident = self._ready(library, version)
            with self._lock:
                self._put(key, _Entry(resident, asked))
            return resident
        finally:
            with self._lock:
                self._loading.pop(key, None)

    def _ready(self, library: Library, version: Version) -> Resident:
        """A version's prompt: the one that is there under another name, or else loaded."""
        with self._lock:
            holder = next(iter(self._holders.get(version.digest, ())), None)
            shared = self._entries[holder].resident if holder else None
        if shared is None or version.fingerprint not in self.fingerprints:
            return load_resident(library, version, self.base)
        return replace(shared, task=version.task, version=version.number)

    def _ask(self, key: Key) -> None:
        """Ask the registry whether anything changed; then look `key` up again where a change came since it was looked up."""
        began = time.monotonic()
        try:
            state: tuple[int, int] | None = self.library.registry.state()
        except Exception as error:
            self._report("the registry cannot be asked", error)
            state = self._state
        with self._lock:
            self._asking = False
            self._ask_after = began + self.fresh_s
            if state != self._state:
                self._state = state
                self._change += 1
            entry = self._entries.get(key)
            if entry is not None and (entry.asked == self._change or entry.checking or began < entry.not_before):
                entry = None
            if entry is not None:
                entry.checking = True
        if entry is not None:
            self._check(key, entry)

    def _check(self, key: Key, entry: _Entry) -> None:
        """Look a reference up again and put in place what it means now."""
        asked = self._change
        fresh: _Entry | None = None
        try:
            library = self.tenant_library(key[0])
            try:
                version = library.registry.resolve(key[1])
            except NotFound:
                with self._lock:
                    self._drop(key, entry)
                return
            resident = entry.resident
            if (version.digest, version.number) != (resident.digest, resident.version):
                resident = self._ready(library, version)
            fresh = _Entry(resident, asked)
        except Exception as error:  # damaged, of another base, store or registry down: the old one stays
            entry.not_before = time.monotonic() + self.fresh_s
            self._report(f"{key[1]!r} of tenant {key[0]!r} stays at {entry.resident.ref}", error)
        finally:
            with self._lock:
                entry.checking = False
                if fresh is not None and self._entries.get(key) is entry:  # else evicted since
                    self._put(key, fresh)

    def _report(self, what: str, error: Exception) -> None:
        _LOG.warning("%s: %s: %s", what, type(error).__name__, error)
        with self._lock:
            self._failures += 1

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
