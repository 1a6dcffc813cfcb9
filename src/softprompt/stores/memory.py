"""A store in this process's memory, for tests and throw-away work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from softprompt.errors import NotFound
from softprompt.names import check_digest
from softprompt.prompts.file import digest_of
from softprompt.stores.base import MEND, Store


class MemoryStore(Store):
    """Blobs in a dictionary. Gone with the process."""

    remote = False
    _named: ClassVar[dict[str, MemoryStore]] = {}

    def __init__(self, name: str = "") -> None:
        self.shown = f"memory://{name}"
        self._blobs: dict[str, bytes] = {}

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """The store of this name: the same one for all who ask in this process."""
        return cls._named.setdefault(name, cls(name))

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        self._blobs[digest] = bytes(data)
        return digest

    def get(self, digest: str) -> bytes:
        try:
            return self._blobs[check_digest(digest)]
        except KeyError:
            raise NotFound(f"blob {digest} is not in {self.shown}; {MEND}") from None

    def has(self, digest: str) -> bool:
        return check_digest(digest) in self._blobs

    def list(self) -> Iterator[tuple[str, int]]:
        yield from [(digest, len(data)) for digest, data in self._blobs.copy().items()]

    def delete(self, digest: str) -> None:
        self._blobs.pop(check_digest(digest), None)
