"""The library at home: a folder of blobs and SQLite. And what the whole of it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softprompt.errors import LibraryError, NameRefused, RegistryError, StoreError
from softprompt.library import Library
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
from softprompt.library import Library
from tests.library_data import make_prompt
with Library.open(sys.argv[1]) as library:
    library.publish(make_prompt(), base="builtin/tiny", tags=["x"])
    library.promote("trec6@1"); library.read("trec6"); library.tasks(); library.verify(); library.gc()
    library.copy(sys.argv[1] + "-copy"); library.registry.create_key("ci", ["read"])
import softprompt.stores.bucket, softprompt.stores.redis_server
loaded = {"torch", "transformers", "alembic"} & set(sys.modules)
assert not loaded, loaded
"""


def test_no_torch_anywhere_in_the_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
