"""How likely the tokens of inputs are, each behind its prompt and what stands before it, in one pass.

Shapes: N tokens of all inputs but the first of each, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from softprompt.engines.batch import apart_by_kind, made_ready
from softprompt.engines.continuation import Continuation, Reading
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import ReadJob, Sampling, TokenProbability
from softprompt.engines.sampling import token_probabilities
from softprompt.model.architecture import Architecture

_ROWS = 512
"""Positions whose distributions over the vocabulary are there at once."""


def read_jobs(
    architecture: Architecture, prefixes: PrefixCache | None, jobs: Sequence[ReadJob]
) -> list[tuple[TokenProbability, ...]]:
    """For each job the probability of each token of its input but the first."""
    found: dict[int, tuple[TokenProbability, ...]] = {}
    alone = architecture.base.batch_invariant
    for group in apart_by_kind(architecture, [job.prompt for job in jobs]):
        for some in [[place] for place in group] if alone else [group]:
            found |= zip(some, _read(architecture, prefixes, [jobs[place] for place in some]), strict=True)
    return [found[place] for place in range(len(jobs))]


def _read(
    architecture: Architecture, prefixes: PrefixCache | None, jobs: Sequence[ReadJob]
) -> list[tuple[TokenProbability, ...]]:
    stack, prefix, which = made_ready(architecture, prefixes, [job.prompt for job in jobs])
    first, rest = [job.input[:1] for job in jobs], [job.input[1:] for job in jobs]
    logits_NV = architecture.logits_behind(stack, prefix, which, first, [[tail] for tail in rest])
    starts = itertools.accumulate((len(job.input) for job in jobs), initial=0)
    kept = [start + place for start, tail in zip(starts, rest, strict=False) for place in range(len(tail))]
    tokens = [token for tail in rest for token in tail]
    counts = [job.top for job, tail in zip(jobs, rest, strict=True) for _ in tail]
    told: list[TokenProbability] = []
    for start in range(0, len(kept), _ROWS):
        end = start + _ROWS
        rows = torch.tensor(kept[start:end], device=logits_NV.device)
        told += token_probabilities(logits_NV[rows], tokens[start:end], counts[start:end])
    each = iter(told)
    return [tuple(itertools.islice(each, len(tail))) for tail in rest]


def with_texts(
    reading: Reading, ids: Sequence[int], probabilities: Sequence[TokenProbability]
) -> tuple[TokenProbability, ...]:
    """Tokens of an input with their texts, which joined are its text; the first, whose probability nobody told, has none
    (NaN)."""
    first = TokenProbability(ids[0], "", float("nan"))
    growing = Continuation(Sampling(max_tokens=len(ids), logprobs=0), reading, frozenset())
    pieces = [growing.push(token, one) for token, one in zip(ids, (first, *probabilities), strict=True)]
    return tuple(token for piece in pieces if piece is not None for token in piece.tokens)
