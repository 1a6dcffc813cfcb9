"""What stands for vLLM where it is not installed: its modules as far as they are imported, and a client over a base in this
process, row by row. What it answers with is exact; how it can be unlike vLLM is set by tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from tests.bases.test_outline import settings

BLOCK = 4


class SamplingParams(SimpleNamespace):
    """Takes what vLLM's takes, and no more."""

    FIELDS = frozenset(
        "max_tokens temperature top_p top_k seed logprobs stop_token_ids allowed_token_ids ignore_eos detokenize "
        "output_kind skip_clone".split()
    )

    def __init__(self, **fields: Any) -> None:
        if unknown := sorted(fields.keys() - self.FIELDS):
            raise TypeError(f"Unexpected keyword argument {unknown[0]!r}")
        super().__init__(**fields)


def install(patch: pytest.MonkeyPatch) -> None:
    """Its modules."""
    made = {name: ModuleType(name) for name in ("vllm", "vllm.sampling_params", "vllm.inputs")}
    told: dict[str, Any] = {
        "vllm": {"SamplingParams": SamplingParams, "__version__": "9.9"},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.inputs": {
            "tokens_input": lambda ids: {"ids": ids},
            "embeds_input": lambda embeds, cache_salt: {"embeds": embeds, "salt": cache_salt},
        },
    }
    for name, module in made.items():
        vars(module).update(told[name])
        patch.setitem(sys.modules, name, module)


class FakeClient:
    """vLLM's `EngineClient` as far as it is used."""

    def __init__(self, base: FrozenBase) -> None:
        assert base.path is not None
        self.base, self.errored = base, False
        self.model_config = settings(
            base.path, enable_prompt_embeds=True, logprobs_mode="raw_logprobs", max_logprobs=5, max_model_len=96
        )
        cache = SimpleNamespace(block_size=BLOCK, enable_prefix_caching=True)
        self.vllm_config = SimpleNamespace(cache_config=cache)
        self.asked: list[tuple[Any, SamplingParams]] = []
        """Each request's prompt and settings."""
        self.dies_after: int | None = None
        """Tokens of a request after which the engine is lost."""
        self.forgets_vectors = False
        """Whether it takes vectors for rows of zeros, as vLLM has done."""

    async def generate(self, prompt: Any, sampling: SamplingParams, name: str) -> AsyncIterator[Any]:
        """Greedy tokens, one at a time."""
        self.asked.append((prompt, sampling))
        rows_TD = prompt["embeds"] if "embeds" in prompt else self.base.embed(torch.tensor(prompt["ids"]))
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
