"""The engine over vLLM's, with one that stands for it: what it asks for, what it makes of the answers, and each way in which
vLLM may be another than is thought. On a real vLLM: tests/vllm."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.engines.protocol import NO_PROMPT, EmbedJob, GenerateJob, ReadJob, Sampling, ScoreJob, Scores, Vectors
from softprompt.errors import BaseModelError, ConfigError, EngineBusy, EngineError, SoftPromptError
from softprompt.vllm import arguments
from softprompt.vllm.check import check_vectors
from softprompt.vllm.engine import VllmEngine
from softprompt.vllm.outline import load_outline
from softprompt.vllm.start import start_vllm
from tests import fake_vllm
from tests.engine_jobs import Inbox, gaps_to_best, score_offline, some_vectors
from tests.fake_vllm import FakeClient, handed_in, on_engine

INPUT = (40, 50, 60)
LABELS = ((41,), (42, 43), (42, 44), (300,), (7, 8, 9))


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def client(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake_vllm.install(monkeypatch)
    return FakeClient(base)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_it_answers_as_the_base_does(client: FakeClient, base: FrozenBase, rows: int) -> None:
    prompt = some_vectors(base, rows, seed=3)
    jobs = [GenerateJob(prompt, INPUT, Sampling(max_tokens=6, logprobs=2)), ScoreJob(prompt, INPUT, LABELS)]
    written, scored = on_engine(client, lambda engine: handed_in(engine, *jobs))
    assert len(written.tokens) == 6
    assert max(gaps_to_best(base, prompt, INPUT, written.tokens)) == 0
    (expected,) = score_offline(base, [prompt.on(base)], [0], [INPUT], [LABELS])
    assert isinstance(scored.last, Scores)
    assert scored.last.values == pytest.approx(expected, abs=1e-4)
    asked = [given for given, _ in client.asked if rows]
    assert {given["salt"] for given in asked} <= {f"{prompt.digest}:{rows}"}
    assert all(torch.equal(given["embeds"][:rows], prompt.on(base)) for given in asked), "vectors of the prompt itself"


def test_a_vllm_that_makes_the_same_of_vectors_passes(client: FakeClient) -> None:
    async def check() -> None:
        await check_vectors(VllmEngine(client, load_outline(client.model_config), asyncio.get_running_loop()))

    asyncio.run(check())
    assert any("embeds" in prompt for prompt, _ in client.asked)
    assert any("ids" in prompt for prompt, _ in client.asked)


def refused(client: FakeClient) -> SoftPromptError:
    """Why a server on this vLLM does not start."""

    async def check() -> None:
        await check_vectors(VllmEngine(client, load_outline(client.model_config), asyncio.get_running_loop()))

    with pytest.raises(SoftPromptError) as caught:
        asyncio.run(check())
    return caught.value


def test_a_vllm_that_makes_something_else_of_vectors_is_refused(client: FakeClient) -> None:
    client.forgets_vectors = True
    error = refused(client)
    assert isinstance(error, BaseModelError)
    assert "this vLLM makes something else of vectors than of tokens with those embeddings" in str(error)


@pytest.mark.parametrize(
    ("module", "name", "instead", "named"),
    [
        ("vllm.inputs", "embeds_input", None, "embeds_input"),
        ("vllm.inputs", "embeds_input", lambda embeds: embeds, "cache_salt"),
        ("vllm", "SamplingParams", None, "SamplingParams"),
        ("vllm", "SamplingParams", lambda max_tokens, temperature: None, "unexpected keyword argument"),
        ("vllm.sampling_params", "RequestOutputKind", None, "RequestOutputKind"),
    ],
)
def test_a_vllm_whose_parts_have_moved_is_refused_by_the_part(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, module: str, name: str, instead: Any, named: str
) -> None:
    if instead is None:
        monkeypatch.delattr(sys.modules[module], name)
    else:
        monkeypatch.setattr(sys.modules[module], name, instead)
    error = refused(client)
    assert isinstance(error, ConfigError), error
    assert "vLLM 9.9 cannot be called as serving prompts asks for" in str(error)
    assert named in str(error)
    assert "take one of the versions that docs/vllm.md names" in str(error)


def test_a_vllm_that_fails_at_the_start_says_so(client: FakeClient) -> None:
    client.dies_after = 0
    error = refused(client)
    assert isinstance(error, EngineError)
    assert "vLLM's engine ended while it ran this" in str(error)


def test_an_engine_lost_in_the_middle_is_the_last_thing_told(client: FakeClient, base: FrozenBase) -> None:
    """What came before stays, an error is last, of a score there is none; and nothing more is taken."""
    client.dies_after = 2
    prompt = some_vectors(base, 5, seed=1)

    def ask(engine: VllmEngine) -> Any:
        (written,) = handed_in(engine, GenerateJob(prompt, INPUT, Sampling(max_tokens=6)))
        with pytest.raises(EngineError, match="vLLM's engine has ended and takes no more jobs"):
            engine.submit(ScoreJob(prompt, INPUT, LABELS), Inbox())
        return written, engine.status()

    written, status = on_engine(client, ask)
    *pieces, last = written.results
    assert len(pieces) <= 2
    assert all(piece.finish is None for piece in pieces)
    assert isinstance(last, EngineError)
    assert "vLLM's engine ended while it ran this" in str(last)
    assert not status.accepts
    client.errored, client.dies_after = False, 0
    (scored,) = on_engine(client, lambda engine: handed_in(engine, ScoreJob(prompt, INPUT, LABELS)))
    assert [type(result) for result in scored.results] == [EngineError]


def test_what_it_cannot_do_is_refused_before_anything_runs(client: FakeClient, base: FrozenBase) -> None:
    prefix = Vectors("abc", torch.zeros(2, base.width * 4))

    def ask(engine: VllmEngine) -> None:
        for job, why in (
            (EmbedJob(INPUT), "vLLM gives no hidden states"),
            (ReadJob(NO_PROMPT, INPUT), "vLLM tells no log-probabilities of tokens behind vectors"),
            (ScoreJob(prefix, INPUT, LABELS), "is a trained prefix, keys and values of every layer"),
            (GenerateJob(NO_PROMPT, INPUT, Sampling(max_tokens=2, temperature=0.001)), "is below 0.01"),
            (GenerateJob(NO_PROMPT, INPUT, Sampling(max_tokens=2, logprobs=6)), "this vLLM gives 5 at most"),
        ):
            good = GenerateJob(NO_PROMPT, INPUT, Sampling(max_tokens=2))
            with pytest.raises(ConfigError, match=why):
                engine.submit_all([(good, Inbox()), (job, Inbox())])

    on_engine(client, ask)
    assert not client.asked, "not even the job beside it"


def test_more_than_may_be_under_way(client: FakeClient) -> None:
    job = GenerateJob(NO_PROMPT, INPUT, Sampling(max_tokens=40))

    def ask(engine: VllmEngine) -> None:
        with pytest.raises(ConfigError, match="3 rows were handed in together, and 2 may be under way"):
            engine.submit_all([(job, Inbox())] * 3)
        inboxes = [Inbox(), Inbox()]
        engine.submit_all([(job, inbox) for inbox in inboxes])
        with pytest.raises(EngineBusy):
            engine.submit(job, Inbox())
        for inbox in inboxes:
            inbox.wait()

    on_engine(client, ask, max_waiting=2)


def test_it_ends_what_runs_when_it_is_stopped(client: FakeClient) -> None:
    def ask(engine: VllmEngine) -> Inbox:
        inbox = Inbox()
        engine.submit(GenerateJob(NO_PROMPT, INPUT, Sampling(max_tokens=60)), inbox)
        inbox.began.wait(10)
        engine.stop(drain=False)
        return inbox.wait()

    inbox = on_engine(client, ask)
    assert isinstance(inbox.results[-1], EngineError) or inbox.results[-1].finish is not None


# starting one


def started(options: BaseOptions | None = None) -> SoftPromptError:
    """Why `softprompt serve --engine vllm` does not start."""
    with pytest.raises(SoftPromptError) as caught:
        start_vllm(options or BaseOptions(), {})
    return caught.value


def engine_arguments(*names: str) -> type:
    """vLLM's arguments, those with these names."""
    return make_dataclass("AsyncEngineArgs", [(name, Any, None) for name in names])


ARGUMENTS = ("model", "revision", "dtype", "trust_remote_code", "enable_prompt_embeds", "disable_log_stats")


def test_a_vllm_that_lacks_a_part_is_not_started(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, base_folder: Path
) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: name)
    options = BaseOptions(source=str(base_folder))
    assert "vLLM 9.9 cannot be called as serving prompts asks for (ModuleNotFoundError" in str(started(options))

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("operator torchvision::nms does not exist")

    client_of = SimpleNamespace(from_vllm_config=None)
    for name, module in (("vllm.engine", ModuleType("vllm.engine")), ("vllm.v1", ModuleType("vllm.v1")),
                         ("vllm.v1.engine", ModuleType("vllm.v1.engine"))):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", SimpleNamespace(AsyncLLM=client_of))
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", Broken("vllm.engine.arg_utils"))
    assert "(RuntimeError: operator torchvision::nms does not exist)" in str(started(options))
    args = engine_arguments(*ARGUMENTS)
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(AsyncEngineArgs=args))
    assert "vLLM 9.9 has no AsyncEngineArgs.create_engine_config" in str(started(options))
    monkeypatch.setattr(args, "create_engine_config", lambda self: self, raising=False)
    del client_of.from_vllm_config
    assert "from_vllm_config, by which prompts are served" in str(started(options))
    client_of.from_vllm_config = None
    few = engine_arguments(*(name for name in ARGUMENTS if name != "enable_prompt_embeds"))
    monkeypatch.setattr(few, "create_engine_config", lambda self: self, raising=False)
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(AsyncEngineArgs=few))
    assert "AsyncEngineArgs takes no enable_prompt_embeds" in str(started(options))


def test_a_vllm_that_is_started_and_found_unlike_is_ended(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, base_folder: Path
) -> None:
    ended: list[bool] = []
    client.shutdown = lambda: ended.append(True)  # type: ignore[attr-defined]
    client.forgets_vectors = True
    args = engine_arguments(*ARGUMENTS)
    told = SimpleNamespace(model_config=client.model_config)
    monkeypatch.setattr(args, "create_engine_config", lambda self: told, raising=False)
    monkeypatch.setattr(arguments, "find_spec", lambda name: name)
    for name in ("vllm.engine", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(AsyncEngineArgs=args))
    own = SimpleNamespace(from_vllm_config=lambda config: client)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", SimpleNamespace(AsyncLLM=own))
    assert "makes something else of vectors" in str(started(BaseOptions(source=str(base_folder))))
    assert ended == [True]
