"""Exports: whole or not at all, and over nothing but an earlier export of the same task."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, LibraryError
from softprompt.exchange import peft as writer
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.library.library import Library
from tests.commands import Run
from tests.library_data import make_prompt
from tests.models import save_base, some_prompt

PEFT_FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "softprompt_card.json"]


@pytest.fixture
def library(tmp_path: Path, base_folder: Path) -> Iterator[Library]:
    """Two tasks with a version each, and a second one of the first."""
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path / "home") as library:
        for task, seed in (("colours", 0), ("shapes", 1), ("colours", 2)):
            library.publish(some_prompt(base, task, seed=seed).to_bytes(), base=str(base_folder))
        yield library


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def base_here(folder: Path) -> None:
    save_base(folder)


def gguf_here(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(b"GGUF")


def adapter_here(folder: Path) -> None:
    for name in PEFT_FILES[1:3]:
        (folder / name).write_text("{}")


def notes_here(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("put", "message", "forms"),
    [
        (base_here, "holds a base", [Format.PEFT, Format.SOFTPROMPT]),
        (gguf_here, "holds a base", [Format.PEFT, Format.SOFTPROMPT]),
        (adapter_here, "holds an adapter", [Format.PEFT, Format.SOFTPROMPT]),
        (notes_here, r"holds notes\.txt, which softprompt did not export", [Format.PEFT]),
    ],
)
def test_what_softprompt_did_not_make_is_left_alone_without_force(
    library: Library, tmp_path: Path, put: Callable[[Path], None], message: str, forms: list[Format]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    put(folder)
    before = files_of(folder)
    for form in forms:
        with pytest.raises(LibraryError, match=message):
            export_prompt(library, "colours", folder, form)
    assert files_of(folder) == before
    done = export_prompt(library, "colours", folder, force=True)
    assert set(done.replaced) == set(before) & set(PEFT_FILES)
    kept = {name: data for name, data in before.items() if name not in done.replaced}
    assert {name: data for name, data in files_of(folder).items() if name not in PEFT_FILES} == kept
    assert import_prompt(library, folder, task="back").digest


def test_another_tasks_export_is_left_alone_and_ones_own_is_replaced(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = export_prompt(library, "colours@1", folder)
    assert (first.path, first.replaced) == (folder, ())
    again = export_prompt(library, "colours@2", folder)
    assert set(again.replaced) == set(PEFT_FILES)
    assert sorted(os.listdir(folder)) == PEFT_FILES
    before = files_of(folder)
    with pytest.raises(LibraryError, match="holds the export of task 'colours'; choose another folder, or add --force"):
        export_prompt(library, "shapes", folder)
    (folder / "more.txt").write_text("x")
    with pytest.raises(LibraryError, match=r"holds more\.txt beside the export of 'colours'"):
        export_prompt(library, "colours", folder)
    (folder / "more.txt").unlink()
    assert files_of(folder) == before
    assert import_prompt(library, folder, task="colours").digest == library.registry.resolve("colours@2").digest


def test_our_own_file_is_replaced_by_itself_alone(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    notes_here(folder)  # any folder will do for one more file
    done = export_prompt(library, "colours@1", folder, Format.SOFTPROMPT)
    assert done.replaced == ()
    assert export_prompt(library, "colours@1", folder, Format.SOFTPROMPT).replaced == ()
    done.path.write_bytes(make_prompt("colours"))
    with pytest.raises(LibraryError, match=r"has another colours@1\.safetensors"):
        export_prompt(library, "colours@1", folder, Format.SOFTPROMPT)
    assert done.path.read_bytes() == make_prompt("colours")
    assert export_prompt(library, "colours@1", folder, Format.SOFTPROMPT, force=True).replaced == (done.path.name,)


@pytest.mark.parametrize("there", [False, True])
def test_a_write_that_fails_leaves_no_part_of_an_adapter(library: Library, tmp_path: Path, there: bool) -> None:
    """Wherever the disk fails: what was there is there still, or no config is, so that nobody takes it for an adapter."""
    out, failed = tmp_path / "out", 0
    for fails in range(8):
        if there:
            export_prompt(library, "colours@1", out)
        before = files_of(out)
        with pytest.MonkeyPatch.context() as patch:
            left = iter([False] * fails + [True] + [False] * 9)
            for name in ("replace", "rename"):
                patch.setattr(Path, name, failing(getattr(Path, name), left))
            try:
                export_prompt(library, "colours@2", out)
            except LibraryError:
                failed += 1
                assert files_of(out) == before or "adapter_config.json" not in files_of(out)
        assert [
            name for name in [*os.listdir(tmp_path), *(os.listdir(out) if out.exists() else ())] if name.startswith(".")
        ] == []
        export_prompt(library, "colours@2", out)
        assert sorted(os.listdir(out)) == PEFT_FILES
        if not there:
            shutil.rmtree(out)
    assert failed >= 4


def failing(real: Any, now: Iterator[bool]) -> Any:
    def move(path: Path, target: Any) -> Any:
        if next(now):
            raise OSError(28, "No space left on device")
        return real(path, target)

    return move


def test_nothing_is_touched_before_all_of_it_is_written(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_prompt(library, "colours@1", tmp_path / "out")
    before = files_of(tmp_path / "out")

    def fail(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writer, "write_whole", fail)
    for folder in ("out", "new"):
        with pytest.raises(LibraryError, match="Input/output error"):
            export_prompt(library, "colours@2", tmp_path / folder)
    assert files_of(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def test_a_folder_behind_a_link_or_with_hidden_files_will_do(library: Library, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / ".gitkeep").write_text("")
    (tmp_path / "link").symlink_to("real")
    export_prompt(library, "colours", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path / "real")) == [".gitkeep", *PEFT_FILES]


def test_the_command_says_what_it_replaced(run: Run, library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert run("export", "colours", folder, "--json").rows[0]["replaced"] == []
    assert "holds the export of task 'colours'" in run("export", "shapes", folder).refused()
    done = run("export", "shapes", folder, "--force", "--json")
    assert set(done.rows[0]["replaced"]) == set(PEFT_FILES)
    names = "adapter_model.safetensors, README.md, softprompt_card.json, adapter_config.json"
    assert f"replaced in '{folder}': {names}" in done.err


def test_without_mlflow_a_model_of_it_is_refused(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"an MLflow model needs mlflow.*; pip install 'softprompt\[mlflow\]'"):
        export_prompt(library, "colours", tmp_path / "model", Format.MLFLOW)
    assert not (tmp_path / "model").exists()
