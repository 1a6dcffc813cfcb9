"""The gap between prompt tuning and full fine-tuning against the size of the base, by initialiser (Lester et al. 2021).

    python benchmarks/scale.py --json                                              # builtin/tiny
    python benchmarks/scale.py --base models/smollm2.gguf models/gemma3-270m.gguf  # the next rungs
    python benchmarks/scale.py --summary                                           # tables of what there is

On each base, task and seed: full fine-tuning, and a soft prompt from each initialiser, on the same rows, for the same number
of steps, judged on the same test rows; the learning rate of each is searched for at the same small price (`--rates 1` takes
the usual one). A row for each training is appended to a file as soon as it is known, and none that is there is done again. A
summary has for each base and initialiser the gap: full fine-tuning less the prompt, in points of the metric. TEXT starts
from the task's text prompt. Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.kept import parser_of, read_file, run_or_sum_up
from benchmarks.quality import TASKS, device_name, name_of
from benchmarks.row import Row, print_row
from benchmarks.tasks import begun, first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.compare.budget import Budget
from softprompt.compare.compare import METHODS, run_method
from softprompt.errors import SoftPromptError
from softprompt.progress import Bars
from softprompt.tasks.task import Task

STARTS = ("RANDOM", "SAMPLE_VOCAB", "TEXT", "LABELS")
"""Initialisers of the prompt; those that a task cannot have are left out."""
FULL = "full"
KEY = ("fingerprint", "dtype", "method", "init", "asked", "tried", "task", "train_rows", "max_steps", "seed")
"""What makes two rows the same; `asked` are the settings before the search for a rate."""


def rungs(args: argparse.Namespace, base: FrozenBase) -> Iterator[tuple[str, str | None, Task]]:
    """Each training in its order: its method, its initialiser (None for full fine-tuning), and its task."""
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for task in make_tasks(args.tasks, seed, {"max_steps": args.max_steps}):
            limited = first_rows(begun(task, base), args.train_rows)
            yield FULL, None, limited
            for start in args.starts:
                if start == "LABELS" and not limited.form.labels:
                    continue
                text = {"prompt_tuning_init_text": limited.form.zero_shot_text() or limited.name} if start == "TEXT" else {}
                yield "ours", start, limited.variant(prompt_tuning_init=start, **text)


def run(args: argparse.Namespace) -> int:
    """Do what is not there yet; how many failed. They are tried again by the next call."""
    done = {_key(row): row for row in read_file(args.out)}
    progress, failed = Bars(), 0
    for source in args.base:
        base = FrozenBase.load(source, dtype=args.dtype)
        for method, start, task in rungs(args, base):
            known: Row = {
                "base": name_of(source),
                "params": base.params,
                "method": method,
                "init": start,
                "task": task.name,
                "seed": task.config.seed,
                "dtype": str(base.dtype).removeprefix("torch."),
                "device": device_name(base),
                "fingerprint": base.fingerprint,
                "train_rows": len(task.train),
                "max_steps": args.max_steps,
                "tried": args.rates,
                "asked": METHODS[method].settings(task, base),
            }
            row = done.get(_key(known))
            if row is None:
                what = f"{method}{f' from {start}' if start else ''}, {task.name}, seed {task.config.seed}"
                progress.note(f"{what}, on {known['base']}")
                try:
                    found = run_method(method, task, base, progress, Budget(rates=args.rates))
                except SoftPromptError as error:  # the others are not lost for one
                    progress.warn(f"{what}: {error}")
                    failed += 1
                    continue
                row = json.loads(json.dumps(found | known))
                done[_key(row)] = row
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            print_row(row if args.json else _for_people(row), args.json)
    return failed


def _key(row: Row) -> str:
    """What makes two rows the same."""
    return json.dumps([row[name] for name in KEY], sort_keys=True)


def _for_people(row: Row) -> Row:
    shown = ("base", "method", "init", "task", "seed", "metric", "value", "learning_rate", "seconds")
    return {name: f"{row[name]:.4g}" if isinstance(row[name], float) else row[name] for name in shown if row[name]}


def summaries(rows: Iterable[Row]) -> list[Row]:
    """A row for each base, task and initialiser: the mean over seeds of full fine-tuning and of the prompt, and of the gap
    between the two of one seed, with its spread (standard deviation). Of equal trainings the last one counts."""
    found: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    order: dict[tuple[str, ...], Row] = {}
    for row in rows:
        case: tuple[str, ...] = (row["base"], row["dtype"], row["task"], str(row["max_steps"]), str(row["train_rows"]))
        found[*case, row["init"] or FULL][row["seed"]] = row
        order.setdefault(case, row)
    made: list[Row] = []
    for case, first in sorted(order.items(), key=lambda pair: pair[1]["params"]):
        full = found.get((*case, FULL), {})
        for start in STARTS:
            own = found.get((*case, start), {})
            seeds = [seed for seed in own if seed in full]
            if not seeds:
                continue
            gaps = [full[seed]["value"] - own[seed]["value"] for seed in seeds]
            made.append(
                {name: first[name] for name in ("base", "params", "dtype", "task", "metric", "max_steps", "train_rows")}
                | {
                    "init": start,
                    "full": round(statistics.fmean(full[seed]["value"] for seed in seeds), 4),
                    "prompt": round(statistics.fmean(own[seed]["value"] for seed in seeds), 4),
                    "gap": round(statistics.fmean(gaps), 4),
                    "spread": round(statistics.stdev(gaps), 4) if len(gaps) > 1 else None,
                    "seeds": len(seeds),
                }
            )
    return made


def tables(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of Markdown: for each task and number of steps a table of the gap, bases by initialisers."""
    groups: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    for row in rows:
        head = f"{row['task']}, {row['metric']}, {row['max_steps']} steps, {row['train_rows']} rows"
        groups[head][f"{row['base']} ({row['params'] / 1e6:.0f}M, {row['dtype']})", row["init"]] = row
    for head, cells in groups.items():
        starts = [start for start in STARTS if any(start == column for _, column in cells)]
        yield f"{head}: full fine-tuning, and the gap to it of a prompt from each start\n"
        yield f"| base | full | {' | '.join(starts)} |"
        yield f"| --- | --- |{' --- |' * len(starts)}"
        for base in dict.fromkeys(base for base, _ in cells):
            own = [cells.get((base, start)) for start in starts]
            full = next(row["full"] for row in own if row is not None)
            yield f"| {base} | {full:.3f} | {' | '.join(map(_gap, own))} |"
        yield ""


def _gap(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['gap']:+.3f}" + (f" ± {row['spread']:.3f} ({row['seeds']})" if row["spread"] is not None else "")


def main() -> None:
    """Do what is asked for."""
    parser = parser_of(__doc__, tasks=TASKS, default=("trec6", "subjectivity"), out=HERE / "scale.jsonl")
    parser.add_argument("--base", nargs="+", default=["builtin/tiny"], help="one after the other, the smallest first")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--rates", type=int, default=3, help="learning rates that are tried of each")
    run_or_sum_up(parser.parse_args(), run, summaries, tables)


if __name__ == "__main__":
    main()
