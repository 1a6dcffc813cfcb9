"""A task trained again by what the library keeps: on the rows of today, and in place only where it is as good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softprompt import retrain
from softprompt.errors import ConfigError, DataError, FingerprintMismatch
from softprompt.library.library import Library
from softprompt.progress import Mute
from tests.commands import Run
from tests.lifecycle.rows import ROWS, data_file
from tests.models import make_base, some_prompt, steerable_base


def test_the_same_rows_make_the_same_prompt(library: Library) -> None:
    made = retrain("kind", library=library, progress=Mute())
    assert (made.old_version, made.new_version, made.old, made.value, made.promoted) == (1, 2, 1.0, 1.0, True)
    assert made.reason.startswith("no row has changed since; as good")
    versions = library.registry.versions("kind")
    assert versions[0].digest == versions[1].digest
    assert library.registry.aliases.of("kind") == {"production": 2}


def test_other_rows_are_learnt_and_the_old_version_is_judged_on_the_same(library: Library, tmp_path: Path) -> None:
    data_file(tmp_path, [row | {"label": "no" if row["label"] == "yes" else "yes"} for row in ROWS])
    made = retrain("kind", library=library, progress=Mute())
    assert (made.old, made.value, made.promoted) == (0.0, 1.0, True)
    assert "data changed since: train" in made.reason
    assert library.registry.resolve("kind").number == 2


def test_worse_rows_are_trained_and_not_promoted(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(row | {"label": "no" if row["label"] == "yes" else "yes"}) + "\n" for row in ROWS))
    made = retrain("kind", data=file, library=library, progress=Mute())
    assert (made.old, made.value, made.promoted) == (1.0, 0.0, False)
    assert "not promoted: accuracy 0.0000 on 4 rows" in made.reason
    assert library.registry.resolve("kind").number == 1  # pinned before the other one was there
    assert library.registry.aliases.of("kind") == {"production": 1}


def test_what_is_wrong_is_told_and_nothing_changes(library: Library, tmp_path: Path) -> None:
    library.publish(some_prompt(steerable_base(), "bare").to_bytes(), base="x/y")
    with pytest.raises(ConfigError, match="bare@1 came without the task file"):
        retrain("bare", library=library, progress=Mute())
    with pytest.raises(DataError, match=r"none\.jsonl"):
        retrain("kind", data=tmp_path / "none.jsonl", library=library, progress=Mute())
    with pytest.raises(FingerprintMismatch):
        retrain("kind", base=make_base("llama"), library=library, progress=Mute())
    assert library.registry.aliases.of("kind") == {}
    assert len(library.registry.versions("kind")) == 1


def test_the_commands(run: Run, library: Library, other_folder: Path) -> None:
    home = ["--home", str(library.home), "--json"]
    (row,) = run("retrain", "kind", *home).rows
    assert (row["old_version"], row["new_version"], row["promoted"]) == (1, 2, True)
    (moved,) = run("upgrade", "kind", "--to", other_folder, *home).rows
    names = ("task", "old_version", "new_version", "old", "recycled", "value", "promoted", "reason")
    assert set(names) <= moved.keys()
    assert (moved["old_version"], moved["new_version"], moved["old"]) == (2, 3, 1.0)
    assert "nothing to carry over" in run("upgrade", "--to", other_folder, "--home", library.home).out
