"""Rows in company against the same rows alone: to the last bit where that is asked for, else within a bound."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.batch import rows_of
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import EmbedJob, GenerateJob, Job, Result, Sampling, ScoreJob
from softprompt.engines.scheduler import Limits
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.kinds.invariant import TILE, Invariant, tile_columns
from softprompt.model.rounding import ROUNDING
from tests.engine_jobs import Inbox, gaps_to_best, generate_offline, idle, score_offline, some_vectors
from tests.models import ARCHITECTURES, UNEVEN, VOCABULARY, make_base

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LABELS = ((5,), (6, 7), (6, 8, 9))


def invariant_base(architecture: str, dtype: torch.dtype = torch.float32, attention: str = "eager") -> FrozenBase:
    return replace(make_base(architecture, dtype=dtype, attention=attention), batch_invariant=True)


@contextmanager
def running(architecture: Architecture, **limits: int) -> Iterator[ContinuousEngine]:
    engine = ContinuousEngine(architecture, Limits(**limits))
    try:
        yield engine
    finally:
        engine.stop(drain=False)


def some_jobs(base: FrozenBase, draw: random.Random, count: int, longest: int = 24) -> list[Job]:
    """Of several prompts: greedy, drawn and scored."""
    prompts = [some_vectors(base, rows, seed) for seed, rows in enumerate([0, 3, 7, 1, 12])]
    jobs: list[Job] = []
    for number in range(count):
        ids = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, longest)))
        drawn: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": number} if number % 3 == 1 else {}
        how = Sampling(max_tokens=draw.randrange(1, longest), logprobs=2, **drawn)
        prompt = draw.choice(prompts)
        jobs.append(GenerateJob(prompt, ids, how) if number % 4 else ScoreJob(prompt, ids, LABELS))
    return [*jobs, EmbedJob(tuple(draw.randrange(2, VOCABULARY) for _ in range(7)))]


def answers(engine: ContinuousEngine, jobs: Sequence[Job], wait: Sequence[bool]) -> list[list[Result]]:
    """Results of jobs handed in one after the other; some are waited for before the next comes."""
    inboxes = []
    for job, waits in zip(jobs, wait, strict=True):
        inboxes.append(Inbox())
        engine.submit(job, inboxes[-1])
        if waits:
            inboxes[-1].wait()
    return [inbox.wait().results for inbox in inboxes]


def assert_same_alone_and_mixed(architecture: Architecture, draw: random.Random, count: int, longest: int) -> None:
    jobs = some_jobs(architecture.base, draw, count, longest)
    with running(architecture) as engine:
        alone = answers(engine, jobs, [True] * len(jobs))
        hit = answers(engine, jobs[:2], [True] * 2)  # with its prompt's keys and values there already
    assert hit == alone[:2]
    order = draw.sample(range(len(jobs)), len(jobs))
    with running(architecture, max_rows=draw.randrange(2, 12), token_budget=draw.choice([20, 4096])) as engine:
        mixed = answers(engine, [jobs[at] for at in order], [draw.random() < 0.2 for _ in order])
    for at, found in zip(order, mixed, strict=True):
        assert found == alone[at], jobs[at]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", UNEVEN])
def test_answers_are_the_same_to_the_last_bit_in_any_company(architecture: str, dtype: torch.dtype) -> None:
    draw = random.Random(f"{architecture} {dtype}")
    assert_same_alone_and_mixed(architecture_of(invariant_base(architecture, dtype)), draw, 12, 20)


LLAMAS = {dtype: architecture_of(invariant_base("llama", dtype)) for dtype in (torch.float32, torch.bfloat16)}


@settings(max_examples=4)
@given(seed=st.integers(0, 1 << 32), dtype=st.sampled_from(list(LLAMAS)), longest=st.sampled_from([8, 40]))
def test_random_mixes_have_no_say_in_any_bit(seed: int, dtype: torch.dtype, longest: int) -> None:
    assert_same_alone_and_mixed(LLAMAS[dtype], random.Random(seed), 8, longest)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_holds_for_either_attention_and_where_prompts_cannot_be_shared(attention: str) -> None:
    base = invariant_base("mistral", torch.bfloat16, attention)
    apart = Invariant(base)
    apart.shares_prefix = False
    assert_same_alone_and_mixed(architecture_of(base), random.Random(1), 8, 12)
    assert_same_alone_and_mixed(apart, random.Random(1), 5, 6)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_tiles_answer_as_the_base_alone_does(architecture: str) -> None:
    """Over a growth from tiles of 64 columns to such of 128, with more rows than a tile has."""
    base = invariant_base(architecture)
    draw = random.Random(architecture)
    prompts = [some_vectors(base, rows, seed) for seed, rows in enumerate([0, 4, 20])]
    rows = [
        (draw.choice(prompts), tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 50)))) for _ in range(20)
    ]
    with running(architecture_of(base)) as engine:
        inboxes = [Inbox() for _ in rows]
        jobs = [GenerateJob(*row, Sampling(max_tokens=12, logprobs=0)) for row in rows]
        engine.submit_all(list(zip(jobs, inboxes, strict=True)))
        for row, inbox in zip(rows, inboxes, strict=True):
            assert max(gaps_to_best(base, *row, inbox.wait().tokens)) < 1e-3
        idle(engine)


def test_one_call_answers_as_the_server_does() -> None:
    base = invariant_base("llama", torch.bfloat16)
    draw = random.Random(3)
    prompts = [some_vectors(base, rows, rows) for rows in (3, 9)]
    vectors = [torch.as_tensor(prompt.vectors_PD) for prompt in prompts]
    which = [draw.randrange(2) for _ in range(9)]
    inputs = [tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 30))) for _ in which]
    generated = generate_offline(base, vectors, which, inputs, [7] * 9)
    scored = score_offline(base, vectors, which, inputs, [LABELS] * 9)
    sampling = Sampling(max_tokens=7, logprobs=0)
    with running(architecture_of(base)) as engine:
        for place, ids, tokens, scores in zip(which, inputs, generated, scored, strict=True):
            one, other = Inbox(), Inbox()
            engine.submit_all(
                [(GenerateJob(prompts[place], ids, sampling), one), (ScoreJob(prompts[place], ids, LABELS), other)]
            )
            assert [token for token in one.wait().tokens if token not in base.end_ids] == tokens
            assert list(other.last.values) == scores  # type: ignore[union-attr]


class _PlaceMatters(Invariant):
    def run_cached(self, ids_BT: Any, positions_BT: Any, cache: Any, mask_BS: Any) -> torch.Tensor:
        logits_BV = super().run_cached(ids_BT, positions_BT, cache, mask_BS)
        return logits_BV + 1e-6 * torch.arange(len(logits_BV))[:, None]


class _NeighboursMatter(Invariant):
    def run_cached(self, ids_BT: Any, positions_BT: Any, cache: Any, mask_BS: Any) -> torch.Tensor:
        logits_BV = super().run_cached(ids_BT, positions_BT, cache, mask_BS)
        return logits_BV + 1e-4 * logits_BV.mean()


def test_a_base_on_which_tiles_do_not_hold_runs_row_by_row() -> None:
    base = invariant_base("llama")
    assert architecture_of(base).tile(64) == TILE  # type: ignore[attr-defined]
    for kind in (_PlaceMatters, _NeighboursMatter):
        assert kind(base).tile(64) == 1
    assert_same_alone_and_mixed(_NeighboursMatter(base), random.Random(5), 6, 12)


@given(length=st.integers(1, 1 << 17))
def test_a_tile_has_room_to_spare(length: int) -> None:
    assert length < tile_columns(length) <= max(64, 2 * length)


# Without it


def logits_of(architecture: Architecture, jobs: Sequence[GenerateJob], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of rows that are made to go on with given tokens, steps x B x V."""
    with torch.no_grad():
        rows = rows_of(architecture, PrefixCache(architecture, 1 << 30))
        return torch.stack([rows.enter(jobs), *(rows.step([own[n] for own in tokens]) for n in range(len(tokens[0])))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("architecture", "attention"), [("llama", "sdpa"), ("gpt2", "eager"), ("gemma2", "eager"), ("opt", "sdpa")]
)
def test_without_it_logits_keep_to_the_bound(architecture: str, attention: str, dtype: torch.dtype) -> None:
    base = make_base(architecture, dtype=dtype, attention=attention)
    draw = random.Random(architecture)
    made = [job for job in some_jobs(base, draw, 16) if isinstance(job, GenerateJob)]
    tokens = [[draw.randrange(2, VOCABULARY) for _ in range(8)] for _ in made]
    together = logits_of(architecture_of(base), made, tokens).float()
    moved = []
    for row, job in enumerate(made):
        alone = logits_of(architecture_of(base), [job], [tokens[row]]).float()[:, 0]
        moved.append((alone - together[:, row]).abs().amax(-1) / alone.abs().amax(-1))
    assert float(torch.stack(moved).max()) <= ROUNDING[dtype]
    if attention == "sdpa":
        assert float(torch.stack(moved).max()) > 0, "the bound is there for nothing: batches no longer matter"


@pytest.mark.parametrize("dtype", DTYPES)
def test_choices_that_rounding_could_turn_are_counted(dtype: torch.dtype) -> None:
    twins = make_base("opt", dtype=dtype)
    weight_VD = twins.embedding.weight
    torch.nn.init.normal_(weight_VD, generator=torch.Generator().manual_seed(0))
    prompt, ids = some_vectors(twins, 3, 1), (5, 9, 30)

    def count(base: FrozenBase, job: Job) -> int:
        with running(architecture_of(base)) as engine:
            inbox = Inbox()
            engine.submit(job, inbox)
            inbox.wait()
            return engine.status().near_ties

    (first,) = generate_offline(twins, [torch.as_tensor(prompt.vectors_PD)], [0], [ids], [1])[0]
    greedy, drawn = (GenerateJob(prompt, ids, Sampling(max_tokens=1, temperature=t, seed=0)) for t in (0.0, 1.0))
    other = 7 if first != 7 else 8
    labels = ScoreJob(prompt, ids, ((first,), (other,)))
    assert count(twins, greedy) == count(twins, labels) == 0
    with torch.no_grad():
        weight_VD[other] = weight_VD[first]  # now two tokens are equally likely
    assert count(twins, greedy) == count(twins, labels) == 1
    assert count(twins, drawn) == 0
    assert count(replace(twins, batch_invariant=True), greedy) == 0
