"""The cache of prompts' keys and values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.kv_buffer import KeysValues
from softprompt.engines.prefix_cache import PrefixCache, stack_prefixes
from softprompt.engines.protocol import NO_PROMPT, Vectors
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import stack_prompts
from tests.engine_jobs import Starved, some_vectors
from tests.models import ARCHITECTURES, UNEVEN, make_base


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def vectors_of(prompt: Vectors) -> Tensor:
    assert prompt.vectors_PD is not None
    return prompt.vectors_PD


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_prompts_computed_together_equal_each_alone(architecture: str) -> None:
    base = make_base(architecture)
    cache = PrefixCache(Causal(base), 1 << 20, token_budget=16)  # passes of two prompts or so
    prompts = [some_vectors(base, rows, rows) for rows in (7, 1, 4, 12, 3)]
    for prompt, entry in zip(prompts, cache.fetch(prompts), strict=True):
        with torch.no_grad():
            alone = Causal(base).compute_prefix(stack_prompts([vectors_of(prompt)]))
        for held, (keys, values) in zip(entry.layers, alone.layers, strict=True):
            torch.testing.assert_close(held[0], keys[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(held[1], values[0], atol=1e-4, rtol=1e-4)
            assert not held[0].requires_grad


def test_each_digest_is_computed_once_and_missing_ones_together(base: FrozenBase) -> None:
    causal = Starved(base)
    cache = PrefixCache(causal, 1 << 20)
    one, two, three = (some_vectors(base, 4, seed) for seed in range(3))
    cache.fetch([one])
    cache.fetch([one, two, NO_PROMPT, three, two])
    assert [prompts for prompts, _ in causal.lots] == [1, 2]
    assert (cache.misses, cache.hits) == (3, 2)
    again = cache.fetch([three, one])
    assert again[0] is cache.fetch([three])[0]
    assert cache.misses == 3


def test_the_bound_holds_and_the_least_recently_used_goes(base: FrozenBase) -> None:
    prompts = [some_vectors(base, 5, seed) for seed in range(4)]
    size = PrefixCache(Causal(base), 1 << 20).fetch(prompts[:1])[0].bytes
    cache = PrefixCache(Causal(base), 2 * size)
    for prompt in (prompts[0], prompts[1], prompts[0], prompts[2]):
        cache.fetch([prompt])
        assert cache.bytes <= 2 * size
    misses = cache.misses
    cache.fetch([prompts[0], prompts[2]])
    assert cache.misses == misses
    cache.fetch([prompts[1]])
    assert cache.misses == misses + 1


def test_one_call_may_pass_the_bound_and_gets_all_it_asked_for(base: FrozenBase) -> None:
    cache = PrefixCache(Causal(base), 1)
    prompts = [some_vectors(base, 5, seed) for seed in range(3)]
    entries = cache.fetch(prompts)
    assert [len(entry) for entry in entries] == [5, 5, 5]
    assert cache.bytes == 0


def test_no_prompt_has_no_columns_and_costs_nothing(base: FrozenBase) -> None:
    cache = PrefixCache(Causal(base), 1 << 20)
    (entry,) = cache.fetch([NO_PROMPT])
    assert len(entry) == entry.bytes == cache.bytes == cache.hits == cache.misses == 0


def test_stacked_prefixes_are_padded_on_the_left(base: FrozenBase) -> None:
    cache = PrefixCache(Causal(base), 1 << 20)
    prompts = [some_vectors(base, 3, 1), NO_PROMPT, some_vectors(base, 6, 2)]
    stack, prefix = stack_prefixes(prompts, cache.fetch(prompts), Causal(base))
    assert stack.lengths_K.tolist() == [3, 0, 6]
    keys_KHPd = prefix.layers[1][0]
    entry: KeysValues = cache.fetch(prompts[:1])[0]
    torch.testing.assert_close(keys_KHPd[0, :, 3:], entry.layers[1][0])
    assert not keys_KHPd[0, :, :3].any()
    assert not keys_KHPd[1].any()
