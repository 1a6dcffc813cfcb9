"""What batch invariance costs, and what counting near ties does: the same work with and without, in one process.

    python benchmarks/invariant.py --json
    python benchmarks/invariant.py --cases generate --dtype bf16 --tasks 8

`ratio` is the median of the ratios of user CPU times (`ratio_wall` of wall-clock times), the usual way over the invariant
one: 0.5 means that the invariant way takes twice as long. Prompts are random, 20 tokens; inputs are 30 random tokens; 16
tokens come out, or the scores of six labels; a training step is of 4 prompts with 8 rows each. `near_ties` compares steps
that count them with steps that do not.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.load import OUTPUT, closed_loop, draw_tasks, paired, running, served_base, some_inputs, some_vectors
from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.protocol import GenerateJob, Sampling
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import architecture_of, within_one_owner
from softprompt.model.rounding import ROUNDING
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import OBJECTIVES, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient

LABELS = tuple((token, token + 1) for token in range(100, 112, 2))
"""Six, of two tokens each."""


def generate(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Requests of several tasks through the server's engine, so many in flight."""
    inputs = some_inputs(args.requests, seed=1)
    which = draw_tasks(args.tasks, "uniform", len(inputs), seed=1)
    sampling = Sampling(max_tokens=OUTPUT)
    jobs = [GenerateJob(some_vectors(base, task), ids, sampling) for task, ids in zip(which, inputs, strict=True)]
    for flight in args.flight:
        with running(_invariant(base)) as ours, running(_served(base, args)) as other:
            invariant, usual = (functools.partial(closed_loop, engine, jobs, flight) for engine in (ours, other))
            row = paired(lambda _: invariant(), lambda _: usual(), args.pairs)  # noqa: B023  (called at once)
        yield {"flight": flight, "requests": len(jobs), **row}


def score(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Six labels behind each input, as `predict` and `evaluate` do it."""
    inputs = some_inputs(args.requests, seed=2)
    which = draw_tasks(args.tasks, "uniform", len(inputs), seed=2)
    prompts = [torch.as_tensor(some_vectors(base, task).vectors_PD) for task in range(args.tasks)]

    def run(engine: OfflineEngine, _: int) -> None:
        result_of(engine.score(prompts, which, inputs, [LABELS] * len(inputs)))

    ours, other = (OfflineEngine(architecture_of(replace(base, batch_invariant=each))) for each in (True, False))
    yield {"rows": len(inputs), **paired(functools.partial(run, ours), functools.partial(run, other), args.pairs)}


def train(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Losses and gradient of 4 prompts' batches: each alone, or together."""
    prompts, rows = 4, 8
    inputs = some_inputs(prompts * rows, seed=3)
    vectors = [torch.as_tensor(some_vectors(base, task).vectors_PD) for task in range(prompts)]
    objective = OBJECTIVES["label_scoring"]
    targets = [LabelTarget(LABELS, number % len(LABELS)) for number in range(len(inputs))]
    architecture = within_one_owner(architecture_of(base))
    made = [
        Example(n // rows, ids, objective, target, 1 / rows)
        for n, (ids, target) in enumerate(zip(inputs, targets, strict=True))
    ]

    def step(examples: Sequence[Example], own: Sequence[torch.Tensor]) -> None:
        losses_and_gradient(architecture, stack_prompts(own), examples)

    def alone(_: int) -> None:
        for k in range(prompts):
            step([replace(e, which=0) for e in made if e.which == k], [vectors[k]])

    yield {"prompts": prompts, "rows": rows, **paired(alone, lambda _: step(made, vectors), args.pairs)}


def near_ties(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """The usual engine that counts near ties, against the same without."""
    inputs = some_inputs(args.requests, seed=4)
    jobs = [
        GenerateJob(some_vectors(base, n % args.tasks), ids, Sampling(max_tokens=OUTPUT)) for n, ids in enumerate(inputs)
    ]
    served = _served(base, args)
    with running(served) as ours, running(served) as other:
        other._ties.share = 0.0
        row = paired(lambda _: closed_loop(ours, jobs), lambda _: closed_loop(other, jobs), args.pairs)
        yield {"requests": len(jobs), "near": ours.status().near_ties, "bound": ROUNDING[base.dtype], **row}


def _invariant(base: FrozenBase) -> FrozenBase:
    invariant = replace(base, batch_invariant=True)
    invariant.__dict__["end_ids"] = base.end_ids  # none, as for the other
    return invariant


def _served(base: FrozenBase, args: argparse.Namespace) -> FrozenBase:
    """The base as it is served without the option: with fused attention."""
    return served_base(args.name, args.width, "sdpa")


CASES: dict[str, Callable[[FrozenBase, argparse.Namespace], Iterator[Row]]] = {
    "generate": generate,
    "score": score,
    "train": train,
    "near_ties": near_ties,
}


def main() -> None:
    """Print a row for each case, model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["builtin/tiny"])
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--flight", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for model in args.model:
        for dtype in args.dtype:
            base = served_base(model, dtype, "eager")
            chosen = argparse.Namespace(**{**vars(args), "name": model, "width": dtype})
            for case in args.cases:
                for row in CASES[case](base, chosen):
                    print_row({"model": model, "dtype": dtype, "case": case, **row}, args.json)


if __name__ == "__main__":
    main()
