"""The library where users outgrow one machine: Redis and PostgreSQL, S3 and SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
import redis
from obstore.store import S3Store

from softprompt.errors import LibraryError, NotFound
from softprompt.library.library import Library
from softprompt.stores.redis_server import PREFIX
from tests.library_contract import LibraryContract, Opener
from tests.library_data import make_prompt
from tests.services.servers import Server
from tests.store_contract import Damage

pytestmark = pytest.mark.services


class TestRedisAndPostgres(LibraryContract):
    @pytest.fixture
    def opened(self, redis_url: str, postgres_database: Callable[[], str], tmp_path: Path) -> Opener:
        database = postgres_database()
        return lambda: Library.open(tmp_path / "home", registry=database, store=redis_url)

    @pytest.fixture
    def damage(self, redis_process: Server, library: Library) -> Damage:
        def write(digest: str, data: bytes) -> None:
            with redis.Redis(port=redis_process.port) as link:
                link.set(PREFIX + digest, data)

        return write


class TestS3AndSqlite(LibraryContract):
    @pytest.fixture
    def opened(self, s3_url: str, tmp_path: Path) -> Opener:
        return lambda: Library.open(tmp_path / "home", store=s3_url)

    @pytest.fixture
    def damage(self, s3_url: str) -> Damage:
        bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
        return lambda digest, data: obstore.put(S3Store(bucket), f"{prefix}/{digest}", data) and None


def test_moves_from_home_to_servers_and_goes_on(
    redis_url: str, postgres_database: Callable[[], str], tmp_path: Path
) -> None:
    database = postgres_database()
    with Library.open(tmp_path / "home") as library:
        for seed in range(3):
            library.publish(make_prompt(seed=seed), base="builtin/tiny", tags=["t"])
            library.promote(f"trec6@{seed + 1}")
        library.registry.keys.create("ci", ["read"])
        report = library.copy(registry=database, store=redis_url)
        assert report.blobs == 3
        library.publish(make_prompt("more"), base="builtin/tiny")
        library.registry.delete("trec6@1")
        again = library.copy(registry=database, store=redis_url)
        assert (again.blobs, again.added["versions"], again.changed) == (1, 1, ("default/trec6@1 deleted",))
        audit = library.registry.audit()
    with Library.open(tmp_path / "other", registry=database, store=redis_url) as library:
        assert library.registry.audit() == audit
        assert library.publish(make_prompt(seed=7), base="builtin/tiny", tags=["u"]).number == 4
        assert library.publish(make_prompt("new"), base="builtin/tiny").number == 1
        assert library.promote("trec6@4").before == 3
        assert library.rollback("trec6").after == 3
        assert library.registry.keys.create("cd", ["read"]).key.id == 2
        assert not library.verify().problems
    with (
        Library.open(tmp_path / "home") as library,
        pytest.raises(LibraryError, match="only there was 'publish' of 'trec6'"),
    ):
        library.copy(registry=database, store=redis_url)
    with pytest.raises(NotFound, match=r"there is no library in the registry .*: it has no tables"):
        Library.open(tmp_path / "none", registry=postgres_database(), store=redis_url, create=False)
    assert not (tmp_path / "none").exists()
