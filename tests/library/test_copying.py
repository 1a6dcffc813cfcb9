"""Copies of a library: what the target holds already is never lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from softprompt.errors import LibraryError
from softprompt.jobs.batches import Batches
from softprompt.jobs.uploads import Uploads
from softprompt.library import personal, tenants
from softprompt.library.library import Library
from softprompt.registry import tables
from softprompt.registry.traffic.feedback import Said
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window
from tests.commands import Run
from tests.library_contract import BASE
from tests.library_data import make_prompt, state_of


def test_a_target_with_uploads_and_no_tasks_yet_keeps_them(tmp_path: Path) -> None:
    with Library.open(tmp_path / "source") as library, Library.open(tmp_path / "target") as target:
        library.publish(make_prompt(), base=BASE)
        upload = Uploads(target).add(b'{"text": "red", "label": "yes"}\n', "rows.jsonl")
        with pytest.raises(LibraryError, match="has files already"):
            library.copy(tmp_path / "target")
        assert Uploads(target).get(upload.name) == upload


def content(home: Path) -> dict[str, object]:
    """What a copy brings over: the registry's rows and the blobs."""
    state = state_of(home)
    return {name: data for name, data in state.items() if name.startswith("blobs")} | {"rows": sorted(state["registry.db"])}


def test_a_backup_is_refreshed_and_told_what_is_new(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home", actor="me") as library:
        for seed in (0, 1, 2):
            library.publish(make_prompt(seed=seed), base=BASE, tags=["t"])
        library.promote("trec6@1")
        library.promote("trec6@1", "old")
        library.registry.keys.create("k", ["read"])
        first = library.copy(tmp_path / "copy")
        assert (first.blobs, first.present, first.changed, first.left) == (3, 0, (), 0)
        assert first.added == {"versions": 3, "aliases": 2, "tags": 3, "keys": 1}
        same = library.copy(tmp_path / "copy")
        assert (same.blobs, same.present, same.changed, same.left) == (0, 3, (), 3)
        assert set(same.added.values()) == {0}

        library.publish(make_prompt("words"), base=BASE)
        library.promote("trec6@2")
        library.promote("trec6@2", "staging")
        library.registry.delete("trec6@1", force=True)
        library.registry.delete("trec6@3")
        library.registry.tag("trec6@2", remove=["t"], add=["u"])
        library.registry.keys.revoke("k")
        report = library.copy(tmp_path / "copy")
        assert report.added == {"versions": 1, "aliases": 1, "tags": 1, "keys": 0}
        assert report.changed == (
            "default/trec6@1 deleted",
            "default/trec6@3 deleted",
            "default/trec6: old 1 -> none",
            "default/trec6: production 1 -> 2",
            "default/trec6@2: tag t removed",
            "default's key 'k' (1) revoked",
        )
        assert (report.blobs, report.present, report.left) == (1, 3, 1)
        library.restore("trec6@3")
        assert library.copy(tmp_path / "copy").changed == ("default/trec6@3 restored",)
    assert content(tmp_path / "copy") == content(tmp_path / "home")
    with Library.open(tmp_path / "copy") as copied:
        assert copied.verify().row()["ok"]


@pytest.mark.parametrize("change", ["publish", "promote", "tag", "delete", "key", "other"])
def test_a_library_with_changes_of_its_own_is_no_former_copy(tmp_path: Path, change: str) -> None:
    with Library.open(tmp_path / "home", actor="me") as library:
        library.publish(make_prompt(), base=BASE)
        library.publish(make_prompt(seed=1), base=BASE)
        library.copy(tmp_path / "copy")
        if change == "other":
            shutil.rmtree(tmp_path / "copy")
        with Library.open(tmp_path / "copy", actor="you") as copied:
            changes: dict[str, Callable[[], object]] = {
                "publish": lambda: copied.publish(make_prompt(seed=2), base=BASE),
                "promote": lambda: copied.promote("trec6@1"),
                "tag": lambda: copied.registry.tag("trec6@1", add=["x"]),
                "delete": lambda: copied.registry.delete("trec6@1"),
                "key": lambda: copied.registry.keys.create("k", ["read"]),
                "other": lambda: copied.publish(make_prompt("another"), base=BASE),
            }
            changes[change]()
        library.publish(make_prompt(seed=3), base=BASE)
        before = content(tmp_path / "copy")
        with pytest.raises(LibraryError, match=r"is no former copy of this library: only there was .* done, at .* by you"):
            library.copy(tmp_path / "copy")
    assert content(tmp_path / "copy") == before


def test_an_old_backup_is_not_put_over_the_library_that_went_on(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt(), base=BASE)
        library.copy(tmp_path / "copy")
        library.publish(make_prompt(seed=1), base=BASE)
    before = content(tmp_path / "home")
    with (
        Library.open(tmp_path / "copy") as copied,
        pytest.raises(LibraryError, match="where that one is the newer, copy the other"),
    ):
        copied.copy(tmp_path / "home")
    assert content(tmp_path / "home") == before


def test_the_command_tells_it_too(run: Run, home: Path, tmp_path: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt(), base=BASE)
        library.promote("trec6@1")
        assert run("library", "copy", "--to-home", tmp_path / "copy", "--json").rows[0]["added"]["versions"] == 1
        library.publish(make_prompt(seed=1), base=BASE)
        library.promote("trec6@2")
        shown = run("library", "copy", "--to-home", tmp_path / "copy")
        assert "default/trec6: production 1 -> 2" in shown.out
        assert max(map(len, shown.out.splitlines())) <= 80


def test_what_clients_said_in_a_former_copy_is_not_lost(tmp_path: Path) -> None:
    said = Said("trec6", "r1", 1, correction={"text": "red", "label": "yes"})
    with Library.open(tmp_path / "home") as library, Library.open(tmp_path / "copy", actor="you") as copied:
        library.publish(make_prompt(), base=BASE)
        library.registry.feedback.add(replace(said, name="r0"))
        library.copy(tmp_path / "copy")
        library.registry.feedback.add(replace(said, name="r2"))
        library.copy(tmp_path / "copy")
        assert len(copied.registry.feedback.corrections("trec6")) == 2
        copied.registry.feedback.add(said)
        library.publish(make_prompt(seed=1), base=BASE)
        with pytest.raises(
            LibraryError, match=r"has feedback of its own: on 'r1' of task 'trec6', at .* by you, and a copy w"
        ):
            library.copy(tmp_path / "copy")
        assert len(copied.registry.feedback.corrections("trec6")) == 3


def test_what_the_source_has_erased_goes_from_a_former_copy(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library, Library.open(tmp_path / "copy") as copied:
        for each in (library, library.for_tenant("acme")):
            each.publish(make_prompt(), base=BASE)
            personal.publish(each, "trec6", [("ann", make_prompt(seed=1))], base=BASE)
            each.registry.feedback.add(Said("trec6", "r1", 1, user="ann", comment="no"))
            each.registry.feedback.add(Said("trec6", "r2", 1, comment="yes"))
        library.copy(tmp_path / "copy")
        personal.erase(library, "trec6", "ann")
        tenants.erase(library, "acme")
        library.copy(tmp_path / "copy")
        with copied.registry.database.read() as connection:
            assert connection.execute(sa.select(tables.feedback.c.name)).scalars().all() == ["r2"]


def test_what_servers_of_a_former_copy_saw_stays_there(tmp_path: Path) -> None:
    window = Window("s", 5, {}, "2099-01-01T00:00:00Z", "2099-01-01T00:00:00Z")
    with Library.open(tmp_path / "home") as library, Library.open(tmp_path / "copy") as copied:
        library.publish(make_prompt("gone"), base=BASE)
        library.for_tenant("acme").publish(make_prompt(), base=BASE)
        library.copy(tmp_path / "copy")
        for each in (copied, copied.for_tenant("acme")):
            task = "gone" if each is copied else "trec6"
            each.registry.windows.store("s", {(task, 1): window})
            each.registry.reviews.add(task, [Review(0, task, 1, "red", "yes", 0.3, "no")])
        library.registry.reviews.add("gone", [Review(0, "gone", 1, "blue", "yes", 0.3)])
        tenants.erase(library, "acme")
        library.copy(tmp_path / "copy")
        assert [(one.text, one.answer) for one in copied.registry.reviews.of("gone")] == [("red", "no")]
        assert copied.registry.windows.of(copied.registry.resolve("gone")) == [window]
        for table in (tables.reviews, tables.windows):
            with copied.registry.database.read() as connection:
                assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 1


def test_batches_stay_with_their_home(tmp_path: Path) -> None:
    """Their files do, and a batch that waits would be answered by nobody in the copy; those of a target are not lost."""
    asked = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}'
    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt(), base=BASE)
        Batches(library).create(Uploads(library).add(asked, "asked.jsonl", "batch").name, "/v1/embeddings")
        library.copy(tmp_path / "copy")
    with Library.open(tmp_path / "copy") as copy:
        assert Batches(copy).page().rows == []
    with Library.open(tmp_path / "source") as library, Library.open(tmp_path / "target") as target:
        library.publish(make_prompt(), base=BASE)
        file = Uploads(target).add(asked, "asked.jsonl", "batch").name
        batch, _ = Batches(target).create(file, "/v1/embeddings")
        Uploads(target).delete(file)
        with pytest.raises(LibraryError, match="has batches already"):
            library.copy(tmp_path / "target")
        assert Batches(target).get(batch.name) == batch
