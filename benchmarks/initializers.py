"""Where a prompt starts, and what stands before it while it is trained: class labels against random vectors, and each
reparameterisation against plain vectors, at several lengths and numbers of training rows.

    python benchmarks/initializers.py --json
    python benchmarks/initializers.py --tasks reworded --P 20 --seeds 3 --steps 100 --json
    python benchmarks/initializers.py --base models/smollm2.gguf --inits LABELS --P 20 --rows 64 1000 \\
        --networks none RESIDUAL MLP LSTM LOW_RANK --steps 100 --judge-rows 200 --json

Two tasks: trec6, and subjectivity in words that the built-in base was not pretrained on. For each task all initialisers,
lengths, networks, rates and seeds of so many rows train in one bank, with the default recipe but for the number of steps. A
row for each prompt with its value on the test split, after training (the best by validation) and before; then the means over
the seeds, what LABELS has over RANDOM, and what each network, at the best of the rates by validation, has over none.
--judge-rows bounds the rows of validation and test, for a quick look. Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.tasks.config.config import Reparameterization
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.loop import Stepper

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
    networks: Sequence[str] = ("none",),
    rates: Sequence[float] = (1.0,),
    train_rows: int | None = None,
) -> list[Row]:
    """A row for each initialiser, length, network, rate and seed of one task, all trained in one bank."""
    task = make_task(name, overrides)
    if train_rows is not None:
        task = first_rows(task, train_rows)
    grid = list(itertools.product(inits, lengths, networks, rates, range(seeds)))
    tasks = [
        task.variant(
            prompt_tuning_init=init,
            num_virtual_tokens=length,
            encoder_reparameterization_type=None if network == "none" else network,
            learning_rate_multiplier=rate,
            seed=seed,
        )
        for init, length, network, rate, seed in grid
    ]
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
            "network": network,
            "rate": rate,
            "train_rows": len(task.train),
            "seed": seed,
            "value": report.value,
            "validation": run.best.value if run.best else None,
            "untrained": start.value,
            "steps": run.total,
            "rows": report.rows,
        }
        for (init, length, network, rate, seed), run, start, report in zip(grid, runs, before, after, strict=True)
    ]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Means and standard deviations over the seeds, LABELS over RANDOM, and each network over none at its best rate."""
    named = ("task", "init", "P", "network", "rate", "train_rows")
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in named), []).append(row)
    means = {
        key: {
            **dict(zip(named, key, strict=True)),
            "mean": round(statistics.fmean(row["value"] for row in same), 4),
            "spread": round(statistics.stdev(row["value"] for row in same), 4) if len(same) > 1 else 0.0,
            "validation": round(statistics.fmean(row["validation"] or 0.0 for row in same), 4),
            "untrained": round(statistics.fmean(row["untrained"] for row in same), 4),
            "seeds": len(same),
        }
        for key, same in found.items()
    }
    over: list[Row] = []
    for (task, init, *rest), mean in means.items():
        random = means.get((task, "RANDOM", *rest))
        if init == "LABELS" and random is not None:
            shown = dict(zip(named[2:], rest, strict=True))
            over.append({"task": task, **shown, "labels_over_random": round(mean["mean"] - random["mean"], 4)})
    best: dict[tuple[Any, ...], Row] = {}
    for (task, init, length, network, _, count), mean in means.items():
        key = (task, init, length, count, network)
        if key not in best or mean["validation"] > best[key]["validation"]:
            best[key] = mean
    for (*rest, network), mean in best.items():
        plain = best.get((*rest, "none"))
        if network != "none" and plain is not None:
            own = {name: mean[name] for name in (*named, "mean", "spread", "seeds")}
            over.append({**own, "over_none": round(mean["mean"] - plain["mean"], 4), "none_spread": plain["spread"]})
    return [*means.values(), *over]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=["trec6", "reworded"], default=["trec6", "reworded"])
    parser.add_argument("--inits", nargs="+", choices=["LABELS", "RANDOM", "SAMPLE_VOCAB"], default=list(INITS))
    parser.add_argument("--P", nargs="+", type=int, default=[1, 5, 20, 100])
    parser.add_argument("--networks", nargs="+", choices=["none", *get_args(Reparameterization)], default=["none"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0], help="multiples of the default learning rate")
    parser.add_argument("--rows", nargs="+", type=int, help="training rows; by default all")
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
    for name, count in itertools.product(args.tasks, args.rows or [None]):
        grid = (args.inits, args.P, args.seeds, args.judge_rows, overrides, args.networks, args.rates, count)
        found = measure(name, base, *grid)
        for row in found:
            print_row(row, args.json)
        rows += found
    for row in summarise(rows):
        print_row(row, args.json)


if __name__ == "__main__":
    main()
