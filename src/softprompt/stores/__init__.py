"""Where blobs are kept: five verbs over a folder, memory, a bucket or Redis.

A blob is named by the SHA-256 of its bytes and never changes, so stores need no transactions, and caches no
invalidation. All that moves is in the registry.

May import: `prompts` (digests alone). Open `base.py` first.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from softprompt.names import BUCKET_SCHEMES, REDIS_SCHEMES, split_store_url
from softprompt.stores.base import Store, read_verified
from softprompt.stores.cache import ReadCache
from softprompt.stores.folder import FolderStore
from softprompt.stores.memory import MemoryStore

__all__ = ["FolderStore", "MemoryStore", "ReadCache", "Store", "open_store", "read_verified"]


def open_store(url: str, *, create: bool = True) -> Store:
    """The store at a URL: a folder or `file://`, `memory://NAME`, `s3://`, `gs://`, `az://`, `redis://`. `create` makes the
    folder where there is none.

    Raises:
        NameRefused: not such a URL.
        StoreError: it cannot be opened, or its driver is not installed.
    """
    parts = split_store_url(url)
    if parts.scheme == "memory":
        return MemoryStore.named((parts.netloc + parts.path).strip("/"))
    if parts.scheme in BUCKET_SCHEMES:
        from softprompt.stores.bucket import BucketStore

        return BucketStore(url)
    if parts.scheme in REDIS_SCHEMES:
        from softprompt.stores.redis_server import RedisStore

        return RedisStore(url)
    return FolderStore(Path(unquote(parts.path) if "://" in url else os.path.expanduser(parts.path)), create=create)
