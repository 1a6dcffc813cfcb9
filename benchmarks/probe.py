"""A head alone, without a soft prompt: what an encoder's features are worth on real tasks before anything steers them.

    python benchmarks/probe.py --base models/minilm --tasks trec6 --json

The features of each row are made once; a linear layer is fitted to them until it moves no more (L-BFGS), with the weight
decay that does best on the validation rows. Rows as those of `quality.py`, whose `ours` on the same base trains prompt and
head together. Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.tasks.task import Task

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def fit(features_BF: Tensor, right_B: Tensor, labels: int, decay: float) -> torch.nn.Linear:
    """A linear layer on features."""
    layer = torch.nn.Linear(features_BF.shape[1], labels)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = torch.nn.functional.cross_entropy(layer(features_BF), right_B) + decay * layer.weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return layer.requires_grad_(False)


def probe(base: FrozenBase, task: Task) -> Row:
    """A row for a task."""
    began, architecture = time.perf_counter(), HeadedEncoder(base)
    given: dict[str, tuple[Tensor, Tensor]] = {}
    for split, rows in task.splits.items():
        examples = task.encode(base, rows, 0, split=split)
        given[split] = architecture.features(examples.inputs), torch.tensor(examples.choices)
    train, validation, test = given["training"], given["validation"], given["test"]

    def accuracy(layer: torch.nn.Linear, rows: tuple[Tensor, Tensor]) -> float:
        return float((layer(rows[0]).argmax(1) == rows[1]).float().mean())

    layers = [fit(*train, len(task.form.labels or ()), decay) for decay in DECAYS]
    best = max(layers, key=lambda layer: accuracy(layer, validation))
    return {
        "base": base.name, "method": "head alone", "task": task.name, "seed": task.config.seed, "metric": "accuracy",
        "value": accuracy(best, test), "rows": len(test[1]), "train_rows": len(train[1]),
        "trainable": sum(one.numel() for one in best.parameters()), "seconds": round(time.perf_counter() - began, 2),
        "pooling": architecture.head.pooling,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="models/minilm")
    parser.add_argument("--tasks", nargs="+", choices=REAL, default=list(REAL))
    parser.add_argument("--train-rows", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    base = FrozenBase.load(args.base, device="cpu")
    for task in make_tasks(args.tasks, 0, {}):
        print_row(probe(base, first_rows(task, args.train_rows)), args.json)


if __name__ == "__main__":
    main()
