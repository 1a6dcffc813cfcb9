"""A real base on vLLM: SmolLM2 in float32, its prompts by name, against our own engine. Needs `make models`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.reading import quiet
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.serving.offline import Service
from tests.http_server import serving
from tests.real_models.conftest import find
from tests.vllm.conftest import Two, publish_all
from tests.vllm.same import difference, draw
from tests.vllm.server import BLOCK, running
from tests.vllm.test_exact import compare
from tests.worded import TEXTS, WORDED, publish_worded

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

ROWS = int(os.environ.get("SOFTPROMPT_VLLM_REAL_ROWS", "60"))
"""Random requests."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    packed = find("smollm2.gguf")
    place = tmp_path_factory.mktemp("smollm2")
    file = FrozenBase.load(str(packed), dtype="float32", device="cpu")
    with quiet():
        file.model.save_pretrained(place / "smollm2")
        file.tokenizer.save_pretrained(place / "smollm2")
    base = FrozenBase.load(str(place / "smollm2"), dtype="float32", device="cpu", attn_implementation="sdpa")
    options = ("--served-model-name", "the-base", "--max-model-len", "512", "--max-num-seqs", "8")
    with Library.open(place / "home") as library:
        publish_all(library, base)
        publish_worded(library, base, base.address)
        environment = {"SOFTPROMPT_HOME": str(library.home)}
        with (
            running(place / "smollm2", place / "vllm.log", *options, environment=environment) as vllm,
            serving(library, base, engine=ContinuousEngine(architecture_of(base))) as ours,
        ):
            ours.http.timeout = 600
            yield Two(vllm, ours, library, base)


def test_random_mixed_requests(real: Two) -> None:
    requests = draw(ROWS, seed=11, base_name=real.ours.service.base_name)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda request: compare(real, *request), requests))
    counts = Counter("wrong" if reason not in ("same", "tie") else reason for reason in found)
    print(dict(counts))  # noqa: T201  (`pytest -s` shows how many ties there were)
    wrong = [(request, reason) for request, reason in zip(requests, found, strict=True) if reason not in ("same", "tie")]
    assert not wrong, wrong[:3]
    assert counts["tie"] <= max(1, ROWS // 20), "so many ties are none"


def test_prompts_that_mean_something(real: Two) -> None:
    """By the template of each task, as `predict` words it: greedy answers, and the scores of labels to 1e-3."""
    own = Service(real.library, base=real.base)
    for task in WORDED:
        answers = own.predict(TEXTS, task)
        for text, answer in zip(TEXTS, answers, strict=True):
            chat = {"model": task, "messages": [{"role": "user", "content": text}]}
            said = real.vllm.post("/v1/chat/completions", chat).json()
            assert said["choices"][0]["message"]["content"] == answer.output, (task, text)
        assert len({answer.output for answer in answers}) > 1, "all answers are one"
    given = real.vllm.post("/v1/classify", {"model": "choice", "input": TEXTS}).json()["data"]
    for row, answer in zip(given, own.predict(TEXTS, "choice"), strict=True):
        assert difference(dict(answer.scores or {}), row["scores"]) is None
        assert row["label"] == answer.output


def test_a_prompt_is_run_once(real: Two) -> None:
    def cached(text: str) -> float:
        before = real.vllm.metric("vllm:prefix_cache_hits_total")
        real.vllm.post("/v1/completions", {"model": "tell@3", "prompt": text, "max_tokens": 1})
        return real.vllm.metric("vllm:prefix_cache_hits_total") - before

    cached("a first input")
    assert cached("another one, that is new") == 64 // BLOCK * BLOCK
