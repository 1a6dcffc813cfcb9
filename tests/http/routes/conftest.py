"""The engines that tests of routes are run on. `tests/vllm/routes` has others for the same tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.model.architecture import architecture_of
from tests import spellings
from tests.fake_engine import FakeEngine
from tests.http_server import EngineOn


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
