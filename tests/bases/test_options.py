"""One object says how a base is found and loaded; what messages say of options is so."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import typer.main

import softprompt.bases
from softprompt.bases.base import FrozenBase, base_of
from softprompt.bases.files.locate import commit_of, locate, split_revision
from softprompt.bases.options import COMMAND_OPTIONS, BaseOptions
from softprompt.cli.app import app
from softprompt.errors import BaseModelError
from softprompt.library.library import Library
from softprompt.progress import Advance, Silent
from softprompt.tasks.config.config import TaskConfig
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base
from tests.training.test_resume import make_task

OLD, NEW = "0" * 39 + "a", "0" * 39 + "b"


@pytest.fixture
def hub(tmp_path: Path, base_folder: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds two commits of `own/tiny`; its branch main is at the newer one."""
    repo = tmp_path / "hub" / "models--own--tiny"
    for commit, folder in ((OLD, base_folder), (NEW, other_folder)):
        shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repo / "refs" / name).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repo


# Options


def test_options_stand_over_what_is_named() -> None:
    named = BaseOptions(source="own/tiny", adapter="lora", trust_remote_code=True)
    assert BaseOptions().over(named) == named
    assert BaseOptions(dtype="float32").over(named) == BaseOptions(
        source="own/tiny", adapter="lora", trust_remote_code=True, dtype="float32"
    )
    assert BaseOptions(adapter="mine").over(named).adapter == "mine"
    assert BaseOptions(revision="v1").over(BaseOptions(source="own/tiny@main")).address == "own/tiny@v1"


def test_another_source_brings_nothing_of_the_one_that_was_named() -> None:
    named = BaseOptions(source="own/tiny", revision="v1", adapter="lora", trust_remote_code=True, quantization="int8")
    assert BaseOptions.of("builtin/tiny").over(named) == BaseOptions(source="builtin/tiny", quantization="int8")


def test_options_are_the_arguments_of_a_command_and_back() -> None:
    options = BaseOptions(dtype="bf16", device="cpu", quantization="int8", adapter="a folder", trust_remote_code=True)
    words = ["--dtype", "bf16", "--device", "cpu", "--quantization", "int8", "--base-adapter", "a folder"]
    assert options.arguments() == [*words, "--trust-remote-code"]
    assert BaseOptions(batch_invariant=True).arguments() == ["--batch-invariant"]
    assert BaseOptions(source="own/tiny").arguments() == []
    assert list(COMMAND_OPTIONS) == ["dtype", "device", "quantization", "adapter", "trust_remote_code", "batch_invariant"]


def test_an_unknown_field_is_no_option() -> None:
    with pytest.raises(TypeError, match="dtyp"):
        FrozenBase.load("builtin/tiny", dtyp="float32")


def test_a_loaded_base_is_used_as_it_is(base_folder: Path) -> None:
    base = make_base("llama")
    assert base_of(base, BaseOptions(source="builtin/tiny")) is base
    named = BaseOptions(source=str(base_folder))
    assert base_of(None, named).path == base_of(str(base_folder), BaseOptions()).path == base_folder
    narrow = base_of(BaseOptions(dtype="bfloat16"), named)
    assert (narrow.path, str(narrow.dtype)) == (base_folder, "torch.bfloat16")


def test_a_base_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_base("llama").fingerprint = "0" * 32  # type: ignore[misc]


def test_a_base_tells_its_architecture(base_folder: Path, run: Run) -> None:
    assert make_base("llama").architecture == "LlamaForCausalLM"
    (row,) = run("base", "show", base_folder, "--json").rows
    assert row["architecture"] == "LlamaForCausalLM"
    assert row["model_type"] == "llama"
    assert (row["path"], row["dtype"], row["context"]) == (str(base_folder), "float32", 96)


# Revisions


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("own/tiny", ("own/tiny", None)), ("own/tiny@v1", ("own/tiny", "v1")), ("gpt2@main", ("gpt2", "main")),
        ("own/tiny@refs/pr/1", ("own/tiny", "refs/pr/1")), ("./at@home", ("./at@home", None)),
        ("/at@home/tiny", ("/at@home/tiny", None)), ("~/at@home", ("~/at@home", None)), ("a/b/c@d", ("a/b/c@d", None)),
    ],
)  # fmt: skip
def test_a_revision_stands_behind_an_id(source: str, expected: tuple[str, str | None]) -> None:
    assert split_revision(source) == expected


def test_a_folder_with_an_at_in_its_path_stays_a_folder(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_folder, tmp_path / "me@home" / "tiny@v1")
    assert locate("me@home/tiny@v1") == tmp_path / "me@home" / "tiny@v1"
    base = FrozenBase.load("me@home/tiny@v1")
    assert (base.name, base.address, base.revision) == ("tiny@v1", str(tmp_path / "me@home" / "tiny@v1"), None)


@pytest.mark.parametrize(("asked", "commit"), [("", NEW), ("@main", NEW), ("@v1", OLD), (f"@{OLD}", OLD)])
def test_a_revision_is_loaded_and_its_commit_known(hub: Path, asked: str, commit: str) -> None:
    base = FrozenBase.load(f"own/tiny{asked}")
    assert base.path == hub / "snapshots" / commit
    assert (base.name, base.address, base.revision) == ("own/tiny", f"own/tiny{asked}", commit)
    assert base.provenance() == {"revision": commit}
    assert FrozenBase.load(base.address).fingerprint == base.fingerprint


def test_a_revision_is_a_field_too(hub: Path) -> None:
    base = FrozenBase.load("own/tiny", revision="v1")
    assert (base.address, base.revision) == ("own/tiny@v1", OLD)
    assert FrozenBase.load("own/tiny@v1", revision="v1").revision == OLD
    with pytest.raises(BaseModelError, match=r"names the revision 'v1', and 'main' was asked for"):
        FrozenBase.load("own/tiny@v1", revision="main")


def test_what_has_no_revisions_is_told(hub: Path, base_folder: Path) -> None:
    with pytest.raises(BaseModelError, match="'builtin/tiny' is no hub id, so it has no revision 'v1'"):
        FrozenBase.load("builtin/tiny@v1")
    with pytest.raises(BaseModelError, match="is no hub id, so it has no revision 'v1'"):
        FrozenBase.load(str(base_folder), revision="v1")
    for source in ("own/tiny@", "@v1"):
        with pytest.raises(BaseModelError, match="names no revision of a base; write id@revision"):
            FrozenBase.load(source)
    with pytest.raises(BaseModelError, match=r"revision 'v9' of 'own/tiny' is not in the local cache"):
        FrozenBase.load("own/tiny@v9")


def test_only_a_folder_of_the_hubs_cache_has_a_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "snapshots" / OLD) == OLD
    assert commit_of(tmp_path / OLD) is None
    assert commit_of(tmp_path / "snapshots" / "mine") is None


def test_a_version_keeps_the_revision_and_its_card_the_commit(hub: Path, tmp_path: Path, run: Run) -> None:
    library = Library.open(tmp_path / "home")
    (tuned,) = train(make_task(tmp_path, "kind", base="own/tiny@v1"), library=library)
    assert tuned.prompt.card.recipe["revision"] == OLD
    assert tuned.prompt.card.base == "own/tiny"
    assert library.registry.resolve("kind").base == "own/tiny@v1"
    (row,) = run("predict", "kind", "the red stone", "--json").rows
    assert row["version"] == 1
    for base, count in (("own/tiny", 1), ("own/tiny@v1", 1), ("own/tiny@main", 0), ("own", 0)):
        assert len(run("list", "--base", base, "--json").rows) == count
    # What PEFT reads names the id and the commit apart, since a tag may move, and comes back.
    run("export", "kind", tmp_path / "peft", "--format", "peft", "--json")
    assert run("import", tmp_path / "peft", "--task", "again", "--json").rows[0]["base"] == f"own/tiny@{OLD}"


# Code of its own

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class Own(LlamaForCausalLM):
    config_class = LlamaConfig
"""


@pytest.fixture
def with_code(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that brings its own class."""
    import json

    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = Path(shutil.copytree(base_folder, tmp_path / "own-code"))
    (folder / "modeling_own.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}))
    return folder


def test_code_that_comes_with_a_base_runs_when_asked_and_the_card_says_so(with_code: Path, tmp_path: Path, run: Run) -> None:
    base = FrozenBase.load(str(with_code), trust_remote_code=True)
    assert type(base.model).__name__ == "Own"
    assert base.provenance() == {"trust_remote_code": True}
    task = {"base": str(with_code), "trust_remote_code": True}
    (tuned,) = train(make_task(tmp_path, "kind", **task), library=Library.open(tmp_path / "home"))
    assert tuned.prompt.card.recipe["trust_remote_code"] is True
    # The version does not carry the permission: who answers gives it.
    assert "--trust-remote-code" in run("predict", "kind", "red", "--json").refused()
    (row,) = run("predict", "kind", "red", "--trust-remote-code", "--json").rows
    assert row["version"] == 1
    assert "--trust-remote-code" in run("base", "show", with_code, "--json").refused()
    assert run("base", "show", with_code, "--trust-remote-code", "--json").rows[0]["params"] == base.params


# Messages


def _messages() -> Iterator[str]:
    """The texts of all errors that are raised in the room."""
    for file in Path(softprompt.bases.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                yield " ".join(
                    part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


def _flags(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    for below in getattr(command, "commands", {}).values():
        yield from _flags(below)


def test_messages_name_options_and_keys_that_exist() -> None:
    flags = set(_flags(typer.main.get_command(app)))
    messages = list(_messages())
    assert len(messages) > 20
    named = {flag for message in messages for flag in re.findall(r"--[a-z][a-z-]+", message)}
    assert {"--trust-remote-code", "--quantization"} <= named <= flags
    keys = {key for message in messages for key in re.findall(r"`([a-z_]+):", message)}
    assert "trust_remote_code" in keys
    assert keys <= set(TaskConfig.model_fields)


def test_what_is_told_to_be_loading_is_what_is_loaded(base_folder: Path) -> None:
    base = make_base("llama")

    class Stages(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[tuple[str, str]] = []

        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Advance]:
            yield lambda _, text: self.said.append((name, text))

    stages = Stages()
    assert base_of(base, BaseOptions(source="builtin/tiny"), stages) is base
    assert stages.said == []  # nothing is loaded
    base_of(str(base_folder), BaseOptions(source="builtin/tiny"), stages)
    assert set(stages.said) == {("load", str(base_folder))}
