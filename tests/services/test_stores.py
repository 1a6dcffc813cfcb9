"""Redis and S3 keep the contract of stores, and survive going away, coming back and uploads that break off."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
import redis

from softprompt.errors import NotFound, StoreError
from softprompt.library.library import Library
from softprompt.prompts.file import digest_of
from softprompt.stores import Store, open_store, read_verified
from softprompt.stores.bucket import BucketStore
from softprompt.stores.redis_server import PREFIX, RedisStore
from tests.library_data import make_prompt
from tests.services.proxy import Proxy
from tests.services.servers import Server
from tests.store_contract import Damage, StoreContract

pytestmark = pytest.mark.services


class TestRedis(StoreContract):
    @pytest.fixture
    def store(self, redis_url: str) -> Iterator[Store]:
        store = RedisStore(redis_url)
        yield store
        store.close()

    @pytest.fixture
    def damage(self, store: RedisStore) -> Damage:
        return lambda digest, data: store._server.set(PREFIX + digest, data)

    def test_lists_no_strays(self, store: RedisStore) -> None:
        store._server.set(PREFIX + "stray", b"x")
        store._server.set("a" * 64, b"x")
        assert list(store.list()) == []

    def test_full_memory_is_told(self, store: RedisStore) -> None:
        store._server.config_set("maxmemory", "1500kb")
        try:
            with pytest.raises(StoreError, match=r"memory is full and nothing was stored: raise maxmemory"):
                [store.put(os.urandom(200_000)) for _ in range(50)]
            for digest, _ in store.list():
                read_verified(store, digest)
        finally:
            store._server.config_set("maxmemory", "0")

    def test_a_wrong_password_is_told(self, redis_process: Server) -> None:
        store = RedisStore(f"redis://user:hunter2@127.0.0.1:{redis_process.port}/0")
        with pytest.raises(StoreError, match="mend the user or password") as caught:
            store.put(b"x")
        assert "hunter2" not in str(caught.value)
        store.close()

    def test_a_closed_library_leaves_no_connection(self, redis_url: str, tmp_path: Path) -> None:
        with redis.Redis.from_url(redis_url) as link:
            before = len(link.client_list())
            with Library.open(tmp_path / "home", store=redis_url) as library:
                library.publish(make_prompt(), base="builtin/tiny")
                library.copy(home=tmp_path / "other", store=redis_url.replace("/0", "/1"))
                assert len(link.client_list()) > before
            assert len(link.client_list()) == before

    def test_what_was_acknowledged_outlives_a_killed_server(self, redis_process: Server, redis_url: str) -> None:
        store = RedisStore(redis_url)
        digests = [store.put(os.urandom(1000)) for _ in range(20)]
        redis_process.stop(kill=True)
        with pytest.raises(StoreError, match="it is away"):
            store.get(digests[0])
        redis_process.start()
        assert {digest for digest, _ in store.list()} == set(digests)
        store.close()


class TestS3(StoreContract):
    many = 1010

    @pytest.fixture
    def store(self, s3_url: str) -> Store:
        return BucketStore(s3_url)

    @pytest.fixture
    def damage(self, store: BucketStore) -> Damage:
        return lambda digest, data: obstore.put(store._bucket, digest, data) and None

    def test_lists_no_strays(self, store: BucketStore) -> None:
        obstore.put(store._bucket, "stray", b"x")
        obstore.put(store._bucket, "folder/" + "a" * 64, b"x")
        assert list(store.list()) == []

    def test_a_missing_bucket_is_told(self, s3_environment: str) -> None:
        store = BucketStore("s3://no-such-bucket/x")
        with pytest.raises(StoreError, match="create the bucket, or mend the URL"):
            store.put(b"x")
        with pytest.raises(StoreError, match="create the bucket, or mend the URL"):
            store.get("0" * 64)
        with pytest.raises(StoreError, match="create the bucket, or mend the URL"):
            list(store.list())


@pytest.fixture
def store(wire: tuple[Proxy, str]) -> Iterator[Store]:
    """The store at the end of the wire."""
    with contextlib.closing(open_store(wire[1])) as opened:
        yield opened


@pytest.fixture(params=["redis", "s3"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, str]]:
    """A cuttable wire to a store, and the store's URL over it."""
    url = request.getfixturevalue(f"{request.param}_url")
    process = request.getfixturevalue(f"{request.param}_process")
    proxy = Proxy(process.port)
    if request.param == "redis":
        url = f"redis://127.0.0.1:{proxy.port}/0"
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    yield proxy, url
    proxy.close()


def test_goes_away_and_comes_back(wire: tuple[Proxy, str], store: Store) -> None:
    proxy, _ = wire
    digest = store.put(b"kept")
    proxy.away()
    started = time.monotonic()
    for attempt in (
        lambda: store.put(b"lost"),
        lambda: store.get(digest),
        lambda: store.has(digest),
        lambda: list(store.list()),
        lambda: store.delete(digest),
    ):
        with pytest.raises(StoreError, match="it is away or refuses"):
            attempt()
    assert time.monotonic() - started < 60
    proxy.back()
    assert [name for name, _ in store.list()] == [digest]
    assert store.get(digest) == b"kept"
    store.put(b"more")


def test_an_upload_that_breaks_off_is_not_there(wire: tuple[Proxy, str], store: Store) -> None:
    proxy, _ = wire
    data = os.urandom(300_000)
    for place in (100, 5_000, 150_000, 299_990):
        proxy.cut_after = place
        with pytest.raises(StoreError):
            store.put(data)
        proxy.back()
        assert not store.has(digest_of(data)), place
        assert list(store.list()) == []
    assert store.get(store.put(data)) == data


def test_readers_during_breaks_see_whole_blobs_or_an_error(wire: tuple[Proxy, str], store: Store) -> None:
    proxy, _ = wire
    blobs = [os.urandom(100_000) for _ in range(6)]
    digests = [store.put(data) for data in blobs]

    def read(place: int) -> int:
        whole = 0
        for step in range(15):
            try:
                assert store.get(digests[(place + step) % 6]) == blobs[(place + step) % 6]
                whole += 1
            except StoreError:
                pass
        return whole

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, place) for place in range(4)]
        for _ in range(3):
            time.sleep(0.1)
            proxy.away()
            time.sleep(0.05)
            proxy.back()
        assert sum(reader.result() for reader in readers) > 0


def test_the_cache_reads_while_the_store_is_away(wire: tuple[Proxy, str], tmp_path: Path) -> None:
    proxy, url = wire
    with Library.open(tmp_path / "home", store=url) as library:
        data = make_prompt()
        library.publish(data, base="builtin/tiny")
        library.publish(make_prompt(seed=1), base="builtin/tiny")
        assert library.read("trec6@1") == data
        proxy.away()
        assert library.read("trec6@1") == data
        with pytest.raises(StoreError, match=r"trec6@2: cannot read from"):
            library.read("trec6@2")
        with pytest.raises(StoreError, match="it is away"):
            library.publish(make_prompt(seed=2), base="builtin/tiny")
        with pytest.raises(StoreError, match="it is away"):
            library.promote("trec6@1")  # a promotion looks at the store itself
        assert [version.number for version in library.registry.versions("trec6")] == [1, 2], "nothing half-published"
        proxy.back()
        assert library.publish(make_prompt(seed=2), base="builtin/tiny").number == 3
        assert not library.verify().problems
        with pytest.raises(NotFound, match="no task"):
            library.for_tenant("other").read("trec6@1")
        version = library.registry.resolve("trec6@1")
        with pytest.raises(NotFound, match="no version of tenant 'other'"):
            library.for_tenant("other").read(version)  # though its bytes lie in the cache


def test_redis_stopped_and_started(redis_process: Server, redis_url: str, tmp_path: Path) -> None:
    with Library.open(tmp_path / "home", store=redis_url) as library:
        library.publish(make_prompt(), base="builtin/tiny")
        redis_process.stop()
        with pytest.raises(StoreError, match=r"it is away.*start it"):
            library.publish(make_prompt(seed=1), base="builtin/tiny")
        redis_process.start()
        assert library.publish(make_prompt(seed=1), base="builtin/tiny").number == 2
        assert not library.verify().problems
        with redis.Redis(port=redis_process.port) as link:
            assert len(link.keys()) == 2
