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
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.row import Row, print_row
from benchmarks.train_vs_peft import ROWS_PER_STEP, SHORT, make_base, make_rows, timed
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import result_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Ids, Tails, unfold_rows
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack, stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient


class Apart(Causal):
    """Lines in which every label has a row of its own, its input before it."""

    def run_lines(
        self, stack: Stack, prefix: Prefix, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> torch.Tensor:
        made = unfold_rows(inputs, tails)
        stems = [ids[: kept.start + 1] for ids, kept in zip(made.rows, made.keep, strict=True)]
        ends = [[ids[kept.start + 1 :]] for ids, kept in zip(made.rows, made.keep, strict=True)]
        return super().run_lines(stack, prefix, [which[owner] for owner in made.owner], stems, ends)


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
    causal, apart = Causal(base), Apart(base)

    def step(causal: Causal, labels: Labels) -> Callable[[], None]:
        targets = [LabelTarget(labels, row % count) for row in range(len(inputs))]
        examples = [
            Example(0, ids, LABEL_SCORING, target, 1 / len(inputs)) for ids, target in zip(inputs, targets, strict=True)
        ]
        return lambda: void(losses_and_gradient(causal, stack, examples))

    def score(causal: Causal, labels: Labels) -> Callable[[], None]:
        engine = OfflineEngine(causal)
        return lambda: void(result_of(engine.score([vectors_PD], [0] * len(inputs), inputs, [labels] * len(inputs))))

    row: Row = {"model": model, "dtype": dtype, "labels": count, "tokens": tokens, "P": length, "pairs": pairs}
    for name, make in (("train", step), ("score", score)):
        with_tails, of_one_token = make(causal, some_labels(count, tokens)), make(causal, some_labels(count, 1))
        rows_apart = make(apart, some_labels(count, tokens))
        measured: list[tuple[float, float, float]] = []
        for turn in range(pairs + 1):
            seconds = [timed(base, run)[0] for run in (rows_apart, with_tails, of_one_token)]
            if turn:  # the first warms up
                measured.append((seconds[0], seconds[1], seconds[2]))
        row[f"{name}_ratio"] = round(statistics.median(rows / tails for rows, tails, _ in measured), 3)
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
