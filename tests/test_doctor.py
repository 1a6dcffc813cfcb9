"""What `softprompt doctor` finds: nothing wrong on a sound machine, and each fault by its name."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from softprompt import doctor
from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.doctor import NOTE, OK, WRONG, Finding, examine, parameters
from softprompt.errors import RegistryError
from softprompt.library.library import Library
from tests.commands import Run
from tests.gguf_files import save_gguf
from tests.models import make_base, some_prompt


def found(check: str, base: BaseOptions | None = None, home: Path | None = None) -> Finding:
    """The finding of a check."""
    (one,) = (
        one
        for one in examine(lambda: Library.open(home, create=False), base or BaseOptions())
        if one.check.startswith(check)
    )
    return one


def test_a_sound_machine_has_nothing_wrong(run: Run, home: Path) -> None:
    with Library.open(home) as library:
        library.publish(some_prompt(make_base("llama"), "kind").to_bytes(), base="x/y")
    rows = run("doctor", "--json").rows
    assert [row["check"] for row in rows if row["state"] == WRONG] == []
    by_check = {row["check"]: row for row in rows}
    assert by_check["library"]["found"].startswith("1 task in ")
    assert metadata.version("torch") in by_check["packages"]["found"]
    assert by_check["base builtin/tiny"]["state"] == OK


def test_what_is_wrong_fails_the_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    answer = run("doctor", "--base", str(tmp_path / "plain"), "--json")
    assert answer.code == 1
    (wrong,) = (row for row in map(json.loads, answer.out.splitlines()) if row["state"] == WRONG)
    assert wrong["found"].endswith("it is empty; save a model there with save_pretrained")


def test_each_extra_of_the_package_is_known() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev"}


def test_packages_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        if name in ("peft", "blake3"):
            raise metadata.PackageNotFoundError(name)
        return "4.0" if name == "transformers" else metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    wrong = found("packages", home=tmp_path)
    assert wrong.state == WRONG
    (needed,) = (line for line in metadata.requires("softprompt") or () if line.startswith("transformers"))
    asked = needed.removeprefix("transformers")
    assert wrong.found == f"blake3 is not installed; transformers 4.0 is here, and {asked} is needed"
    lacking = found("extra peft", home=tmp_path)
    assert (lacking.state, lacking.mend) == (NOTE, "pip install 'softprompt[peft]', if you need it")


def test_a_library_that_is_not_there_is_a_note_and_one_that_cannot_be_opened_is_wrong(tmp_path: Path) -> None:
    none = found("library", home=tmp_path / "none")
    assert none.state == NOTE
    assert not (tmp_path / "none").exists()
    (tmp_path / "registry.db").write_text("no database at all, but long enough to be looked at\n" * 100)
    with pytest.raises(RegistryError):
        Library.open(tmp_path, create=False)
    assert found("library", home=tmp_path).state == WRONG


def test_a_base_that_does_not_fit_is_told_with_both_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: (30e6, 60e6))
    tight = found("base", BaseOptions(dtype="float32"), tmp_path)
    assert tight.state == WRONG
    assert "24.1 MB in float32, and 30 MB are free" in tight.found
    monkeypatch.setattr(doctor, "free_memory", lambda: (40e6, 60e6))
    assert found("base", BaseOptions(dtype="float32"), tmp_path).state == OK
    hub = found("base", BaseOptions(source="org/model"), tmp_path)
    assert (hub.state, "hub id" in hub.found) == (NOTE, True)


def test_threads_beyond_the_cores_and_a_missing_compiler_are_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 999)
    assert found("processor", home=tmp_path).state == NOTE
    monkeypatch.setattr("shutil.which", lambda *_: None)
    assert found("compiler", home=tmp_path).state == NOTE


def test_numbers_are_counted_as_the_loaded_base_has_them(tmp_path: Path) -> None:
    base = FrozenBase.load("builtin/tiny")
    assert base.path is not None
    assert parameters(base.path, {}) == base.params
    file = save_gguf(tmp_path / "small.gguf")
    assert parameters(file, {}) == FrozenBase.load(str(file)).params
