"""Two checkouts of this project in one run: the time of a training step, and of serving mixed requests.

    git worktree add ../before v0.2.0
    python benchmarks/against.py ../before --json

Each checkout has a process of its own, which makes everything once and then runs when it is told; turns alternate, so what
else the machine does falls on both. `ratio` is the other's user CPU time over ours (on a GPU, wall-clock time), the median
of all turns; above 1 ours is the faster. What is run are the functions of each checkout's own `train_vs_peft.py` and
`serve.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "train-1": ("trec6", "fp32", 1),
    "train-8": ("trec6", "fp32", 8),
    "train-200-8": ("200", "fp32", 8),
    "train-bf16-8": ("trec6", "bf16", 8),
    "serve-1": (1, "uniform"),
    "serve-64": (64, "zipf"),
    "serve-1000": (1000, "zipf"),
}
"""Of training on the built-in base: rows, dtype, prompts of 20 tokens; of serving: tasks, and how requests fall on them."""


def work(case: str, device: str) -> None:
    """Run a case for every line that comes in, and answer with its user CPU and wall-clock seconds."""
    from benchmarks import load, train_vs_peft

    if case.startswith("train"):
        kind, dtype, prompts = CASES[case]
        base = train_vs_peft.make_base("builtin/tiny", str(dtype), device)
        rows = train_vs_peft.make_rows(str(kind), 2 * train_vs_peft.ROWS_PER_STEP, seed=0)
        step = train_vs_peft.our_steps(base, rows, 20, int(prompts))
        _answer(lambda: train_vs_peft.timed(base, step))
        return
    from softprompt.engines.protocol import GenerateJob, Sampling

    tasks, distribution = CASES[case]
    base = load.served_base("builtin/tiny", "fp32", "sdpa")
    inputs = load.some_inputs(256, seed=1)
    which = load.draw_tasks(int(tasks), str(distribution), len(inputs), seed=int(tasks))
    prompts_of = {task: load.some_vectors(base, task) for task in set(which)}
    sampling = Sampling(max_tokens=load.OUTPUT)
    jobs = [GenerateJob(prompts_of[task], ids, sampling) for task, ids in zip(which, inputs, strict=True)]
    with load.running(base) as engine:
        _answer(lambda: load.timed(lambda _: load.closed_loop(engine, jobs), 0))


def _answer(run: Callable[[], tuple[float, float]]) -> None:
    run()  # warm
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)


class Worker:
    """A checkout's process."""

    def __init__(self, checkout: Path, case: str, device: str) -> None:
        """Started, and warm when it returns."""
        command = [sys.executable, str(Path(__file__).resolve()), str(checkout), "--device", device, "--work", case]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def turn(self) -> tuple[float, float]:
        """User CPU and wall-clock seconds of one run."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        user, wall = json.loads(self._read())
        return user, wall

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self._process.wait()}")
        return line

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(other: Path, case: str, turns: int, device: str) -> dict[str, Any]:
    """One row of the benchmark."""
    its, ours = Worker(other, case, device), Worker(ROOT, case, device)
    measured = []
    for turn in range(turns):  # neither is always the first
        first, second = (its, ours) if turn % 2 else (ours, its)
        taken = {first: first.turn(), second: second.turn()}
        measured.append((*taken[its], *taken[ours]))
    its.close()
    ours.close()
    ratios = sorted(m[0] / m[2] if device == "cpu" else m[1] / m[3] for m in measured)
    columns = [statistics.median(column) for column in zip(*measured, strict=True)]
    return {
        "case": case,
        "device": device,
        "turns": turns,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quarters": [round(ratios[len(ratios) // 4], 3), round(ratios[3 * len(ratios) // 4], 3)],
        "ratio_wall": round(statistics.median(m[1] / m[3] for m in measured), 3),
        "other_user_s": round(columns[0], 4),
        "user_s": round(columns[2], 4),
        "other_wall_s": round(columns[1], 4),
        "wall_s": round(columns[3], 4),
    }


def main() -> None:
    """Run what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--device", default="cpu", help="of training; serving runs on the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    parser.add_argument("--work", choices=list(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    checkout = args.other.resolve()
    if args.work:
        sys.path[:0] = [str(checkout), str(checkout / "src")]
        work(args.work, args.device)
        return
    sys.path.insert(0, str(ROOT))
    from benchmarks.row import print_row

    for case in args.cases:
        print_row(compare(checkout, case, args.turns, args.device), args.json)


if __name__ == "__main__":
    main()
