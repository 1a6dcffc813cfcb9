"""Homes: a wrong one is told and not made, one that cannot be written is read, one with secrets is its user's alone."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

import softprompt
from softprompt.errors import LibraryError, NotFound, ReadOnly, RegistryError
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from softprompt.registry import tables
from tests.commands import Run
from tests.library_data import make_prompt, state_of

READING = [
    ["list"],
    ["show", "t"],
    ["audit"],
    ["predict", "t", "text"],
    ["evaluate", "t", "--data", "rows.jsonl"],
    ["export", "t", "out"],
    ["promote", "t@1"],
    ["rollback", "t"],
    ["tag", "t@1", "x"],
    ["delete", "t@1"],
    ["restore", "t@1"],
    ["library", "verify"],
    ["library", "rebind", "builtin/tiny"],
    ["library", "gc"],
    ["library", "gc", "--yes"],
    ["library", "stats"],
    ["library", "copy", "--to-home", "copy"],
    ["keys", "list"],
    ["keys", "revoke", "x"],
    ["personalize", "t", "--list"],
    ["upgrade", "--to", "builtin/tiny"],
    ["retrain", "t"],
    ["inspect", "t"],
    ["suite", "run", "t", "--suite", "s.yaml"],
    ["suite", "show", "t"],
    ["suite", "list", "t"],
    ["suite", "drop", "t", "--suite", "s"],
    ["report", "t"],
    ["diagnose", "t"],
    ["drift", "t"],
    ["review", "t"],
    ["jobs", "list"],
    ["jobs", "show", "x"],
    ["jobs", "cancel", "x"],
    ["jobs", "pause", "x"],
    ["jobs", "resume", "x"],
    ["combine", "x@1", "x@2"],
    ["correct", "t"],
    ["ab", "start", "t"],
    ["ab", "status", "t"],
    ["ab", "change", "t", "--weight", "0.5"],
    ["ab", "stop", "t"],
    ["tenant", "export", "t", "out"],
    ["bundle", "out.bundle", "t"],
    ["push", "t", "me/t"],
    ["tenant", "erase", "t"],
]
"""Every command that needs a library that is there; `test_every_command_is_of_one_kind` sees to it."""

MAKING = ["train", "distill", "sweep", "import", "keys create", "demo", "serve", "deploy", "unbundle", "pull"]
APART = ["init", "import-openai", "compare", "doctor", "base show", "base verify", "base list"]


def test_every_command_is_of_one_kind() -> None:
    from softprompt.cli.app import app

    names = [command.name for command in app.registered_commands]
    names += [
        f"{group.name} {command.name or command.callback.__name__}"  # type: ignore[union-attr]
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands  # type: ignore[union-attr]
    ]
    groups = ("library", "keys", "jobs", "suite", "ab", "tenant")
    reading = {" ".join(args[:2]) if args[0] in groups else args[0] for args in READING}
    assert {name for name in names if name} - reading - {*MAKING, *APART} == set()


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_a_wrong_home_is_told_and_not_made(run: Run, home: Path, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    monkeypatch.chdir(home.parent)
    before = sorted(os.listdir(home.parent))
    message = run(*args).refused()
    assert f"there is no library in {home}, which is no folder; name its home with --home or SOFTPROMPT_HOME" in message
    assert sorted(os.listdir(home.parent)) == before
    home.mkdir()
    assert "which holds no registry.db" in run(*args).refused()
    assert os.listdir(home) == []


def test_the_nearest_library_is_named(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Library.open(home).close()
    assert f"; there is one in {str(home)!r}; name" in run("--home", f"{home}s", "list").refused()
    assert f"; there is one in {str(home)!r}; name" in run("--home", home / "blobs", "list").refused()
    monkeypatch.chdir(home.parent)
    monkeypatch.delenv("SOFTPROMPT_HOME")
    home.rename(home.parent / "softprompt-home")
    assert "softprompt-home" in run("--home", home.parent, "list").refused()


def test_from_python_it_is_made_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="there is no library in"):
        Library.open(tmp_path / "home", create=False)
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    with pytest.raises(NotFound, match="there is no library in"):
        softprompt.predict(["text"], "task")
    assert not (tmp_path / "home").exists()
    url = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(NotFound, match="there is no registry"):
        Library.open(tmp_path / "home", registry=url, create=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "none.db").touch()
    with pytest.raises(NotFound, match="it has no tables"):
        Library.open(tmp_path / "home", registry=url, create=False)
    Library.open(tmp_path / "home").close()
    Library.open(tmp_path / "home", create=False).close()


def test_a_lost_registry_is_not_a_library_that_never_was(run: Run, home: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt(), base="b")
    for path in home.glob("registry.db*"):
        path.unlink()
    before = state_of(home)
    assert (
        "has blobs and no registry.db: the registry was lost, or is elsewhere; put it back from a copy"
        in run("list").refused()
    )
    assert state_of(home) == before


# Where nobody may write


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that every user may read; pytest's own are their owner's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def shelve(home: Path) -> None:
    """Let everybody read a home, and nobody write to it."""
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


UNPRIVILEGED = """
import os, sys
import softprompt.jobs.jobs
from softprompt.errors import RegistryError, StoreError
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.records import unfinished
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
b"x".decode("utf-8-sig")  # which is a module, too
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
def opened(create=False):
    return Library.open(sys.argv[1], create=create, actor="reader")
"""


def as_reader(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a user who may not write to the home; modules are loaded before it is that user."""
    command = [sys.executable, "-c", UNPRIVILEGED + code, str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_home_that_cannot_be_written_is_read(shelf: Path) -> None:
    home = shelf / "home"
    with Library.open(home) as library:
        for seed in (0, 1):
            library.publish(make_prompt(seed=seed), base="b")
        library.promote("trec6@1")
    shelve(home)
    before = {path: path.stat().st_mtime_ns for path in (home, *home.rglob("*"))}
    code = """
for create in (True, False):
    with opened(create) as library:
        assert library.registry.resolve("trec6").number == 1
        assert len(library.read("trec6@2")) > 100
        assert library.verify().row()["ok"]
        assert library.stats()["blobs"] == 2
        assert library.registry.state()[0] > 0
        assert not library.registry.keys.any_live()
        assert Jobs(library).page().rows == Uploads(library).page().rows == []
        assert not unfinished(library)
        try:
            Uploads(library).add(b'{"text": "a", "label": "b"}\\n', "rows.jsonl")
        except (StoreError, RegistryError) as error:
            assert "you may not" in str(error), error
        else:
            raise SystemExit("not refused")
        for attempt in (
            lambda: library.promote("trec6@2"), lambda: library.registry.keys.create("k", ["read"]),
            lambda: library.registry.tag("trec6@1", add=["x"]), lambda: library.registry.delete("trec6@2"),
        ):
            try:
                attempt()
            except RegistryError as error:
                assert "can only be read here, and nothing was changed: you may not write" in str(error), error
            else:
                raise SystemExit("not refused")
"""
    done = as_reader(code, home)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (home, *home.rglob("*"))} == before


def test_what_its_owner_has_not_put_into_the_file_yet_is_read_too(shelf: Path) -> None:
    """The log beside the file is read as well, while its owner writes on and after he was killed."""
    home = shelf / "home"
    with Library.open(home) as library:
        library.publish(make_prompt(), base="b")
        assert (home / "registry.db-wal").stat().st_size > 0
        shelve(home)
        code = """
with opened() as library:
    print(len(library.registry.versions("trec6")))
"""
        assert as_reader(code, home).stdout == "1\n"
        shutil.copytree(home, shelf / "killed")  # as a kill leaves it
    shelve(shelf / "killed")
    done = as_reader(code, shelf / "killed")
    assert done.stdout == "1\n", done.stderr


def test_an_old_registry_that_cannot_be_upgraded_is_told(shelf: Path) -> None:
    home = shelf / "home"
    Library.open(home).close()
    with closing(sqlite3.connect(home / "registry.db")) as link, link:
        link.execute("UPDATE softprompt_schema SET version_num = '0004'")
        link.execute("PRAGMA journal_mode=DELETE")
    shelve(home)
    done = as_reader("opened()", home)
    assert "must be upgraded, and can only be read here" in done.stderr


def _never(*args: object, **more: object) -> None:
    raise AssertionError("a base was loaded")


def test_commands_read_where_nobody_may_write(
    run: Run, home: Path, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softprompt.bases.base import FrozenBase
    from softprompt.registry import sqlite_file
    from softprompt.training.train import train
    from tests.models import some_prompt

    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "yes"}\n')
    with Library.open(home) as library:
        prompt = some_prompt(FrozenBase.load(str(base_folder)), "t", labels=("yes", "no"))
        library.publish(prompt.to_bytes(), base=str(base_folder))
    monkeypatch.setattr(sqlite_file, "_may_write", lambda path: False)
    before = state_of(home), sorted(os.listdir(home))
    for args in (
        *(
            ["list"],
            ["show", "t"],
            ["audit"],
            ["library", "verify"],
            ["library", "stats"],
            ["keys", "list"],
            ["jobs", "list"],
        ),
        *(["predict", "t", "a text"], ["evaluate", "t", "--data", str(tmp_path / "rows.jsonl")]),
        *(["export", "t", str(tmp_path / "out")], ["library", "gc"]),
    ):
        done = run(*args)
        assert done.code == 0, (args, done.err)
    for args in (
        ["promote", "t"],
        ["tag", "t@1", "x"],
        ["delete", "t@1"],
        ["keys", "create", "k"],
        ["import", "rows.jsonl"],
    ):
        assert run(*args).code == 1
    assert "can only be read here" in run("promote", "t").refused()
    assert "can only be read here" in run("keys", "create", "k").refused()
    monkeypatch.setattr(FrozenBase, "load", _never)  # what could not be kept is not begun
    task = tmp_path / "t.yaml"
    task.write_text(
        f"task: t\nbase: {base_folder}\ndata: {{train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl}}\n"
        "input: '{text}'\n"
        "target: ' {label}'\nlabels: ['yes', 'no']\nmetric: accuracy\n"
    )
    assert "can only be read here" in run("train", str(task)).refused()
    assert "can only be read here" in run("sweep", str(task), "seed=1,2").refused()
    with Library.open(home) as library, pytest.raises(ReadOnly):
        train(str(task), library=library)
    monkeypatch.undo()
    assert (state_of(home), sorted(os.listdir(home))) == before


def test_a_file_that_was_written_while_it_was_read_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.registry import sqlite_file

    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt(), base="b")
    monkeypatch.setattr(sqlite_file, "_may_write", lambda path: False)
    stamps = itertools.count()
    with Library.open(tmp_path / "home") as library:
        assert library.registry.resolve("trec6").number == 1
        monkeypatch.setattr(sqlite_file.SqliteFile, "stamp", lambda file: (next(stamps), 0))
        with pytest.raises(RegistryError, match="was written while it was read, by another; try again"):
            library.registry.resolve("trec6")
        logged = [False]  # by the end its writer has a log, out of which it wrote to the file
        monkeypatch.setattr(sqlite_file.SqliteFile, "has_log", lambda file: logged[0])

        def numbers() -> None:
            with library.registry.database.read() as connection:
                assert connection.execute(sa.select(tables.versions.c.number)).scalars().all() == [1]
                logged[0] = True

        with pytest.raises(RegistryError, match="was written while it was read, by another; try again"):
            numbers()


def test_who_may_only_read_sees_one_state_while_another_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.registry import sqlite_file

    with Library.open(tmp_path / "home") as owner:
        owner.publish(make_prompt(), base="b")
        monkeypatch.setattr(sqlite_file, "_may_write", lambda path: False)
        with Library.open(tmp_path / "home") as reader:
            assert reader.registry.database.file is not None
            assert reader.registry.database.file.has_log()
            counted = sa.select(sa.func.count()).select_from(tables.versions)
            with reader.registry.database.read() as connection:
                assert connection.execute(counted).scalar_one() == 1
                owner.publish(make_prompt(seed=1), base="b")
                assert connection.execute(counted).scalar_one() == 1  # a copy takes table after table
            assert [one.number for one in reader.registry.versions("trec6")] == [1, 2]


# Where there are secrets


def modes(home: Path) -> dict[str, int]:
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.glob("registry.db*")}
    return {"home": stat.S_IMODE(home.stat().st_mode), **files}


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
@pytest.mark.parametrize("there", [False, True])
def test_a_home_with_a_secret_is_its_users_alone_by_every_door(tmp_path: Path, run: Run, mask: int, there: bool) -> None:
    def make(name: str) -> Path:
        folder = tmp_path / name
        if there:  # made by the user, or by a version of before
            folder.mkdir(mode=0o777)
            sqlite3.connect(folder / "registry.db").close()
        return folder

    before = os.umask(mask)
    try:
        by_python, by_upload, by_command, copied = make("python"), make("upload"), make("command"), make("copied")
        with Library.open(by_python) as library, Library.open(by_upload) as other:
            library.publish(make_prompt(), base="b")
            library.registry.keys.create("k", ["read"])
            Uploads(other).add(b'{"text": "a", "label": "b"}\n', "rows.jsonl")
            library.copy(copied)
            assert run("--home", by_command, "keys", "create", "k").code == 0
            for home in (by_python, by_upload, by_command, copied):
                found = modes(home)
                assert found.pop("home") == 0o700, home
                assert set(found.values()) == {0o600}, (home, found)
            (upload,) = (by_upload / "files").iterdir()
            assert stat.S_IMODE(upload.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_registry_elsewhere_is_closed_too_and_its_folder_is_not_ours(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    url = f"sqlite:///{shared}/mine.db"
    with Library.open(tmp_path / "home", registry=url) as library:
        (tmp_path / "home").chmod(0o755)
        (shared / "mine.db").chmod(0o644)
        library.registry.keys.create("k", ["read"])
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
        assert stat.S_IMODE((shared / "mine.db").stat().st_mode) == 0o600
        assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_no_key_is_made_where_the_home_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library.open(tmp_path / "home") as library:
        (tmp_path / "home").chmod(0o755)

        def refuse(path: Path, mode: int) -> None:
            raise PermissionError(1, "Operation not permitted", str(path))

        monkeypatch.setattr(Path, "chmod", refuse)
        with pytest.raises(LibraryError, match="cannot be closed to other users: Operation not permitted; close it"):
            library.registry.keys.create("k", ["read"])
        assert library.registry.keys.list() == []


def test_a_server_closes_a_library_with_keys_that_was_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an older version has made; where that cannot be done, it serves all the same and says so."""
    from softprompt.http import opening

    told: list[str] = []
    monkeypatch.setattr(opening.log, "warning", lambda text, *values: told.append(text % values))
    with Library.open(tmp_path / "home") as library:
        (tmp_path / "home").chmod(0o755)
        opening.refuse_open_doors(library, "127.0.0.1")
        assert modes(tmp_path / "home")["home"] == 0o755, "there is no secret in it"
        library.registry.keys.create("k", ["read"])
        (tmp_path / "home").chmod(0o755)
        (tmp_path / "home" / "registry.db").chmod(0o644)
        opening.refuse_open_doors(library, "127.0.0.1")
        assert set(modes(tmp_path / "home").values()) == {0o700, 0o600}
        assert told == []
        (tmp_path / "home").chmod(0o755)

        def refuse(path: Path, mode: int) -> None:
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "chmod", refuse)
        opening.refuse_open_doors(library, "127.0.0.1")
        assert "cannot be closed to other users: Read-only file system" in told[0]
