"""Local copies of blobs read from a remote store: used first, and while the store is away."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from softprompt.errors import LibraryError
from softprompt.names import check_digest
from softprompt.stores.base import Store, read_verified
from softprompt.stores.folder import FolderStore

MAX_BYTES = 2 << 30
"""Default bound of the cache: 2 GiB, some tens of thousands of prompts."""


class ReadCache:
    """A folder of blobs, bounded by bytes; the least recently read go first.

    It knows nothing of tenants: the library asks it only for digests that the tenant's own versions name.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._unseen = max_bytes  # bytes written since the folder was last measured; the first write measures it

    def read(self, store: Store, digest: str) -> bytes:
        """The blob from here, else from the store, keeping a copy. Always verified.

        Raises:
            NotFound: it is neither here nor in the store.
            StoreError: it is not here, and the store fails or holds other bytes.
        """
        with contextlib.suppress(LibraryError):  # gone or damaged here: the store has it
            data = read_verified(FolderStore(self.folder), digest)
            with contextlib.suppress(OSError):
                os.utime(self.folder / digest)
            return data
        data = read_verified(store, digest)
        with contextlib.suppress(LibraryError):  # a full disk must not stop a read
            FolderStore(self.folder).put(data)
            self._unseen += len(data)
            if self._unseen > self.max_bytes // 16:  # measuring a large folder takes longer than a read
                self._trim()
        return data

    def drop(self, digest: str) -> None:
        """Forget a blob."""
        with contextlib.suppress(OSError):
            (self.folder / check_digest(digest)).unlink()

    def _trim(self) -> None:
        self._unseen = 0
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another process trims too
                    stat = path.stat()
                    entries.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
