"""False alarms of `softprompt diagnose`: what it names in trainings where nothing is wrong.

    python benchmarks/diagnose.py --json                    # the examples, two seeds
    python benchmarks/diagnose.py --tasks trec6 --seeds 1   # a quick look

The example tasks are trained on the built-in base, all in one bank, and each version is diagnosed. A row for each training
with the modes that are named, and one of totals: of the trainings that learnt (healthy ones), how many are called ill. Data
from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import make_tasks
from softprompt.library.library import Library
from softprompt.lifecycle.diagnosis.diagnose import diagnose
from softprompt.lifecycle.diagnosis.rows import OF_ROWS
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.train import train

TASKS = ("trec6", "subjectivity", "sentence_polarity", "rte3")


def run(args: argparse.Namespace) -> list[Row]:
    """Train and diagnose; a row for each training, and the totals last."""
    started, rows = time.perf_counter(), []
    recipe = {
        "max_steps": args.max_steps, "base": args.base, "num_virtual_tokens": 20, "per_device_train_batch_size": 32,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Library.open(Path(folder) / "home") as library:
        tasks = [
            shortened(task, Path(folder), args.rows).variant(task=f"{task.name}-{seed}")
            for seed in range(args.seeds)
            for task in make_tasks(args.tasks, seed, recipe)
        ]
        train(tasks, library=library, progress=Bars())
        for task in tasks:
            card = library.registry.resolve(task.name).card
            found = [one.mode for one in diagnose(task.name, library=library)]
            name, _, seed = task.name.rpartition("-")
            told = {"learnt": card.learnt, "value": card.metrics["value"], "steps": card.recipe["steps"]}
            rows.append({"base": args.base, "task": name, "seed": int(seed), **told, "modes": found})
            print_row(rows[-1], args.json)
    totals = {
        "base": args.base,
        **count(rows),
        "rows": args.rows,
        "max_steps": args.max_steps,
        "seconds": round(time.perf_counter() - started),
    }
    print_row(totals, args.json)
    return [*rows, totals]


def shortened(task: Task, folder: Path, most: int) -> Task:
    """The task with so many training rows at most, and half as many of the others, in files of their own."""
    files = {}
    for split, rows in task.splits.items():
        kept = list(rows)
        random.Random(0).shuffle(kept)
        file = folder / f"{task.name}-{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in kept[: most if split == "training" else most // 2]))
        files["train" if split == "training" else split] = str(file)
    return task.variant(data=files)


def count(rows: Sequence[Row]) -> Row:
    """How many trainings there are, how many of them learnt, and of these how many are called ill: for what was trained
    (false alarms), and for what their rows hold, which may well be so."""
    healthy = [row for row in rows if row["learnt"]]
    return {
        "trainings": len(rows),
        "healthy": len(healthy),
        "false_alarms": sum(any(mode not in OF_ROWS for mode in row["modes"]) for row in healthy),
        "of_rows": sum(any(mode in OF_ROWS for mode in row["modes"]) for row in healthy),
        "ill_and_named": sum(bool(row["modes"]) for row in rows if not row["learnt"]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--max-steps", type=int, default=24, dest="max_steps")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
