"""A library moved to its next base: `softprompt upgrade` of many prompts together, against PEFT trained anew for each.

    python benchmarks/upgrade.py --json                                              # builtin/tiny to models/smollm2.gguf
    python benchmarks/upgrade.py --old models/smollm2.gguf --to models/gemma3-270m.gguf --dtype bf16 --prompts 6 --json
    python benchmarks/upgrade.py --summary                                           # a table of what there is

The prompts are of trec6, subjectivity and sentence_polarity in turn, each on --rows training rows of its own. They are
tuned on the old base, carried over and trained on the new one, and trained on the new one from their own start too, with
the same recipe; so many (--together) in one session. A row for each: `old` is what the old version scores on its base,
`recycled` what its vectors score on the new one before they are trained, `start` the start that was ahead after a quarter
of the steps, `value` and `anew` what comes of it and of the task's own start, and `steps_to_old` and `anew_steps_to_old`
the first validation as good as `old` of either. `seconds` and `cpu` are the session's, shared out; `peft_seconds` and
`peft_cpu` are of PEFT with our rate, batch, start and as many steps, for the first --peft prompts. PEFT validates nothing
and chooses no start. Rows are appended to a file as they come, and prompts that are there already are not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import torch

from benchmarks.kept import read_file
from benchmarks.quality import name_of
from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, begun, drawn_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.compare.compare import run_method
from softprompt.library.library import Library
from softprompt.lifecycle.upgrade import upgrade
from softprompt.progress import Bars, Progress
from softprompt.tasks.task import Task
from softprompt.training.train import train


def some_tasks(args: argparse.Namespace, numbers: Sequence[int]) -> list[Task]:
    """Tasks by their numbers, each with rows of its own."""
    made = []
    settings = {"max_steps": args.steps, "num_virtual_tokens": args.P, "per_device_train_batch_size": args.batch}
    for number in numbers:
        (task,) = make_tasks([REAL[number % len(REAL)]], number, settings)
        test = list(task.test)[: args.test_rows]
        changes: dict[str, Any] = {"task": f"{task.name}-{number}", "eval_per_epoch": args.validations}
        made.append(task.variant(data={"train": drawn_rows(task, args.rows), "validation": 0.2, "test": test}, **changes))
    return made


def first_as_good(history: list[dict[str, Any]], value: float) -> int | None:
    """The first step at which a validation was as good."""
    return next((int(row["step"]) for row in history if row["value"] >= value), None)


KEY = ("old", "to", "dtype", "device", "begun", "prompt", "rows", "test_rows", "steps", "batch", "P")
"""What makes two rows the same; `begun`: inputs begin as texts of the new base do, which they once did not."""


def asked(args: argparse.Namespace, number: int) -> Row:
    """What is known of a prompt before anything is done."""
    known = {"old": name_of(args.old), "to": name_of(args.to), "dtype": args.dtype, "device": args.device, "begun": True}
    return known | {"prompt": number} | {name: getattr(args, name) for name in KEY[6:]}


def some(args: argparse.Namespace, numbers: Sequence[int], new: FrozenBase, progress: Progress) -> Iterator[Row]:
    """The rows of so many prompts, which share their sessions."""
    tasks = some_tasks(args, numbers)
    with tempfile.TemporaryDirectory() as home, Library.open(home) as library:
        train(tasks, base=FrozenBase.load(args.old, dtype=args.dtype), library=library, progress=progress)
        began, cpu = time.perf_counter(), time.process_time()
        moved = {one.task: one for one in upgrade(to=new, task_files=tasks, library=library, progress=progress)}
        took, cpu = (time.perf_counter() - began) / len(tasks), (time.process_time() - cpu) / len(tasks)
        anew = {
            tuned.prompt.card.task: tuned
            for tuned in train([begun(task, new) for task in tasks], base=new, publish=False, progress=progress)
        }
        for number, task in zip(numbers, tasks, strict=True):
            one, own = moved[task.name], anew[task.name]
            kept = library.runs / f"{one.task}@{one.new_version}.jsonl"
            history = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
            assert one.old is not None
            row = asked(args, number) | {
                "task": one.task, "old_value": one.old, "recycled": one.recycled, "start": one.start,
                "value": one.value, "anew": own.report.value, "promoted": one.promoted,
                "steps_to_old": first_as_good(history, one.old),
                "anew_steps_to_old": first_as_good(list(own.history), one.old),
                "seconds": round(took, 1), "cpu": round(cpu, 1),
            }  # fmt: skip
            if number < args.peft:
                cpu_before = time.process_time()
                theirs = run_method("peft_prompt_tuning_ours", begun(task, new), new, progress)
                row |= {"peft_value": theirs["value"], "peft_seconds": theirs["seconds"]}
                row["peft_cpu"] = round(time.process_time() - cpu_before, 1)
            yield row


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for each pair of bases and each setting."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[name] for name in KEY if name != "prompt"]), []).append(row)
    for all_of_them in groups.values():
        own = [row for row in all_of_them if row["value"] is not None]
        if not own:
            continue
        anew = [row["value"] - row["anew"] for row in own]
        theirs = [row for row in own if "peft_cpu" in row]
        yield {
            **{name: own[0][name] for name in KEY if name != "prompt"},
            "prompts": len(own),
            **{name: round(mean(row[name] for row in own), 4) for name in ("old_value", "recycled", "value", "anew")},
            "better_than_anew": sum(one > 0 for one in anew),
            "worse_than_anew": sum(one < 0 for one in anew),
            "carried_won": sum(row["start"] in ("map", "nearest") for row in own),
            "promoted": sum(row["promoted"] for row in own),
            "reached_old": sum(row["steps_to_old"] is not None for row in own),
            "anew_reached_old": sum(row["anew_steps_to_old"] is not None for row in own),
            "cpu": round(mean(row["cpu"] for row in own), 1),
            **({"peft_run": len(theirs), "peft_cpu": round(mean(row["peft_cpu"] for row in theirs), 1)} if theirs else {}),
        }


def main() -> None:
    """Tune on the old base, upgrade, train anew, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default="builtin/tiny")
    parser.add_argument("--to", default="models/smollm2.gguf")
    parser.add_argument("--dtype", default="auto", help="of both bases")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--together", type=int, default=4, help="prompts of one session")
    parser.add_argument("--rows", type=int, default=400, help="training rows of each, a fifth of them held out")
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--validations", type=int, default=2, help="in an epoch")
    parser.add_argument("--P", type=int, default=20)
    parser.add_argument("--peft", type=int, default=2, help="prompts that PEFT trains")
    parser.add_argument("--out", type=Path, default=HERE / "upgrade.jsonl", help="where rows are kept")
    parser.add_argument("--summary", action="store_true", help="print a summary of the rows that are there, and do nothing")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    args.device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    kept = read_file(args.out)
    if args.summary:
        for row in summary(kept):
            print_row(row, args.json)
        return
    done = {json.dumps([row[name] for name in KEY]) for row in kept}
    numbers = [one for one in range(args.prompts) if json.dumps([asked(args, one)[name] for name in KEY]) not in done]
    if not numbers:
        return
    progress, new = Bars(), FrozenBase.load(args.to, dtype=args.dtype)
    for first in range(0, len(numbers), args.together):
        for row in some(args, numbers[first : first + args.together], new, progress):
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print_row(row, args.json)


if __name__ == "__main__":
    main()
