"""A sweep of 32 candidates against as many PEFT runs: what the best of each is worth, and what finding it costs.

    python benchmarks/sweep_vs_peft.py --model models/smollm2.gguf --dtype bf16 --json

The candidates are four rates, two initialisers and four seeds of trec6. Ours go through one sweep, which drops the worse
half at each rung by validation. Of PEFT's 32 runs only --peft-runs are made, drawn by chance among the candidates, each with
the Trainer, from the same vectors, with the same rate, rows, schedule and steps, and judged on the same validation and test
rows; `peft_user_s` is their cost times 32 over how many they are (`peft_runs`). `cost` is ours over that. Time is of
training and, for the sweep, of the validations that it drops by; the judging of PEFT's runs is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from torch import Tensor

from benchmarks.row import Row, print_row
from benchmarks.tasks import first_rows, make_tasks
from benchmarks.to_accuracy import arguments_for_peft, peft_model
from benchmarks.train_vs_peft import SHORT
from softprompt.bases.base import FrozenBase
from softprompt.compare.trainer import fit_peft
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Silent
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from softprompt.training.sweep import sweep

GRID: dict[str, list[Any]] = {
    "learning_rate": [0.01, 0.03, 0.1, 0.3],
    "prompt_tuning_init": ["LABELS", "SAMPLE_VOCAB"],
    "seed": [0, 1, 2, 3],
}


def judged(base: FrozenBase, task: Task, vectors_PD: Tensor, split: str) -> Report:
    """A prompt on the validation or test rows."""
    rows = task.encode(base, getattr(task, split), len(vectors_PD), split=split)
    trial = Trial(task.form, vectors_PD.to(base.device, base.dtype), rows)
    (report,) = result_of(judge(OfflineEngine(architecture_of(base)), [trial]))
    return report


def measure(args: argparse.Namespace, length: int) -> Row:
    """One row of the benchmark."""
    base = FrozenBase.load(args.model, dtype=SHORT.get(args.dtype, args.dtype))
    settings = {
        "num_virtual_tokens": length,
        "per_device_train_batch_size": args.batch,
        "max_steps": args.max_steps,
        "eval_per_epoch": args.validations,
        "max_eval_samples": args.eval_rows,
    }
    (task,) = make_tasks(["trec6"], 0, settings)
    task = first_rows(task, args.train_rows)
    user, began = os.times().user, time.perf_counter()
    swept = sweep(task, GRID, base=base, publish=False)
    ours_user, ours_wall = os.times().user - user, time.perf_counter() - began
    survivor = swept.candidates[0]
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    peft_user = peft_wall = 0.0
    runs: list[Row] = []
    for changes in random.Random("peft").sample(grid, args.peft_runs):
        candidate = task.variant(**changes)
        run, _ = Preparer(base).prepare(candidate, None)
        model = peft_model(base, run.start_PD)
        user, began = os.times().user, time.perf_counter()
        fit_peft(model, candidate, base, arguments_for_peft(candidate, changes["learning_rate"]), Silent())
        peft_user += os.times().user - user
        peft_wall += time.perf_counter() - began
        vectors_PD = model.get_prompt_embedding_to_save("default").detach()
        value, test = (judged(base, task, vectors_PD, split).value for split in ("validation", "test"))
        runs.append({"candidate": changes, "validation": round(value, 4), "test": round(test, 4)})
        print(f"PEFT {len(runs)} of {args.peft_runs}: {changes}, {value:.3f}, test {test:.3f}", file=sys.stderr)
    best = max(runs, key=lambda row: row["validation"])
    share = len(grid) / len(runs)
    return {
        "model": Path(args.model).stem,
        "dtype": args.dtype,
        "P": length,
        "K": len(grid),
        "steps": args.max_steps,
        "rows": "trec6",
        "value": swept.tuned.prompt.card.metrics["value"],
        "validation": survivor["validation"],
        "candidate": {name: survivor[name] for name in GRID},
        "peft_value": best["test"],
        "peft_validation": best["validation"],
        "peft_candidate": best["candidate"],
        "peft_values": [row["test"] for row in runs],
        "peft_runs": len(runs),
        "ours_user_s": round(ours_user, 1),
        "peft_user_s": round(peft_user * share, 1),
        "ours_wall_s": round(ours_wall, 1),
        "peft_wall_s": round(peft_wall * share, 1),
        "ratio": round(peft_user * share / ours_user, 2),
        "ratio_wall": round(peft_wall * share / ours_wall, 2),
        "cost": round(ours_user / (peft_user * share), 4),
    }


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--dtype", default="fp32", choices=list(SHORT))
    parser.add_argument("--P", nargs="+", type=int, default=[20])
    parser.add_argument("--peft-runs", type=int, default=8, help="how many of PEFT's 32 are made")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--max-steps", type=int, default=96)
    parser.add_argument("--train-rows", type=int, default=2000)
    parser.add_argument(
        "--eval-rows", type=int, default=256, help="validation rows of the sweep at most; PEFT's are judged on all"
    )
    parser.add_argument("--validations", type=int, default=9, help="in an epoch, so that there is one at each rung")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for length in args.P:
        print_row(measure(args, length), args.json)


if __name__ == "__main__":
    main()
