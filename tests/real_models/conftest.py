"""The real models of `make models`. Each is loaded once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal

MODELS = Path(__file__).resolve().parent.parent.parent / "models"


def find(name: str) -> Path:
    """Where a model lies; the test is skipped where it is not there."""
    if not (MODELS / name).exists():
        pytest.skip(f"models/{name} is not there; `make models` fetches it")
    return MODELS / name


@pytest.fixture(scope="session")
def smollm2() -> FrozenBase:
    """SmolLM2 of 135 million weights, from its GGUF file, in float32."""
    return FrozenBase.load(str(find("smollm2.gguf")), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def gemma3() -> FrozenBase:
    """Gemma 3 of 270 million weights, likewise."""
    return FrozenBase.load(str(find("gemma3-270m.gguf")), device="cpu", dtype="float32")


@pytest.fixture(scope="session", params=["smollm2", "gemma3"])
def causal(request: pytest.FixtureRequest) -> Causal:
    """One after the other, ready to be run."""
    return Causal(request.getfixturevalue(request.param))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    """A library with nothing in it."""
    with Library.open(tmp_path / "home") as opened:
        yield opened
