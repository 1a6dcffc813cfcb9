"""The registry keeps its contract on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from softprompt.errors import LibraryError, RegistryError
from softprompt.library.library import Library
from softprompt.registry.registry import Registry
from softprompt.registry.traffic.feedback import Said
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window
from tests.library_data import make_prompt
from tests.registry_contract import RegistryContract, publish
from tests.services.servers import Server, postgres_server, postgres_url

pytestmark = pytest.mark.services


class TestPostgres(RegistryContract):
    @pytest.fixture
    def url(self, postgres_database: Callable[[], str]) -> str:
        return postgres_database()


def test_a_missing_database_is_told(postgres: Server) -> None:
    with pytest.raises(RegistryError, match=r"does not exist; create it first, or mend the URL"):
        Registry.open(postgres_url(postgres.port, "nowhere"))


def test_no_right_to_make_tables_is_told(postgres: Server, postgres_database: Callable[[], str]) -> None:
    url = postgres_database()
    with psycopg.connect(url, autocommit=True) as link:
        link.execute("DROP ROLE IF EXISTS weak")
        link.execute("CREATE ROLE weak LOGIN")
        link.execute(f"GRANT USAGE ON SCHEMA {url.rpartition('%3D')[2]} TO weak")
    with pytest.raises(RegistryError, match=r"permission denied.*grant the user the right"):
        Registry.open(url.replace("softprompt@", "weak@"))


def test_goes_away_and_comes_back() -> None:
    with postgres_server() as server:
        registry = Registry.open(postgres_url(server.port))
        publish(registry)
        server.stop()
        with pytest.raises(RegistryError, match="no server answers there; start PostgreSQL"):
            registry.resolve("trec6")
        server.start()
        assert registry.resolve("trec6").number == 1
        assert publish(registry, seed=1).number == 2
        registry.close()


def test_a_look_for_a_key_ends_where_another_holds_the_table(
    postgres_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server that has no bound of its own; what other reads take is not bound by it."""
    monkeypatch.setattr("softprompt.registry.keys.LOOK_S", 0.2)
    url = postgres_database()
    with contextlib.closing(Registry.open(url)) as registry:
        made = registry.keys.create("ci", ["read"])
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE keys IN ACCESS EXCLUSIVE MODE")
            for question in (registry.keys.any_live, lambda: registry.keys.authenticate(made.secret)):
                with pytest.raises(RegistryError, match="statement timeout; the server is slow, or another holds a lock"):
                    question()
        assert registry.keys.authenticate(made.secret) == made.key
        with registry.database.read() as connection:
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"


def test_two_schemas_of_one_database_are_two_registries(postgres_database: Callable[[], str], tmp_path: Path) -> None:
    with Library.open(tmp_path / "home", registry=postgres_database()) as library:
        library.publish(make_prompt(), base="builtin/tiny")
        other = postgres_database()
        assert library.copy(registry=other).rows > 0
        with Library.open(tmp_path / "home", registry=other) as copied:
            copied.registry.reviews.add("trec6", [Review(0, "trec6", 1, "red", "yes", 0.3, "no")])
            window = Window("s", 5, {}, "2099-01-01T00:00:00Z", "2099-01-01T00:00:00Z")
            copied.registry.windows.store("s", {("trec6", 1): window})
            assert library.copy(registry=other).rows > 0
            assert [row.answer for row in copied.registry.reviews.of("trec6")] == ["no"]
            assert copied.registry.windows.of(copied.registry.resolve("trec6")) == [window]
            copied.registry.reviews.add("trec6", [Review(0, "trec6", 1, "blue", "yes", 0.3)])
            copied.registry.feedback.add(Said("trec6", "r1", 1, outcome=1.0))
            with pytest.raises(LibraryError, match="has feedback of its own: on 'r1' of task 'trec6'"):
                library.copy(registry=other)
    with Library.open(tmp_path / "home", registry=other) as library:
        assert library.publish(make_prompt(), base="builtin/tiny").number == 2
