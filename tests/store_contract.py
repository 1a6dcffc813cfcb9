"""What every store keeps to. A test class inherits from it and gives the fixtures `store` and `damage`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from softprompt.errors import NameRefused, NotFound, StoreError
from softprompt.prompts.file import digest_of
from softprompt.stores import Store, read_verified

Damage = Callable[[str, bytes], None]
"""Writes other bytes under a digest, behind the store's back."""

MISSING = "0" * 64
NOT_DIGESTS = [
    "",
    "x",
    "0" * 63,
    "0" * 65,
    "A" * 64,
    "../" + "0" * 61,
    "0" * 63 + "/",
    "0" * 64 + "\n",
    "g" * 64,
]


class StoreContract:
    many = 1050
    """More than one page of any listing."""

    def test_keeps_bytes_under_their_digest(self, store: Store) -> None:
        data = os.urandom(3000)
        digest = store.put(data)
        assert digest == digest_of(data)
        assert store.get(digest) == data
        assert store.has(digest)
        assert list(store.list()) == [(digest, 3000)]

    def test_starts_empty(self, store: Store) -> None:
        assert list(store.list()) == []
        assert not store.has(MISSING)

    def test_missing_blob_is_not_found_by_name(self, store: Store) -> None:
        with pytest.raises(NotFound, match=MISSING):
            store.get(MISSING)

    def test_deletes_and_deleting_nothing_is_no_error(self, store: Store) -> None:
        digest = store.put(b"one")
        other = store.put(b"two")
        store.delete(digest)
        store.delete(digest)
        store.delete(MISSING)
        assert not store.has(digest)
        assert [name for name, _ in store.list()] == [other]

    def test_puts_twice_as_once(self, store: Store) -> None:
        assert store.put(b"same") == store.put(b"same")
        assert len(list(store.list())) == 1

    @pytest.mark.parametrize("size", [1, 4096, 6 << 20])
    def test_keeps_any_size(self, store: Store, size: int) -> None:
        data = os.urandom(size)
        assert store.get(store.put(data)) == data

    def test_takes_views_and_bytearrays(self, store: Store) -> None:
        assert store.get(store.put(bytearray(b"abc"))) == b"abc"  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", NOT_DIGESTS)
    def test_refuses_what_is_no_digest(self, store: Store, name: str) -> None:
        for verb in (store.get, store.has, store.delete):
            with pytest.raises(NameRefused):
                verb(name)

    def test_lists_more_than_a_page(self, store: Store) -> None:
        digests = {store.put(str(number).encode()) for number in range(self.many)}
        listed = list(store.list())
        assert len(listed) == self.many
        assert {digest for digest, _ in listed} == digests

    def test_altered_bytes_are_told_by_digest_with_the_mend(self, store: Store, damage: Damage) -> None:
        digest = store.put(b"whole")
        damage(digest, b"whale")
        with pytest.raises(StoreError, match=rf"{digest}.*altered.*import the prompt file again"):
            read_verified(store, digest)

    def test_putting_again_mends_an_altered_blob(self, store: Store, damage: Damage) -> None:
        digest = store.put(b"whole")
        damage(digest, b"")
        store.put(b"whole")
        assert read_verified(store, digest) == b"whole"

    def test_concurrent_writers_and_readers_see_whole_blobs_or_none(self, store: Store) -> None:
        blobs = [os.urandom(200_000) for _ in range(4)]
        names = {digest_of(data): data for data in blobs}

        def write(number: int) -> None:
            for data in blobs:
                store.put(data)

        def read(number: int) -> int:
            seen = 0
            for _ in range(20):
                for digest, data in names.items():
                    try:
                        assert store.get(digest) == data
                        seen += 1
                    except NotFound:
                        pass
            return seen

        with ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, number) for number in range(4)]
            readers = [pool.submit(read, number) for number in range(4)]
            for job in (*writers, *readers):
                job.result()
        assert {digest for digest, _ in store.list()} == set(names)

    def test_a_deleted_blob_can_be_put_again(self, store: Store) -> None:
        digest = store.put(b"again")
        store.delete(digest)
        store.put(b"again")
        assert store.get(digest) == b"again"
