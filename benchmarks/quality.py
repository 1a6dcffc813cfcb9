"""Quality of prompts on real tasks, beside text prompts, PEFT's methods, LoRA and full fine-tuning of the same base.

    python benchmarks/quality.py --base models/smollm2.gguf --json    # everything, one seed
    python benchmarks/quality.py --methods ours --seeds 3             # a quick look
    python benchmarks/quality.py --few 16 64 256 1024 --tasks trec6   # the curve over few rows
    python benchmarks/quality.py --summary                            # tables of what there is

Each method gets the same training rows and the same number of steps, and is judged by the same evaluation. A row for each
method, task and seed, the first seed of everything before the next, appended to a file as soon as it is known. Rows that are
there already (same base, dtype, device, method, settings, task, rows, steps and seed) are printed and not done again, so
that the script goes on where the file ends. Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import torch

from benchmarks.kept import parser_of, read_file, run_or_sum_up
from benchmarks.quality_tables import summaries, tables
from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, begun, few_rows, first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.compare.compare import METHODS, run_method
from softprompt.errors import SoftPromptError
from softprompt.progress import Bars
from softprompt.tasks.task import Task

TASKS = (*REAL, "headword", "rte3")
CURVE = ("ours", "few_shot", "lora")
"""Methods of the curve over few rows."""
KEY = ("fingerprint", "dtype", "device", "method", "settings", "task", "input", "train_rows", "few", "max_steps", "seed")
"""What makes two rows the same."""


def plan(args: argparse.Namespace, base: FrozenBase) -> Iterator[tuple[str, Task, Row]]:
    """Each method, its task, and what its row says beside what the method found."""
    overrides = dict(item.split("=", 1) for item in args.set)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for task in make_tasks(args.tasks, seed, overrides | {"max_steps": args.max_steps}):
            task = begun(task, base)
            asked = {"input": task.config.input, "max_steps": args.max_steps, "set": overrides}
            if not args.few:
                limited = first_rows(task, args.train_rows)
                for method in args.methods or METHODS:
                    yield method, limited, asked | {"few": None}
            for count in (some for some in args.few if some <= len(task.train)):
                for method in args.methods or CURVE:
                    yield method, few_rows(task, count, validates=method == "ours"), asked | {"few": count}


def key_of(row: Row) -> str:
    """What makes two rows the same, as a text."""
    return json.dumps([row.get(name) for name in KEY], sort_keys=True)


def name_of(base: str) -> str:
    """What rows call a base: a file or folder by its name, without the end."""
    return Path(base).stem if Path(base).exists() else base


def device_name(base: FrozenBase) -> str:
    """What a base is on: `cpu`, or a GPU by its name."""
    return torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else base.device.type


def run(args: argparse.Namespace) -> int:
    """Do what is not there yet; how many failed. They are tried again by the next call."""
    base = FrozenBase.load(args.base, dtype=args.dtype)
    done = {key_of(row): row for row in read_file(args.out)}
    progress, failed = Bars(), 0
    for method, task, asked in plan(args, base):
        known = {
            "base": name_of(args.base),
            "method": method,
            "task": task.name,
            "seed": task.config.seed,
            "dtype": str(base.dtype).removeprefix("torch."),
            "device": device_name(base),
            "fingerprint": base.fingerprint,
            "train_rows": len(task.train),
            "settings": METHODS[method].settings(task, base),
            **asked,
        }
        row = done.get(key_of(known))
        if row is None:
            progress.note(f"{method}, {task.name}, seed {task.config.seed}, {len(task.train)} rows")
            try:
                row = json.loads(json.dumps(run_method(method, task, base, progress) | known))
            except SoftPromptError as error:  # the others are not lost for one
                progress.warn(f"{method}, {task.name}, seed {task.config.seed}: {error}")
                failed += 1
                continue
            done[key_of(row)] = row
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print_row(row if args.json else for_people(row), args.json)
    return failed


def for_people(row: Row) -> Row:
    """Its figures, in short."""
    shown = ("base", "method", "task", "seed", "few", "metric", "value", "trainable", "seconds", "peak_mb", "latency_ms")
    known = {name: row[name] for name in shown if row[name] is not None}
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in known.items()}


def main() -> None:
    """Do what is asked for."""
    parser = parser_of(__doc__, tasks=TASKS, default=TASKS, out=HERE / "quality.jsonl")
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help=f"all by default; of a curve {', '.join(CURVE)}")
    parser.add_argument("--few", type=int, nargs="+", default=[], metavar="ROWS", help="so many rows, drawn by seed")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change the recipe: learning_rate=0.1 ...")
    run_or_sum_up(parser.parse_args(), run, summaries, tables)


if __name__ == "__main__":
    main()
