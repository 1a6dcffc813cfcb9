"""What prompt files of fewer bits cost: bytes, and the value that is lost, on each task of `quality.py`.

    python benchmarks/small.py --base models/smollm2.gguf --json
    python benchmarks/small.py --home softprompt-home --base models/smollm2.gguf --json    # the versions of a library

One prompt of each task, trained here or taken from a library, is stored as float32, bfloat16, float16 and int8 (a scale for
each virtual token), read again and judged on the same test rows. A row for each task and dtype: the bytes of the file and
what of them are vectors, the value and the loss, how much of the value float32 has over it (`lost`, with the standard error
of the difference, row by row), and the share of rows that are answered otherwise. On a base in bfloat16 the vectors are
rounded to that in any case: --dtype float32 tells what the file alone costs. Data from SOFTPROMPT_DATA (default
../shared/data).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.quality import TASKS, name_of
from benchmarks.row import Row, print_row
from benchmarks.tasks import first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.prompts.card import Dtype
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.training.train import train

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def prompt_of(task: Task, base: FrozenBase, library: Library | None, progress: Bars) -> SoftPrompt:
    """A task's prompt in float32: the version that its name means in a library, else one that is trained now."""
    if library is None:
        (tuned,) = train(task, base=base, publish=False, progress=progress)
        return tuned.prompt
    prompt = SoftPrompt.from_bytes(library.read(task.name))
    prompt.check_base(base)
    return prompt.as_dtype("float32")


def measure(
    task: Task, base: FrozenBase, prompt: SoftPrompt, dtypes: Sequence[Dtype], judge_rows: int | None, progress: Bars
) -> Iterator[Row]:
    """A row for each dtype; float32 is judged whether it is asked for or not."""
    stored = {dtype: SoftPrompt.from_bytes(prompt.as_dtype(dtype).to_bytes()) for dtype in ("float32", *dtypes)}
    form, rows = Form.of_card(prompt.card), task.test.part(range(len(task.test))[:judge_rows])
    task = task.variant()
    task.form = form
    examples = task.encode(base, rows, prompt.columns, split="test")
    trials = [Trial(form, one.vectors_PD.to(base.dtype), examples, one.card.members) for one in stored.values()]
    with progress.stage(f"judge {task.name}", len(examples) * len(trials)) as advance:
        reports = dict(zip(stored, result_of(judge(OfflineEngine(architecture_of(base)), trials), advance), strict=True))
    whole = reports["float32"]
    for dtype in dtypes:
        report, size = reports[dtype], len(stored[dtype].to_bytes())
        scales = 4 * len(prompt.vectors_PD) if dtype == "int8" else 0
        yield {
            "task": task.name,
            "seed": prompt.card.recipe.get("seed"),
            "P": prompt.card.num_virtual_tokens,
            "dtype": dtype,
            "bytes": size,
            "vector_bytes": prompt.vectors_PD.numel() * BYTES[dtype] + scales,
            "error": round(_distance(stored[dtype], stored["float32"]), 6),
            "metric": report.metric,
            "value": round(report.value, 4),
            "stderr": round(report.stderr, 4),
            "rows": report.rows,
            "lost": round(whole.value - report.value, 4),
            "lost_stderr": round(_stderr_of_loss(whole, report), 4),
            "loss": round(report.loss, 4),
            "loss_more": round(report.loss - whole.loss, 4),
            "changed": round(_changed(whole, report), 4),
        }


def _distance(prompt: SoftPrompt, other: SoftPrompt) -> float:
    """Relative to the length of the other (L2)."""
    return float((prompt.vectors_PD - other.vectors_PD).norm() / other.vectors_PD.norm())


def _stderr_of_loss(whole: Report, other: Report) -> float:
    lost = [one - two for one, two in zip(whole.values, other.values, strict=True)]
    return statistics.pstdev(lost) / math.sqrt(len(lost))


def _changed(whole: Report, other: Report) -> float:
    return statistics.fmean(one != two for one, two in zip(whole.predictions, other.predictions, strict=True))


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto", help="of the base")
    parser.add_argument("--home", type=Path, help="a library whose versions are taken; by default each task is trained once")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="of the files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--P", type=int, help="virtual tokens; by default the recipe's")
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--train-rows", type=int, default=2000, help="at most so many")
    parser.add_argument("--judge-rows", type=int, help="judge on the first so many test rows; by default on all")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    base, progress = FrozenBase.load(args.base, dtype=args.dtype), Bars()
    library = Library.open(args.home, create=False) if args.home is not None else None
    overrides = {"max_steps": args.max_steps} | ({"num_virtual_tokens": args.P} if args.P else {})
    for task in make_tasks(args.tasks, args.seed, overrides):
        prompt = prompt_of(first_rows(task, args.train_rows), base, library, progress)
        for row in measure(task, base, prompt, args.dtypes, args.judge_rows, progress):
            print_row({"base": name_of(args.base), **row}, args.json)


if __name__ == "__main__":
    main()
