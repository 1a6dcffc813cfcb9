"""Many prompts at once in one bank, against as many PEFT runs one after another: the same base, rows and steps.

    python benchmarks/many.py --json
    python benchmarks/many.py --cases tasks --K 8 --pairs 3 --steps 10 --json

`candidates` are those of one sweep (trec6: rates, initialisers and seeds); `tasks` are trec6, subjectivity,
sentence_polarity and headword, each in two wordings. All train language modelling, because PEFT does, with 32 rows of each
prompt in a step. Both sides take a fixed number of steps after a turn to warm up, in turns; validation, baselines and
publishing are in neither. PEFT's runs are real ones of the Transformers Trainer, and its start (a tenth of a second) is in
its time; --steps makes its share small. Seconds are of one step of all prompts: `ratio` is of user CPU (median over the
pairs), or of wall-clock time on a GPU, `ratio_wall` of wall-clock time.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import print_row
from benchmarks.tasks import make_tasks
from benchmarks.train_vs_peft import SHORT, Rows, make_base, peft_steps, timed
from softprompt.bases.base import FrozenBase
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_padded
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.forward import losses_and_gradient
from softprompt.training.steps.run import Run

MODEL = "builtin/tiny"
GRID: dict[str, list[Any]] = {
    "learning_rate": [0.01, 0.03, 0.1, 0.3],
    "prompt_tuning_init": ["LABELS", "SAMPLE_VOCAB"],
    "seed": [0, 1],
}
WORDED = {
    "trec6": "{text} This asks for",
    "subjectivity": "Text: {text}\nThis is",
    "sentence_polarity": "{text} All in all it was",
    "headword": "What is {definition}? It is",
}


def make_candidates(length: int) -> list[Task]:
    """The sixteen candidates of a sweep of trec6."""
    (task,) = make_tasks(["trec6"], 0, _overrides(length))
    return [task.variant(**dict(zip(GRID, values, strict=True))) for values in itertools.product(*GRID.values())]


def make_eight(length: int) -> list[Task]:
    """Four tasks, each in two wordings."""
    tasks = make_tasks(list(WORDED), 0, _overrides(length))
    return [*tasks, *(task.variant(input=WORDED[task.name]) for task in tasks)]


def _overrides(length: int) -> dict[str, Any]:
    return {"num_virtual_tokens": length, "objective": "language_modelling"}


CASES: dict[str, tuple[str, Callable[[int], list[Task]]]] = {
    "candidates": ("trec6", make_candidates),
    "tasks": ("mixed", make_eight),
}


def bank_steps(base: FrozenBase, runs: Sequence[Run], steps: int) -> Callable[[], None]:
    """A function that takes so many steps of all runs in one bank, each time from their first rows."""
    bank = Bank([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    every, architecture = list(range(len(runs))), architecture_of(base)

    def take() -> None:
        for run in runs:
            run.step = 0
        for _ in range(steps):
            examples = [example for index, run in enumerate(runs) for example in run.batch(index)]
            stack = stack_padded(bank.vectors_KPD, bank.lengths)
            losses_K, gradient_KPD = losses_and_gradient(architecture, stack, examples)
            bank.step(every, gradient_KPD, [run.rate for run in runs])
            for run, loss in zip(runs, losses_K.tolist(), strict=True):
                run.took_step(loss)

    return take


def rows_of(run: Run, steps: int) -> Rows:
    """The rows of a run's first steps."""
    rows: Rows = []
    for step in range(steps):
        run.step = step
        rows += [(list(example.input), list(example.target)) for example in run.batch(0)]
    return rows


def compare(
    case: str, dtype: str, length: int, prompts: int | None, pairs: int, steps: int, attention: str, device: str
) -> Any:
    """One row of the benchmark."""
    kind, make = CASES[case]
    base, theirs = make_base(MODEL, dtype, device), make_base(MODEL, dtype, device)
    preparer = Preparer(base)
    runs = [preparer.prepare(task, None)[0] for task in make(length)[:prompts]]
    rows = [rows_of(run, steps) for run in runs]
    ours = bank_steps(base, runs, steps)
    peft_runs = [peft_steps(theirs, own, length, attention) for own in rows]

    def peft() -> None:
        for run in peft_runs:
            run()

    peft_runs[0]()
    timed(base, ours)
    measured = [(*timed(base, peft), *timed(base, ours)) for _ in range(pairs)]
    peft_user, peft_wall, our_user, our_wall = (statistics.median(column) / steps for column in zip(*measured, strict=True))
    ratios = [m[0] / m[2] if device == "cpu" else m[1] / m[3] for m in measured]
    return {
        "model": MODEL,
        "case": case,
        "rows": kind,
        "dtype": dtype,
        "P": length,
        "K": len(runs),
        "attention": attention,
        "device": device,
        "pairs": pairs,
        "steps": steps,
        "tokens": sum(len(ids) + len(target) for own in rows for ids, target in own) // steps,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "ratio_wall": round(statistics.median(m[1] / m[3] for m in measured), 3),
        "peft_user_s": round(peft_user, 3),
        "ours_user_s": round(our_user, 3),
        "peft_wall_s": round(peft_wall, 3),
        "ours_wall_s": round(our_wall, 3),
    }


def main() -> None:
    """Print a row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=["fp32"])
    parser.add_argument("--P", nargs="+", type=int, default=[20])
    parser.add_argument("--K", type=int, help="only the first so many prompts of a case")
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"], help="of PEFT's base; sdpa is its default")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of 32 rows of each prompt, in each turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for case, dtype, length, attention in itertools.product(args.cases, args.dtype, args.P, args.attention):
        row = compare(case, dtype, length, args.K, args.pairs, args.steps, attention, args.device)
        print_row(row, args.json)


if __name__ == "__main__":
    main()
