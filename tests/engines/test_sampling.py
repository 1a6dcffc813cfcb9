"""Choosing tokens, against a slow obvious twin."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softprompt.engines.protocol import Sampling
from softprompt.engines.sampling import choose_tokens, token_probabilities


def choose(logits_BV: Tensor, samplings: list[Sampling], seed: int = 0) -> list[int | None]:
    return choose_tokens(logits_BV, samplings, [Random(seed + row) for row in range(len(samplings))])


def slow_choice(logits: list[float], sampling: Sampling, uniform: float) -> int:
    """One row in plain Python."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[: sampling.top_k or len(logits)]
    weights = [math.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order]
    kept, reached = 0, 0.0
    while kept < len(order) and (kept == 0 or reached < sampling.top_p * sum(weights)):
        reached += weights[kept]
        kept += 1
    target, at = uniform * sum(weights[:kept]), 0.0
    for token, weight in zip(order[:kept], weights, strict=False):
        at += weight
        if at > target:
            return token
    return order[kept - 1]


@given(
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_p=st.sampled_from([0.01, 0.31, 0.77, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50]),
)
def test_draws_equal_those_of_the_slow_twin(seed: int, temperature: float, top_p: float, top_k: int) -> None:
    logits_BV = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed)) * 3
    sampling = Sampling(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
    # Rows of other settings beside it, so that the cuts of one could leak into another.
    samplings = [sampling, Sampling(max_tokens=1), sampling, Sampling(max_tokens=1, temperature=2.0, top_k=2)]
    expected = [
        slow_choice(row.tolist(), how, Random(seed + index).random()) if how.temperature else int(row.argmax())
        for index, (row, how) in enumerate(zip(logits_BV, samplings, strict=True))
    ]
    assert choose(logits_BV, samplings, seed) == expected


def test_greedy_takes_no_draw() -> None:
    generator = Random(1)
    state = generator.getstate()
    assert choose_tokens(torch.tensor([[0.0, 2.0, 1.0]]), [Sampling(max_tokens=1)], [generator]) == [1]
    assert generator.getstate() == state


def test_frequencies_are_the_probabilities() -> None:
    logits_BV = torch.tensor([0.5, 0.3, 0.2]).log()[None].expand(4000, -1)
    seen = Counter(choose(logits_BV, [Sampling(max_tokens=1, temperature=1.0)] * 4000))
    assert [seen[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@pytest.mark.parametrize("temperature", [1e-300, 1e-8, 1e8])
def test_extreme_temperatures_are_harmless(temperature: float) -> None:
    (token,) = choose(torch.tensor([[1e4, 3e4, -1e4]]), [Sampling(max_tokens=1, temperature=temperature)])
    assert token == 1 if temperature < 1 else token in (0, 1, 2)


class _AlmostOne(Random):
    def random(self) -> float:
        return 1 - 2**-53


def test_a_number_just_under_one_stays_inside_the_cut() -> None:
    sampling = Sampling(max_tokens=1, temperature=1.0, top_k=2)
    logits_BV = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens = choose_tokens(logits_BV, [sampling] * 50, [_AlmostOne()] * 50)
    assert tokens == logits_BV.topk(2).indices[:, 1].tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_without_numbers_are_told(value: float, temperature: float) -> None:
    logits_BV = torch.zeros(3, 5)
    logits_BV[1, 2] = value
    logits_BV[2, 3] = -math.inf  # a token that can never be is no damage
    chosen = choose(logits_BV, [Sampling(max_tokens=1, temperature=temperature)] * 3)
    assert chosen[1] is None
    assert chosen[0] is not None
    assert chosen[2] is not None
    assert chosen[2] != 3


def test_probabilities_are_of_the_whole_distribution() -> None:
    logits_BV = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    logprobs = logits_BV.log_softmax(-1)
    none, two = token_probabilities(logits_BV, [3, 4], [0, 2])
    assert none.logprob == pytest.approx(float(logprobs[0, 3]))
    assert none.top == ()
    assert [token for token, _, _ in two.top] == logprobs[1].topk(2).indices.tolist()
    assert (two.id, two.text) == (4, "")  # the text depends on what stands before
