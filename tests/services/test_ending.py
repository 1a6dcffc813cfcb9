"""A registry on PostgreSQL that hangs holds up no server that is to end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from softprompt.bases.options import BaseOptions
from softprompt.errors import RegistryError
from softprompt.http import server
from softprompt.http.opening import Settings, bind
from softprompt.jobs.records import place_of, unfinished
from softprompt.library.library import Library
from softprompt.serving.service import AsyncService
from tests.fake_engine import FakeEngine
from tests.http_server import fill
from tests.models import make_base


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else can read or write any table."""
    with psycopg.connect(url) as link:
        names = [row[0] for row in link.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
        link.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
        yield


def waiting_in(url: str, count: int) -> None:
    """Return once so many statements wait for a lock."""
    with psycopg.connect(url, autocommit=True) as link:
        statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while (link.execute(statement).fetchone() or (0,))[0] < count:
            pass


def test_what_waits_behind_a_lock_is_cut_and_connects_anew(postgres_database: Callable[[], str], tmp_path: Path) -> None:
    url = postgres_database()
    with Library.open(tmp_path / "home", registry=url) as library:
        place_of(library.home)
        errors: list[Exception] = []

        def ask() -> None:
            try:
                unfinished(library)
            except RegistryError as error:
                errors.append(error)

        with locked(url):
            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            waiting_in(url, 3)
            library.registry.database.cut()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        assert len(errors) == 3
        assert not unfinished(library)


def test_a_machine_that_is_gone_is_asked_for_while_an_answer_is_waited_for(
    postgres_database: Callable[[], str], tmp_path: Path
) -> None:
    with (
        Library.open(tmp_path / "home", registry=postgres_database()) as library,
        library.registry.database.read() as connection,
    ):
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.fromfd(driver.fileno(), socket.AF_INET, socket.SOCK_STREAM) as link:
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_a_server_ends_though_its_registry_hangs(
    postgres_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, base = postgres_database(), make_base("llama")
    made: list[server.Server] = []
    make_server = server.make_server
    monkeypatch.setattr(server, "make_server", lambda *a, **k: made.append(make_server(*a, **k)) or made[-1])
    monkeypatch.setattr(server, "END_S", 0.0)
    monkeypatch.setattr("softprompt.jobs.starter.LOOK_SECONDS", 0.05)
    settings = Settings(base=BaseOptions(source=base.address), grace_s=1.0)
    with Library.open(tmp_path / "home", registry=url) as library, bind("127.0.0.1", 0) as bound:
        fill(library, base)
        place_of(library.home)
        service, ready = AsyncService(library, base, FakeEngine(context=base.context)), threading.Event()
        thread = threading.Thread(
            target=server.run, args=(service, library, settings, bound), kwargs={"on_ready": ready.set}, daemon=True
        )
        thread.start()
        assert ready.wait(60)
        with locked(url):
            waiting_in(url, 1)
            made[0].end()
            thread.join(60)
            assert not thread.is_alive()
    assert "its connections are cut" in caplog.text
