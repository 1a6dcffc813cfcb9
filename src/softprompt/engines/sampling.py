"""From logits to tokens: greedy, temperature, top-k, top-p, each row by settings and draws of its own.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from softprompt.engines.protocol import Sampling, TokenProbability
from softprompt.model.rounding import NearTies

if TYPE_CHECKING:
    from softprompt.bases.grammar import Matcher


def choose_tokens(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    draws: Sequence[Random],
    ties: NearTies | None = None,
    matchers: Sequence[Matcher | None] = (),
) -> list[int | None]:
    """The next token of each row; None where its logits are not numbers.

    A row that samples takes one uniform number from its own generator for each token, and finds it in the cumulated
    probabilities of its own candidates: what other rows do is without influence, but for the rounding of their sums.

    Args:
        ties: counts the greedy rows whose choice rounding could turn. Where its base is batch invariant, rows that sample
            are cut and drawn one by one.
        matchers: of each row what says which tokens may come, where one of them has one.
    """
    given_BV, logits_BV = logits_BV, _only_allowed(logits_BV, matchers)
    best_B, greedy_B = logits_BV.max(dim=-1)  # NaN and infinity come through
    chosen: list[int | None] = [
        token if sound else None for token, sound in zip(greedy_B.tolist(), best_B.isfinite().tolist(), strict=True)
    ]
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0 and chosen[row] is not None]
    if drawn:
        uniforms = [draws[row].random() for row in drawn]
        alone = ties is not None and not ties.share
        for some in [[place] for place in range(len(drawn))] if alone else [range(len(drawn))]:
            rows = [drawn[place] for place in some]
            found = _draw(logits_BV[rows].float(), [samplings[row] for row in rows], [uniforms[place] for place in some])
            for row, token in zip(rows, found, strict=True):
                chosen[row] = token
    if ties is not None and len(drawn) < len(samplings):
        near = ties.greedy(logits_BV, best_B, greedy_B, given_BV)
        ties.count += sum(one and not how.temperature for one, how in zip(near, samplings, strict=True))
    return chosen


def _only_allowed(logits_BV: Tensor, matchers: Sequence[Matcher | None]) -> Tensor:
    """The logits to choose by: minus infinity for tokens that a row's grammar does not allow next; the logits themselves
    where no row has one."""
    rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
    if not rows:
        return logits_BV
    size = logits_BV.shape[1]
    forbidden_RV = np.ones((len(rows), size), dtype=bool)
    for place, row in enumerate(rows):
        matcher = matchers[row]
        assert matcher is not None
        bits = np.unpackbits(np.frombuffer(matcher.allowed(), dtype=np.uint8), bitorder="little")[:size]
        forbidden_RV[place, : len(bits)] = bits == 0
    chosen_BV = logits_BV.clone()  # probabilities are told of the base's own
    chosen_BV[rows] = logits_BV[rows].masked_fill(torch.from_numpy(forbidden_RV).to(logits_BV.device), -torch.inf)
    return chosen_BV


def _draw(logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Cut by temperature, then top-k, then top-p of what is left; then draw."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits_BV.device)[:, None]

    vocabulary = logits_BV.shape[1]
    counts = [min(sampling.top_k or vocabulary, vocabulary) for sampling in samplings]
    # A stable order, so that equal logits are ranked by token and not by chance; only as much of it as may be needed.
    sorted_BC, order_BC = logits_BV.sort(dim=-1, descending=True, stable=True)
    sorted_BC, order_BC = sorted_BC[:, : max(counts)].double(), order_BC[:, : max(counts)]
    # The largest is subtracted first: a tiny temperature would overflow the others.
    weights_BC = ((sorted_BC - sorted_BC[:, :1]) / column([sampling.temperature for sampling in samplings])).exp()
    ranks_C = torch.arange(weights_BC.shape[1], device=logits_BV.device)
    weights_BC = weights_BC.masked_fill(ranks_C >= column(counts), 0)
    before_BC = weights_BC.cumsum(-1) - weights_BC
    top_p_B1 = column([sampling.top_p for sampling in samplings]) * weights_BC.sum(-1, keepdim=True)
    weights_BC = weights_BC.masked_fill((before_BC >= top_p_B1) & (ranks_C > 0), 0)
    cumulated_BC = weights_BC.cumsum(-1)
    # Past the last candidate the sum is flat, so a number just under 1 must not run on to those that were cut.
    last_B1 = (weights_BC > 0).sum(-1, keepdim=True) - 1
    found_B1 = torch.searchsorted(cumulated_BC, column(uniforms) * cumulated_BC[:, -1:], right=True)
    tokens: list[int] = order_BC.gather(1, torch.minimum(found_B1, last_B1))[:, 0].tolist()
    return tokens


def token_probabilities(
    logits_BV: Tensor, tokens: Sequence[int], counts: Sequence[int], *, alone: bool = False
) -> list[TokenProbability]:
    """Log-probability of each row's token, and of so many of the likeliest in its place. Their texts depend on what stands
    before them, and come later. `alone`: each row is summed up by itself, as how a sum is rounded goes by the shape of the
    whole."""
    if alone and len(tokens) > 1:
        rows = zip(range(len(tokens)), tokens, counts, strict=True)
        return [token_probabilities(logits_BV[[row]], [token], [count])[0] for row, token, count in rows]
    logprobs_BV = logits_BV.float().log_softmax(-1)
    values_BC, ids_BC = logprobs_BV.topk(min(max(counts), logprobs_BV.shape[1]), dim=-1)
    chosen = logprobs_BV[range(len(tokens)), list(tokens)].tolist()
    found = []
    for token, logprob, count, ids, values in zip(tokens, chosen, counts, ids_BC.tolist(), values_BC.tolist(), strict=True):
        top = tuple((other, "", value) for other, value in zip(ids[:count], values[:count], strict=True))
        found.append(TokenProbability(token, "", logprob, top))
    return found
