"""The engines that tests of routes are run on, a real server of theirs, and a client of it; tests that need other prompts
have their own. `tests/vllm/routes` has other engines for the same tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.model.architecture import architecture_of
from tests import spellings
from tests.fake_engine import FakeEngine
from tests.http_server import EngineOn, Running, serving_for_real


@pytest.fixture(scope="session")
def engine_on() -> EngineOn:
    """The engine of this process."""
    return lambda base: ContinuousEngine(architecture_of(base))


@pytest.fixture(scope="session")
def fake_on() -> EngineOn:
    """An engine without a model."""
    return lambda base: FakeEngine(context=base.context)


@pytest.fixture(scope="session")
def spelling_on() -> Callable[[str], FrozenBase]:
    """A base with a tokenizer of a kind."""
    return spellings.base


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, engine_on: EngineOn) -> Iterator[Running]:
    """Two tasks, answered by a real engine."""
    with serving_for_real(tmp_path_factory.mktemp("home"), base_folder, engine=engine_on) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    """OpenAI's own."""
    with running.client() as made:
        yield made
