"""`softprompt export TASK... DIR --format tokens|gguf` at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.commands import Run
from tests.exchange.tokens.exported import library_of
from tests.gguf_files import save_gguf


@pytest.fixture(autouse=True)
def _library(home: Path, base_folder: Path) -> None:
    with library_of(home, FrozenBase.load(str(base_folder)), base_folder):
        pass


def test_several_prompts_go_into_one_folder(run: Run, tmp_path: Path) -> None:
    rows = run("export", "words", "kind@1", tmp_path / "out", "--format", "tokens", "--json").rows
    assert [(row["task"], row["version"], row["first_token"], row["tokens"]) for row in rows] == [
        ("words", 1, 320, 5), ("kind", 1, 325, 3),
    ]  # fmt: skip
    assert rows[1]["text"] == "<|kind:0|><|kind:1|><|kind:2|>"
    assert rows[0]["path"] == str(tmp_path / "out")
    assert rows[0]["gguf"] is None
    done = run("export", "words", tmp_path / "out", "--format", "tokens", "--force")
    assert "the export of kind in" in done.err
    assert "README.md says how engines are given them" in done.err.replace("\n", "")
    assert "320" in done.out


def test_of_a_gguf_base_the_file_alone(run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = save_gguf(tmp_path / "base.gguf")
    with library_of(tmp_path / "other", FrozenBase.load(str(file), dtype="float32"), file):
        pass
    moved = file.rename(tmp_path / "moved.gguf")
    call = ("export", "--home", tmp_path / "other", "pair", tmp_path / "out", "--format", "gguf", "--json")
    assert "moved to with --base" in run(*call).refused()
    (row,) = run(*call, "--base", moved).rows
    assert row["gguf"] == str(tmp_path / "out" / "model.gguf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["words", "kind", "DIR"], "--format peft takes one prompt a folder, and 2 are named"),
        (["words", "DIR", "--dtype", "float32"], "--dtype float32: --format peft writes no base; leave it out"),
        (["words", "DIR", "--base", "x", "--format", "softprompt"], "--base: --format softprompt writes no base"),
    ],
)
def test_what_the_other_formats_do_not_take(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [str(tmp_path / "out") if word == "DIR" else word for word in arguments]
    done = run("export", *given)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_refusals_are_one_line(run: Run, home: Path, tmp_path: Path) -> None:
    assert "are of one task" in run("export", "words", "words@1", tmp_path / "out", "--format", "tokens").refused()
    assert "and no GGUF file" in run("export", "words", tmp_path / "out", "--format", "gguf").refused()
    with Library.open(home) as library:
        assert library.registry.resolve("words").number == 1
