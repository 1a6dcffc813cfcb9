"""One real server for all tests that can share it, and its twin: the same library, served in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import locate
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from tests.http_server import Running, serving
from tests.models import some_prefix
from tests.vllm.server import BY_VECTORS, PROMPTS, Vllm, running

LABELS = ("yes", "no", "the river", "the river bank")
"""One that begins another, so that it gets an end."""
HELD_MB = "0.2"
"""Of the vectors of `publish_all`, 0.3 MB."""


def noise(base: FrozenBase, task: str, rows: int, seed: int, **form: object) -> SoftPrompt:
    """A prompt of random vectors as long as embeddings are, which no tokens have."""
    numbers = torch.randn(rows, base.width, generator=torch.Generator().manual_seed(seed)) * base.spread
    card = Card(
        task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=rows, token_dim=base.width,
        **form,  # type: ignore[arg-type]
    )  # fmt: skip
    return SoftPrompt(numbers, card, torch.full((base.width,), 0.1 * seed))  # with a place among inputs, for `auto`


def publish_all(library: Library, base: FrozenBase) -> None:
    """Prompts of all lengths: shorter than a block of vLLM's cache, as long, of several, with labels and without."""
    for seed, (task, rows) in enumerate((("kind", 3), ("kind", 20), ("kind", 32), ("kind", 70))):
        library.publish(noise(base, task, rows, seed, labels=LABELS).to_bytes(), base=base.address)
    many = tuple(f"label {number}" for number in range(30))
    library.publish(noise(base, "many", 33, 50, labels=many).to_bytes(), base=base.address)
    for seed, (task, rows) in enumerate((("tell", 1), ("tell", 20), ("tell", 64), ("say", 40))):
        form = {"metric": "exact_match", "max_new_tokens": 9}
        library.publish(noise(base, task, rows, 100 + seed, **form).to_bytes(), base=base.address)
    library.publish(some_prefix(base, "deep", labels=("yes", "no")).to_bytes(), base=base.address)


@dataclass
class Two:
    """The same library served twice."""

    vllm: Vllm
    ours: Running
    library: Library
    base: FrozenBase


@pytest.fixture(scope="session")
def base() -> FrozenBase:
    return FrozenBase.load(str(locate("builtin/tiny")), attn_implementation="sdpa")  # by the folder, as vLLM names it


@pytest.fixture(scope="session")
def served_library(tmp_path_factory: pytest.TempPathFactory, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("served") / "home") as library:
        publish_all(library, base)
        yield library


@pytest.fixture(scope="session")
def two(served_library: Library, base: FrozenBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Its workers hold prompts, and have room for two thirds of them: some are let go and given anew all the time."""
    with both(served_library, base, tmp_path_factory.mktemp("log") / "vllm.log", PROMPTS) as two:
        yield two


@pytest.fixture(scope="session")
def by_vectors(two: Two, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """The same on a server that is sent vectors with each request."""
    with both(two.library, two.base, tmp_path_factory.mktemp("log") / "vectors.log", BY_VECTORS) as one:
        yield one


@contextmanager
def both(library: Library, base: FrozenBase, log: Path, prompts: Sequence[str]) -> Iterator[Two]:
    environment = {"SOFTPROMPT_HOME": str(library.home), "SOFTPROMPT_HELD_MB": HELD_MB}
    assert base.path is not None
    options = ("--served-model-name", "the-base", "--max-num-batched-tokens", "128", "--max-num-seqs", "16")
    with running(base.path, log, *options, environment=environment, prompts=prompts) as vllm:
        engine = ContinuousEngine(architecture_of(base))
        with serving(library, base, engine=engine) as ours:
            ours.http.timeout = 300
            yield Two(vllm, ours, library, base)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "vllm.log"
