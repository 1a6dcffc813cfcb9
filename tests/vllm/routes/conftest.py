"""Our own HTTP server on vLLM, as `softprompt serve --engine vllm` runs it: what tests of routes share. A vLLM takes a
minute to start, so each base has one for all tests; what a test serves on it ends, and it goes on."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.vllm.start import StartedVllm, start_vllm
from tests import spellings
from tests.http.routes.conftest import client, running  # noqa: F401
from tests.http_server import EngineOn
from tests.models import CONFIGS, tokenizer
from tests.vllm.server import BLOCK

WIDE = 32
"""Numbers of a head, the fewest that vLLM takes on a CPU."""


class Shared:
    """A vLLM that tests serve on: ended by none of them."""

    def __init__(self, engine: StartedVllm) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, job: Any, deliver: Any) -> Any:
        """By `submit_all`, which tests may look into."""
        return self.submit_all([(job, deliver)])[0]

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Nothing."""


def save_wide(folder: Path, config: Any, words: Any) -> Path:
    """A random base with heads wide enough."""
    torch.manual_seed(0)
    config.head_dim = WIDE
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Called `tiny-llama`, as the one that it stands for."""
    return save_wide(tmp_path_factory.mktemp("bases") / "tiny-llama", CONFIGS["llama"](), tokenizer())


@pytest.fixture(scope="session", autouse=True)
def _little() -> None:
    """What a vLLM that this process starts may take."""
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


@pytest.fixture(scope="session")
def engine_on() -> Iterator[EngineOn]:
    """The vLLM of a base that was loaded from a folder."""
    made: dict[Path, StartedVllm] = {}

    def find(base: FrozenBase) -> Shared:
        assert base.path is not None
        if base.path not in made:
            for engine in made.values():  # one at a time: each holds memory
                engine.stop(drain=False, timeout=10)
            made.clear()
            arguments = {"block_size": BLOCK, "enforce_eager": True, "max_num_seqs": 16}
            made[base.path] = start_vllm(BaseOptions(source=str(base.path), dtype="float32"), arguments)
        return Shared(made[base.path])

    yield find
    for engine in made.values():
        engine.stop(drain=False, timeout=10)


@pytest.fixture(scope="session")
def fake_on(engine_on: EngineOn) -> EngineOn:
    """A real one here, too."""
    return engine_on


@pytest.fixture(scope="session")
def spelling_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FrozenBase]:
    """A base with a tokenizer of a kind, in a folder."""

    def make(kind: str) -> FrozenBase:
        config, words = spellings.base(kind).model.config, spellings.tokenizer(kind)
        folder = tmp_path_factory.mktemp("spellings") / kind
        return FrozenBase.load(str(save_wide(folder, copy.deepcopy(config), words)))

    return make


ELSEWHERE = {
    "tests of the engine without a model, by what it was handed or how it was set": {
        "test_a_model_with_a_slash_in_its_name", "test_a_completion", "test_stop_texts", "test_logprobs_of_a_completion",
        "test_the_sampling_reaches_the_engine", "test_a_failure_inside_a_stream_is_its_last_event",
        "test_a_client_that_leaves_gives_its_rows_up", "test_a_chat_goes_through_the_template", "test_classify",
        "test_auto_names_the_task_that_it_chose", "test_a_stream_of_a_completion_is_the_completion",
        "test_a_full_queue_is_told_with_a_time_to_come_again",
        "test_a_server_whose_engine_has_ended_is_not_ready",
        "test_more_rows_than_the_queue_ever_holds_are_refused_for_good",
    },
    "tests that make an engine of their own": {
        "test_the_clients_runner_of_tools_selects_by_decisions", "test_keys_rates_and_tenants_count_as_elsewhere",
        "test_a_text_that_the_base_cannot_read_is_a_400",
    },
    "tests of schemas, which vLLM is not given; test_refused.py": {"test_a_schema_and_its_parsing"},
}  # fmt: skip
"""Tests of our routes that are not run here, and why."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave those out."""
    names = {name for group in ELSEWHERE.values() for name in group}
    here = Path(__file__).parent
    left = [item for item in items if item.path.parent == here and item.name.partition("[")[0] in names]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
