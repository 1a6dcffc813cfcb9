"""What labels of several tokens cost: one row with a tail for each label, against a row for each label.

    python benchmarks/labels.py --json
    python benchmarks/labels.py --model llama-135m --labels 6 --tokens 2

A training step of label scoring (32 rows of trec6, one prompt) and a pass of scoring them, both ways in turn, in one
process. Labels are random tokens that share no beginning. Ratios are of user CPU time, the median over the pairs; above 1
tails are the faster. `one_token` is the time of the same step with labels of one token over that with these.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

import softprompt.model.prefix
from benchmarks.row import Row, print_row
from benchmarks.train_vs_peft import ROWS_PER_STEP, SHORT, make_base, make_rows, timed
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.model.label_scores import Labels
from softprompt.model.splice import stack_prompts, unfold_rows
from softprompt.training.forward import Example, losses_and_gradient


@contextmanager
def rows_apart() -> Iterator[None]:
    """Lines in which every label has a row of its own, its input before it."""
    in_lines = softprompt.model.prefix.run_lines

    def apart(base: FrozenBase, stack: Any, prefix: Any, which: Any, rows: Any, keep: Any, tails: Any = None) -> Any:
        made = unfold_rows(rows, keep, tails)
        logits_NV = in_lines(base, stack, prefix, [which[owner] for owner in made.owner], made.rows, made.keep)
        first = list(itertools.accumulate((len(places) for places in made.keep), initial=0))
        return logits_NV[[first[row] + slot for row, slot in made.found]]

    softprompt.model.prefix.run_lines = apart
    try:
        yield
    finally:
        softprompt.model.prefix.run_lines = in_lines


def some_labels(count: int, tokens: int) -> Labels:
    """Labels that share no beginning."""
    draw = random.Random(count)
    return tuple((first, *(draw.randrange(2, 8000) for _ in range(tokens - 1))) for first in range(100, 100 + count))


def compare(model: str, dtype: str, count: int, tokens: int, length: int, pairs: int) -> Row:
    """One row of the benchmark."""
    base = make_base(model, dtype, "cpu")
    inputs = [ids for ids, _ in make_rows("trec6", ROWS_PER_STEP, seed=0)]
    vectors_PD = torch.randn(length, base.width, generator=torch.Generator().manual_seed(0)) * 0.02
    stack = stack_prompts([vectors_PD])
    engine = OfflineEngine(base)

    def step(labels: Labels) -> Callable[[], None]:
        examples = [Example(0, ids, (), labels, row % count, 1 / len(inputs)) for row, ids in enumerate(inputs)]
        return lambda: void(losses_and_gradient(base, stack, examples))

    def score(labels: Labels) -> Callable[[], None]:
        return lambda: void(engine.score([vectors_PD], [0] * len(inputs), inputs, [labels] * len(inputs)))

    row: Row = {"model": model, "dtype": dtype, "labels": count, "tokens": tokens, "P": length, "pairs": pairs}
    for name, make in (("train", step), ("score", score)):
        with_tails, of_one_token = make(some_labels(count, tokens)), make(some_labels(count, 1))
        measured: list[tuple[float, float, float]] = []
        for turn in range(pairs + 1):
            with rows_apart():
                apart, _ = timed(base, with_tails)
            tails, _ = timed(base, with_tails)
            one, _ = timed(base, of_one_token)
            if turn:  # the first warms up
                measured.append((apart, tails, one))
        row[f"{name}_ratio"] = round(statistics.median(apart / tails for apart, tails, _ in measured), 3)
        row[f"{name}_one_token"] = round(statistics.median(one / tails for _, tails, one in measured), 3)
        row[f"{name}_user_s"] = round(statistics.median(tails for _, tails, _ in measured), 3)
    return row


def void(_: object) -> None:
    """For what is run for its time alone."""


def main() -> None:
    """Print a row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=["builtin/tiny", "llama-135m"], default=["builtin/tiny", "llama-135m"])
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=["fp32"])
    parser.add_argument("--labels", nargs="+", type=int, default=[2, 6, 20])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2, 4], help="of each label")
    parser.add_argument("--P", nargs="+", type=int, default=[20])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for combination in itertools.product(args.model, args.dtype, args.labels, args.tokens, args.P):
        print_row(compare(*combination, args.pairs), args.json)


if __name__ == "__main__":
    main()
