"""A library moved to its next base: `softprompt upgrade` of many prompts together, against PEFT trained anew for each.

    python benchmarks/upgrade.py --json                                              # builtin/tiny to models/smollm2.gguf
    python benchmarks/upgrade.py --old models/smollm2.gguf --to models/gemma3-270m.gguf --dtype bf16 --prompts 6 --json

The prompts are of trec6, subjectivity and sentence_polarity in turn, each on --rows training rows of its own. They are tuned
on the old base, carried over and trained on the new one in one session, and trained on the new one from their own start too,
with the same recipe. A row for each: `old` is what the old version scores on its base, `recycled` what its vectors score on
the new one before they are trained, `start` the start that validation rows chose, `value` and `anew` what comes of it and of
the task's own start, and `steps_to_old` and `anew_steps_to_old` the first validation as good as `old` of either. Then a row
of seconds: of the upgrade, and of PEFT with our rate, batch, start and as many steps, of which --peft are run and the rest
are arithmetic. PEFT validates nothing and chooses no start.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.quality import name_of
from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, few_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.compare.compare import run_method
from softprompt.library.library import Library
from softprompt.lifecycle.upgrade import upgrade
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.train import train


def some_tasks(args: argparse.Namespace) -> list[Task]:
    """So many tasks, each with rows of its own."""
    made = []
    for number in range(args.prompts):
        (task,) = make_tasks([REAL[number % len(REAL)]], number, {"max_steps": args.steps, "num_virtual_tokens": args.P})
        own = few_rows(task, args.rows, validates=True)
        test = list(task.test)[: args.test_rows]
        changes: dict[str, Any] = {"task": f"{task.name}-{number}", "eval_per_epoch": args.validations}
        made.append(own.variant(data={"train": list(own.train), "validation": 0.2, "test": test}, **changes))
    return made


def first_as_good(history: list[dict[str, Any]], value: float) -> int | None:
    """The first step at which a validation was as good."""
    return next((int(row["step"]) for row in history if row["value"] >= value), None)


def main() -> None:
    """Tune on the old base, upgrade, train anew, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default="builtin/tiny")
    parser.add_argument("--to", default="models/smollm2.gguf")
    parser.add_argument("--dtype", default="auto", help="of both bases")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--rows", type=int, default=400, help="training rows of each, a fifth of them held out")
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--validations", type=int, default=2, help="in an epoch")
    parser.add_argument("--P", type=int, default=20)
    parser.add_argument("--peft", type=int, default=2, help="prompts that PEFT trains")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    progress, tasks = Bars(), some_tasks(args)
    both = {"old": name_of(args.old), "to": name_of(args.to)}
    with tempfile.TemporaryDirectory() as home, Library.open(home) as library:
        train(tasks, base=FrozenBase.load(args.old, dtype=args.dtype), library=library, progress=progress)
        new = FrozenBase.load(args.to, dtype=args.dtype)
        began, cpu = time.perf_counter(), time.process_time()
        moved = upgrade(to=new, task_files=tasks, library=library, progress=progress)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        anew = {tuned.prompt.card.task: tuned for tuned in train(tasks, base=new, publish=False, progress=progress)}
        for one in moved:
            tuned = anew[one.task]
            kept = library.runs / f"{one.task}@{one.new_version}.jsonl"
            history = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
            assert one.old is not None
            print_row(
                {
                    **both, "task": one.task, "old_value": one.old, "recycled": one.recycled, "start": one.start,
                    "value": one.value, "anew": tuned.report.value, "promoted": one.promoted, "steps": args.steps,
                    "steps_to_old": first_as_good(history, one.old),
                    "anew_steps_to_old": first_as_good(list(tuned.history), one.old),
                },
                args.json,
            )  # fmt: skip
    theirs: list[float] = []
    for task in tasks[: args.peft]:
        theirs.append(run_method("peft_prompt_tuning_ours", task, new, progress)["seconds"])
    row: Row = {**both, "prompts": len(tasks), "upgrade_seconds": round(took, 1), "upgrade_cpu": round(cpu, 1)}
    if theirs:
        whole = sum(theirs) / len(theirs) * len(tasks)
        row |= {"peft_run": len(theirs), "peft_seconds": round(whole, 1), "ratio": round(whole / took, 2)}
    print_row(row, args.json)


if __name__ == "__main__":
    main()
