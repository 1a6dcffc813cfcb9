"""One server of each kind for all tests; an empty database, server or bucket for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import obstore
import psycopg
import pytest
import redis
from obstore.store import S3Store

from tests.services.servers import Server, postgres_server, postgres_url, redis_server, s3_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server("-c", "fsync=off") as server:  # no test pulls the plug of the machine
        yield server


@pytest.fixture
def postgres_database(postgres: Server) -> Callable[[], str]:
    """Makes empty schemas, each as good as a database and made in no time; returns their URLs."""

    def make() -> str:
        name = f"test{next(_numbers)}"
        with psycopg.connect(postgres_url(postgres.port), autocommit=True) as link:
            link.execute(f"CREATE SCHEMA {name}")
        return f"{postgres_url(postgres.port)}?options=-csearch_path%3D{name}"

    return make


@pytest.fixture(scope="session")
def redis_process() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis_url(redis_process: Server) -> str:
    """A Redis that is running and empty."""
    if redis_process.process is None:
        redis_process.start()
    with redis.Redis(port=redis_process.port) as link:
        link.flushall()
    return f"redis://127.0.0.1:{redis_process.port}/0"


@pytest.fixture(scope="session")
def s3_process() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_environment(s3_process: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment in which `s3://` means the local server; returns its endpoint."""
    endpoint = f"http://127.0.0.1:{s3_process.port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    return endpoint


@pytest.fixture
def s3_url(s3_environment: str) -> str:
    """A bucket that is there and empty, and a prefix in it."""
    name = f"bucket{next(_numbers)}"
    import urllib.request

    request = urllib.request.Request(f"{s3_environment}/{name}", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    # A neighbour outside the prefix, which no store may ever see.
    obstore.put(S3Store(name), "a" * 64, b"neighbour")
    return f"s3://{name}/prompts/production"
