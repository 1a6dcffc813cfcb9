"""The protocol of a store, and the one way to read from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from softprompt.errors import StoreError
from softprompt.prompts.file import digest_of


class Store(Protocol):
    """Five verbs on immutable blobs, and an end. Every implementation passes one contract suite (`tests/store_contract.py`).

    A blob is wholly there or not there: a reader never sees a part of it, whatever happens to the writer. When `put`
    returns, the blob is as safe as the store makes it. All methods may be called from several threads.
    They raise `StoreError` where the store fails.
    """

    shown: str
    """The URL for messages, without a password."""

    remote: bool
    """Whether it is worth keeping a local copy of what was read."""

    def put(self, data: bytes) -> str:
        """Store bytes, over a damaged copy if there is one, and return their digest."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes as they are stored, not checked. Raises `NotFound` if they are not there."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        ...

    def list(self) -> Iterator[tuple[str, int]]:
        """Digest and size of every blob, in any order. What is not named like a blob is left out."""
        ...

    def delete(self, digest: str) -> None:
        """Delete the blob; none there is no error."""
        ...

    def close(self) -> None:
        """Let go of connections; a later call opens them again."""
        return


def read_verified(store: Store, digest: str) -> bytes:
    """The bytes of a blob, checked against its digest.

    Raises:
        NotFound: the blob is not there.
        StoreError: the store fails, or the bytes are not those that were stored.
    """
    data = store.get(digest)
    found = digest_of(data)
    if found != digest:
        raise StoreError(f"blob {digest} in {store.shown} is altered: its bytes have the digest {found}; {MEND}")
    return data


MEND = (
    "put back its bytes from a copy of the library (`softprompt library copy`) or import the prompt file again; "
    "`softprompt library verify` lists all that is damaged"
)
