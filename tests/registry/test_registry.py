"""The registry on SQLite: the contract, and what only a file can suffer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from softprompt.errors import NameRefused, RegistryError
from softprompt.registry import database
from softprompt.registry.registry import Registry
from softprompt.registry.tables import REVISIONS, VERSION_TABLE
from tests.registry_contract import RegistryContract, publish


class TestSqlite(RegistryContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/registry.db"


def test_every_revision_has_its_file_in_order() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS


PUBLISHES = """
import sys
from softprompt.library.library import Library
from tests.library_data import make_prompt
with Library.open(sys.argv[1]) as library:
    for step in range(40):
        library.publish(make_prompt(seed=int(sys.argv[2]) * 1000 + step), base="builtin/tiny")
"""


def test_two_processes_make_and_fill_one_file(tmp_path: Path) -> None:
    from softprompt.library.library import Library

    commands = [[sys.executable, "-c", PUBLISHES, str(tmp_path / "home"), place] for place in "12"]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with Library.open(tmp_path / "home") as library:
        assert [version.number for version in library.registry.versions("trec6")] == list(range(1, 81))
        assert not library.verify().problems


def test_a_writer_waits_and_then_says_who_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/registry.db"
    first, second = Registry.open(url), Registry.open(url)
    publish(first)
    with first.database.write():
        assert second.resolve("trec6").number == 1, "readers do not wait"
        with pytest.raises(RegistryError, match="another process has been writing"):
            publish(second)
    assert publish(second).number == 2
    first.close()
    second.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "nonsense",
        "",
        "postgresql",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_wrong_urls_are_refused(url: str) -> None:
    with pytest.raises(NameRefused, match="registry URL"):
        Registry.open(url)


def test_no_password_in_messages() -> None:
    for url in (
        "mysql://user:hunter2@host/db",
        "postgresql://user:hunter2@127.0.0.1:1/db",
        "postgresql://u:hunter2@[x/db",
    ):
        with pytest.raises((NameRefused, RegistryError)) as caught:
            Registry.open(url)
        assert "hunter2" not in str(caught.value)


def test_no_server_is_told_with_the_mend() -> None:
    with pytest.raises(RegistryError, match=r"refused.*start PostgreSQL or mend the URL"):
        Registry.open("postgresql://user@127.0.0.1:1/db")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="does not exist; create it"):
        Registry.open(f"sqlite:///{tmp_path}/nowhere/registry.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("this is a diary, not a database" * 100)
    with pytest.raises(RegistryError, match="damaged or is something else"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


@pytest.mark.parametrize("how", ["cut", "revision"])
def test_a_damaged_file_is_told_with_the_mend(tmp_path: Path, how: str) -> None:
    file = tmp_path / "registry.db"
    registry = Registry.open(f"sqlite:///{file}")
    publish(registry)
    if how == "revision":
        with registry.database.write() as connection:
            connection.exec_driver_sql(f"DELETE FROM {VERSION_TABLE}")
    registry.close()
    if how == "cut":
        file.write_bytes(file.read_bytes()[:6000])
    with pytest.raises(RegistryError, match=r"is damaged; put back a copy of it \(see docs/library.md"):
        Registry.open(f"sqlite:///{file}")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "registry.db").mkdir()
    with pytest.raises(RegistryError, match="check that the folder exists and that you may write"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


UNPRIVILEGED = """
import os, sys
from softprompt.errors import RegistryError
from softprompt.registry.registry import Registry
from tests.registry_contract import publish
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    publish(Registry.open("sqlite:///" + sys.argv[1]))
except RegistryError as error:
    assert "you may" in str(error), error
else:
    raise SystemExit("not refused")
"""


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Registry.open(f"sqlite:///{folder}/registry.db").close()
        for mode in (0o444, 0):
            (Path(folder) / "registry.db").chmod(mode)
            Path(folder).chmod(0o555)
            command = [sys.executable, "-c", UNPRIVILEGED, f"{folder}/registry.db"]
            done = subprocess.run(command, capture_output=True, text=True)
            Path(folder).chmod(0o755)
            assert done.returncode == 0, done.stderr


def test_odd_characters_in_the_path(tmp_path: Path) -> None:
    from softprompt.library.library import Library
    from tests.library_data import make_prompt

    home = tmp_path / "100% mine? #1 & ünïcode"
    with Library.open(home) as library:
        library.publish(make_prompt(), base="builtin/tiny")
    assert sorted(path.name for path in home.iterdir()) == ["blobs", "blobs.tmp", "registry.db"]
