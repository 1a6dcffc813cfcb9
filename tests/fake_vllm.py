"""What stands for vLLM where it is not installed: its modules as far as they are imported, and a client over a base in this
process, row by row. What it answers with is exact; how it can be unlike vLLM is set by tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.vllm.check import check_vectors
from softprompt.vllm.engine import VllmEngine
from softprompt.vllm.outline import load_outline
from softprompt.vllm.worker import PromptHolder
from tests.bases.test_outline import settings
from tests.engine_jobs import Inbox

BLOCK = 4


class SamplingParams(SimpleNamespace):
    """Takes what vLLM's takes, and no more."""

    FIELDS = frozenset(
        "max_tokens temperature top_p top_k seed logprobs stop_token_ids allowed_token_ids ignore_eos detokenize "
        "output_kind skip_clone extra_args".split()
    )

    def __init__(self, **fields: Any) -> None:
        if unknown := sorted(fields.keys() - self.FIELDS):
            raise TypeError(f"Unexpected keyword argument {unknown[0]!r}")
        super().__init__(**fields)


def install(patch: pytest.MonkeyPatch) -> None:
    """Its modules."""
    packages = ("vllm.v1", "vllm.v1.core", "vllm.v1.core.sched", "vllm.v1.core.sched.output")
    made = {name: ModuleType(name) for name in ("vllm", "vllm.sampling_params", "vllm.inputs", *packages)}
    told: dict[str, Any] = {
        "vllm": {"SamplingParams": SamplingParams, "__version__": "9.9"},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.inputs": {
            "tokens_input": lambda ids, cache_salt=None: {"ids": ids, "salt": cache_salt},
            "embeds_input": lambda embeds, cache_salt: {"embeds": embeds, "salt": cache_salt},
        },
        "vllm.v1.core.sched.output": {"NewRequestData": NewRequestData},
    }
    for name, module in made.items():
        vars(module).update(told.get(name, {}))
        patch.setitem(sys.modules, name, module)


@dataclass
class NewRequestData:
    """A request as workers see it first."""

    prompt_token_ids: list[int] | None
    sampling_params: Any
    prompt_embeds: torch.Tensor | None = None
    prompt_is_token_ids: list[bool] | None = None


class FakeWorker(PromptHolder):
    """A worker with ours mixed in, which makes the rows that a model would see."""

    def __init__(self, base: FrozenBase) -> None:
        self.base = base
        self.most = 0
        """The most bytes that it has held."""

    def execute_model(self, scheduler_output: Any) -> list[torch.Tensor]:
        """What stands at each position of each request."""
        return [self._rows(request) for request in scheduler_output.scheduled_new_reqs]

    def held(self) -> dict[str, torch.Tensor]:
        """All that it holds, by digests."""
        return {digest: rows for mine in getattr(self, "_softprompt_held", {}).values() for digest, rows in mine.items()}

    def _rows(self, request: NewRequestData) -> torch.Tensor:
        assert request.prompt_token_ids is not None
        rows_SD = self.base.embed(torch.tensor(request.prompt_token_ids))
        if request.prompt_embeds is None:
            return rows_SD
        assert request.prompt_is_token_ids is not None
        tokens_S1 = torch.tensor(request.prompt_is_token_ids)[:, None]
        return torch.where(tokens_S1, rows_SD, request.prompt_embeds)


class FakeClient:
    """vLLM's `EngineClient` as far as it is used."""

    def __init__(self, base: FrozenBase) -> None:
        assert base.path is not None
        self.base, self.errored = base, False
        self.model_config = settings(
            base.path, enable_prompt_embeds=True, logprobs_mode="raw_logprobs", max_logprobs=5, max_model_len=96
        )
        cache = SimpleNamespace(block_size=BLOCK, enable_prefix_caching=True)
        self.vllm_config = SimpleNamespace(cache_config=cache, parallel_config=SimpleNamespace(worker_extension_cls=""))
        self.worker = FakeWorker(base)
        self.calls: list[tuple[Any, ...]] = []
        """Of its worker."""
        self.asked: list[tuple[Any, SamplingParams]] = []
        """Each request's prompt and settings."""
        self.dies_after: int | None = None
        """Tokens of a request after which the engine is lost."""
        self.forgets_vectors = False
        """Whether it takes vectors for rows of zeros, as vLLM has done."""

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Have its worker do something, a little later."""
        self.calls.append((method, *args))
        await asyncio.sleep(0.001)
        result = getattr(self.worker, method)(*args)
        self.worker.most = max(self.worker.most, sum(rows.nbytes for rows in self.worker.held().values()))
        return [result]

    async def generate(self, prompt: Any, sampling: SamplingParams, name: str) -> AsyncIterator[Any]:
        """Greedy tokens, one at a time."""
        self.asked.append((prompt, sampling))
        if "embeds" in prompt:
            rows_TD = prompt["embeds"]
        else:
            step = SimpleNamespace(scheduled_new_reqs=[NewRequestData(prompt["ids"], sampling)])
            (rows_TD,) = self.worker.execute_model(step)
        if "embeds" in prompt and self.forgets_vectors:
            rows_TD = torch.zeros_like(rows_TD)
        for count in range(sampling.max_tokens):
            await asyncio.sleep(0)
            if self.dies_after is not None and count >= self.dies_after:
                self.errored = True
                raise RuntimeError("EngineCore encountered an issue")
            with torch.no_grad():
                logs_V = self.base.model(inputs_embeds=rows_TD[None]).logits[0, -1].float().log_softmax(0)
            allowed = getattr(sampling, "allowed_token_ids", None)
            usable_V = logs_V
            if allowed is not None:
                usable_V = torch.full_like(logs_V, -torch.inf)
                usable_V[allowed] = logs_V[allowed]
            token = int(usable_V.argmax())
            told = None
            if sampling.logprobs is not None:
                best = logs_V.topk(sampling.logprobs).indices.tolist()
                told = [{one: SimpleNamespace(logprob=float(logs_V[one])) for one in dict.fromkeys([token, *best])}]
            one = SimpleNamespace(token_ids=[token], logprobs=told)
            yield SimpleNamespace(outputs=[one], num_cached_tokens=0)
            if token in (getattr(sampling, "stop_token_ids", None) or ()):
                return
            rows_TD = torch.cat([rows_TD, self.base.embed(torch.tensor([token]))])


def on_engine(client: FakeClient, ask: Callable[[VllmEngine], Any], *, checked: bool = False, **options: Any) -> Any:
    """What comes of asking, from a thread of its own, an engine on a running loop. One that was `checked` has looked first
    at what its vLLM makes of vectors, and has its workers hold prompts where they can."""

    async def run() -> Any:
        outline = await asyncio.to_thread(load_outline, client.model_config)
        engine = VllmEngine(client, outline, asyncio.get_running_loop(), **options)
        if checked:
            await check_vectors(engine)
            client.asked.clear()
            client.calls.clear()
        return await asyncio.to_thread(ask, engine)

    return asyncio.run(run())


def handed_in(engine: VllmEngine, *jobs: Any) -> list[Inbox]:
    """Jobs handed in together, each with its end."""
    inboxes = [Inbox() for _ in jobs]
    engine.submit_all(list(zip(jobs, inboxes, strict=True)))
    return [inbox.wait() for inbox in inboxes]
