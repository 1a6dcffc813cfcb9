"""The library at home: a folder of blobs and SQLite. And what the whole of it refuses."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from softprompt.errors import LibraryError, NameRefused, RegistryError, StoreError
from softprompt.library.library import Library
from tests.library_contract import BASE, LibraryContract, Opener
from tests.library_data import make_prompt
from tests.store_contract import Damage


class TestAtHome(LibraryContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opener:
        return lambda: Library.open(tmp_path / "home")

    @pytest.fixture
    def damage(self, tmp_path: Path) -> Damage:
        return lambda digest, data: (tmp_path / "home" / "blobs" / digest).write_bytes(data) and None


def test_opens_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "named"))
    monkeypatch.setenv("SOFTPROMPT_STORE", "memory://by-environment")
    monkeypatch.setenv("SOFTPROMPT_REGISTRY", f"sqlite:///{tmp_path}/elsewhere.db")
    monkeypatch.setenv("SOFTPROMPT_ACTOR", "deployment")
    with Library.open() as library:
        assert library.home == tmp_path / "named"
        assert library.runs == tmp_path / "named" / "runs"
        assert library.publish(make_prompt(), base=BASE).actor == "deployment"
        assert library.store.shown == "memory://by-environment"
    assert (tmp_path / "elsewhere.db").exists()
    assert not (tmp_path / "named" / "registry.db").exists()
    monkeypatch.delenv("SOFTPROMPT_HOME")
    monkeypatch.delenv("SOFTPROMPT_REGISTRY")
    monkeypatch.chdir(tmp_path)
    with Library.open() as library:
        assert library.home == tmp_path / "softprompt-home"


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_a_home_is_its_users_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        Library.open(tmp_path / "new").close()
        (tmp_path / "shared").mkdir(mode=0o755)
        Library.open(tmp_path / "shared").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755 & ~mask  # it was there, and holds no secrets


def test_a_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with Library.open("~/prompts", store="~/blobs") as library:
        assert library.home == tmp_path / "prompts"
        assert library.store.shown == str(tmp_path / "blobs")
    assert not (tmp_path / "~").exists()


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(LibraryError, match=r"cannot create the home.*--home or SOFTPROMPT_HOME"):
        Library.open(tmp_path / "home")


@pytest.mark.parametrize("tenant", ["", "../other", "a/b", "a b"])
def test_wrong_tenants_are_refused(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(NameRefused, match="tenant"):
        Library.open(tmp_path / "home", tenant=tenant)


def test_a_store_or_registry_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        Library.open(tmp_path / "home", store=str(tmp_path / "file"))
    with pytest.raises(RegistryError):
        Library.open(tmp_path / "home", registry=f"sqlite:///{tmp_path}/nowhere/r.db")


def test_blobs_and_nothing_else_in_their_folder(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        digests = {library.publish(make_prompt(seed=seed), base=BASE).digest for seed in range(5)}
        assert {path.name for path in (tmp_path / "home" / "blobs").iterdir()} == digests


def test_a_lost_registry_loses_no_blob(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt(), base=BASE)
    for path in (tmp_path / "home").glob("registry.db*"):
        path.unlink()
    with Library.open(tmp_path / "home") as library:
        assert library.verify().unneeded == 1
        assert library.publish(make_prompt(), base=BASE).number == 1


WITHOUT_TORCH = """
import sys
from softprompt.library.library import Library
from tests.library_data import make_prompt
with Library.open(sys.argv[1]) as library:
    library.publish(make_prompt(), base="builtin/tiny", tags=["x"])
    library.promote("trec6@1"); library.read("trec6"); library.registry.tasks(); library.verify(); library.gc()
    library.copy(sys.argv[1] + "-copy"); library.registry.keys.create("ci", ["read"])
import softprompt.stores.bucket, softprompt.stores.redis_server
loaded = {"torch", "transformers", "alembic"} & set(sys.modules)
assert not loaded, loaded
"""


def test_no_torch_anywhere_in_the_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from softprompt.library.library import Library
from softprompt.registry.listing import Filters
from tests.library_data import make_prompt

home, fatal = sys.argv[1], 0
while True:
    fatal += 1
    child = os.fork()
    if child == 0:
        library = Library.open(home)
        count = 0

        def die(connection, *rest):
            global count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        for moment in ("before_cursor_execute", "commit"):
            sa.event.listen(library.registry.database.engine, moment, die)
        library.publish_all([make_prompt(task, seed) for seed, task in enumerate("aba")], base="builtin/tiny")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with Library.open(home) as library:
        tasks = [entry.task for entry in library.registry.tasks(Filters(every=True))]
        found = [version.ref for task in tasks for version in library.registry.versions(task)]
        assert not library.verify().problems
    if not os.WIFSIGNALED(status):
        break
    assert found == [], (fatal, found)
print(fatal, status, sorted(set(found)))
"""


def test_a_kill_at_any_statement_of_publishing_many_leaves_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    deaths, status, refs = done.stdout.split(maxsplit=2)
    assert int(deaths) > 3 * 5  # statements of each version, and the commit
    assert (status, refs.strip()) == ("0", "['a@1', 'a@2', 'b@1']")
