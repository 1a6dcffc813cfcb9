"""Where a prompt starts: class labels against random vectors, at several lengths.

    python benchmarks/initializers.py --json
    python benchmarks/initializers.py --tasks reworded --P 20 --seeds 3 --steps 100 --json

Two tasks: trec6, and subjectivity in words that the built-in base was not pretrained on. For each task all initialisers,
lengths and seeds train in one bank, with the default recipe but for the number of steps. A row for each prompt with its
value on the test split, after training (the best by validation) and before; then the means over the seeds, and what LABELS
has over RANDOM. --judge-rows bounds the rows of validation and test, for a quick look. Data from SOFTPROMPT_DATA (default
../shared/data).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.bank import Bank
from softprompt.training.loop import Stepper
from softprompt.training.prepare import Preparer

INITS = ("LABELS", "RANDOM")


def make_task(name: str, overrides: dict[str, Any]) -> Task:
    """trec6 as it comes, or subjectivity reworded."""
    if name == "trec6":
        return make_tasks(["trec6"], 0, overrides)[0]
    (task,) = make_tasks(["subjectivity"], 0, overrides)
    return task.variant(input="Text: {text}\nThis is")


def measure(
    name: str,
    base: FrozenBase,
    inits: Sequence[str],
    lengths: Sequence[int],
    seeds: int,
    judge_rows: int | None,
    overrides: dict[str, Any],
) -> list[Row]:
    """A row for each initialiser, length and seed of one task, all trained in one bank."""
    task = make_task(name, overrides)
    grid = list(itertools.product(inits, lengths, range(seeds)))
    tasks = [task.variant(prompt_tuning_init=init, num_virtual_tokens=length, seed=seed) for init, length, seed in grid]
    progress = Bars()
    preparer = Preparer(base)
    runs = [preparer.prepare(one, None)[0] for one in tasks]
    tests = [one.encode(base, one.test[:judge_rows], one.config.num_virtual_tokens, split="test") for one in tasks]
    for run, one in zip(runs, tasks, strict=True):
        run.validation = one.encode(base, one.validation[:judge_rows], one.config.num_virtual_tokens, split="validation")
    trials = [Trial(run.task.form, run.start_PD.to(base.dtype), test) for run, test in zip(runs, tests, strict=True)]
    architecture = architecture_of(base)
    engine = OfflineEngine(architecture)
    before = result_of(judge(engine, trials))
    bank = Bank([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    stepper = Stepper(architecture)
    with progress.stage(f"train {name}", runs[0].total) as advance:
        while stepper.step(bank, runs):
            advance(1, f"loss {statistics.fmean(run.loss for run in runs):.3f}")
    best = [run.best_PD if run.best_PD is not None else run.start_PD for run in runs]
    trials = [
        Trial(run.task.form, vectors_PD.to(base.dtype), test)
        for run, vectors_PD, test in zip(runs, best, tests, strict=True)
    ]
    with progress.stage("judge", sum(map(len, tests))) as advance:
        after = result_of(judge(engine, trials), advance)
    return [
        {
            "task": name,
            "init": init,
            "P": length,
            "seed": seed,
            "value": report.value,
            "validation": run.best.value if run.best else None,
            "untrained": start.value,
            "steps": run.total,
            "rows": report.rows,
        }
        for (init, length, seed), run, start, report in zip(grid, runs, before, after, strict=True)
    ]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Means and standard deviations over the seeds, and LABELS over RANDOM at each length."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["init"], row["P"]), []).append(row)
    means: dict[tuple[str, str, int], Row] = {}
    for (task, init, length), same in found.items():
        values = [row["value"] for row in same]
        means[task, init, length] = {
            "task": task,
            "init": init,
            "P": length,
            "mean": round(statistics.fmean(values), 4),
            "spread": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
            "untrained": round(statistics.fmean(row["untrained"] for row in same), 4),
            "seeds": len(values),
        }
    over = [
        {"task": task, "P": length, "labels_over_random": round(mean["mean"] - means[task, "RANDOM", length]["mean"], 4)}
        for (task, init, length), mean in means.items()
        if init == "LABELS" and (task, "RANDOM", length) in means
    ]
    return [*means.values(), *over]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=["trec6", "reworded"], default=["trec6", "reworded"])
    parser.add_argument("--inits", nargs="+", choices=["LABELS", "RANDOM", "SAMPLE_VOCAB"], default=list(INITS))
    parser.add_argument("--P", nargs="+", type=int, default=[1, 5, 20, 100])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--judge-rows", type=int, help="validate and test on the first so many; by default on all")
    parser.add_argument("--batch", type=int, default=32, help="rows of a prompt in a step")
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    base = FrozenBase.load(args.base, dtype=args.dtype)
    overrides = {"max_steps": args.steps, "per_device_train_batch_size": args.batch}
    rows: list[Row] = []
    for name in args.tasks:
        found = measure(name, base, args.inits, args.P, args.seeds, args.judge_rows, overrides)
        for row in found:
            print_row(row, args.json)
        rows += found
    for row in summarise(rows):
        print_row(row, args.json)


if __name__ == "__main__":
    main()
