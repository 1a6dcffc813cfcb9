"""What the benchmarks of serving share: bases, made-up requests, a loop that keeps some in flight, and timing in pairs."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.row import Row
from benchmarks.train_vs_peft import make_base
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import GenerateJob, Piece, Result, Vectors
from softprompt.engines.scheduler import Limits
from softprompt.errors import EngineError
from softprompt.model.architecture import architecture_of

VIRTUAL, INPUT, OUTPUT, FLIGHT = 20, 30, 16, 64


def served_base(model: str, dtype: str, attention: str) -> FrozenBase:
    """A base that never ends a text by itself, so that every request costs the same."""
    return as_served(make_base(model, dtype, "cpu"), attention)


def as_served(base: FrozenBase, attention: str) -> FrozenBase:
    """The same of a base that is there."""
    base.model.set_attn_implementation(attention)
    base = replace(base, tokenizer=base.tokenizer or FrozenBase.load("builtin/tiny").tokenizer)
    base.__dict__["end_ids"] = frozenset()
    return base


def some_vectors(base: FrozenBase, task: int, note: str = "") -> Vectors:
    """The random prompt of a task."""
    generator = torch.Generator().manual_seed(task)
    vectors_PD = torch.randn(VIRTUAL, base.width, generator=generator) * 0.02
    return Vectors(f"{note}{task:08x}", vectors_PD.to(base.dtype))


def some_inputs(count: int, seed: int) -> list[tuple[int, ...]]:
    """Random inputs, of ids that every base here knows."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(2, 8000) for _ in range(INPUT)) for _ in range(count)]


def draw_tasks(tasks: int, distribution: str, count: int, seed: int) -> list[int]:
    """The task of each request: uniform, or Zipf with exponent 1.1."""
    weights = [1.0] * tasks if distribution == "uniform" else [rank**-1.1 for rank in range(1, tasks + 1)]
    return random.Random(seed).choices(range(tasks), weights, k=count)


def closed_loop(engine: ContinuousEngine, jobs: Sequence[GenerateJob], flight: int = FLIGHT) -> None:
    """Run jobs, so many in flight at a time."""
    ended: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def deliver(result: Result) -> None:
        if not isinstance(result, Piece) or result.finish:
            ended.put(result)

    waiting = iter(jobs)
    engine.submit_all([(job, deliver) for job in itertools.islice(waiting, flight)])
    for _ in jobs:
        result = ended.get()
        if isinstance(result, EngineError):
            raise result
        for job in itertools.islice(waiting, 1):
            engine.submit(job, deliver)


def timed(run: Callable[[int], Any], pair: int) -> tuple[float, float]:
    """User CPU and wall-clock seconds."""
    user, wall = os.times().user, time.perf_counter()
    run(pair)
    return os.times().user - user, time.perf_counter() - wall


def paired(ours: Callable[[int], Any], other: Callable[[int], Any], pairs: int) -> Row:
    """Time two things in turn; each is given the number of the pair."""
    ours(-1)
    other(-1)
    measured = []
    for pair in range(pairs):
        if pair % 2:  # neither is always the first
            mine, its = timed(ours, pair), timed(other, pair)
        else:
            its, mine = timed(other, pair), timed(ours, pair)
        measured.append((*its, *mine))
    ratios = [other_user / our_user for other_user, _, our_user, _ in measured]
    columns = [statistics.median(column) for column in zip(*measured, strict=True)]
    return {
        "pairs": pairs,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "ratio_wall": round(statistics.median(m[1] / m[3] for m in measured), 3),
        "other_user_s": round(columns[0], 3),
        "other_wall_s": round(columns[1], 3),
        "user_s": round(columns[2], 3),
        "wall_s": round(columns[3], 3),
    }


@contextlib.contextmanager
def running(base: FrozenBase, **options: Any) -> Iterator[ContinuousEngine]:
    """An engine, stopped at the end."""
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=FLIGHT), **options)
    try:
        yield engine
    finally:
        engine.stop(drain=False)


def quantiles(values: Sequence[float]) -> list[tuple[str, float]]:
    """Median and 99th percentile of milliseconds."""
    cuts = statistics.quantiles(values, n=100)
    return [("p50_ms", round(cuts[49], 4)), ("p99_ms", round(cuts[98], 4))]
