"""Copies of a library: what the target holds already is never lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from softprompt.errors import LibraryError
from softprompt.jobs.batches import Batches
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
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
