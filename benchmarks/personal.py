"""Prompts of users' own: what a few steps on a user's history gain over the shared prompt, and what a thousand users cost.

    python benchmarks/personal.py --json                                     # 64 users on builtin/tiny
    python benchmarks/personal.py --users 1000 --json
    python benchmarks/personal.py --base models/smollm2.gguf --dtype bf16 --users 8 --json

Rows are made by program: what people like and dislike. Most like some kinds of things and dislike the others, which is what
the shared prompt is tuned for; each user is of another mind about one kind, and has a history of --history rows. One row:
`shared` and `personal` are the mean accuracy over the users on things that are in no history, `changed_shared` and
`changed_personal` on the kind that the user sees otherwise, `kept_shared` and `kept_personal` on all other kinds;
`seconds_per_user` is all of `personalize` over the users, validations and publishing too, `cpu_per_user` the CPU time of it,
and `bytes_per_user` what the library's folder grew by.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.quality import name_of
from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.library.library import Library
from softprompt.lifecycle.personalize import personalize
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.prompts.prompt import SoftPrompt
from softprompt.rows.memory import rows_in_memory
from softprompt.tasks.task import Task
from softprompt.training.train import train

KINDS = {
    "fruit": ("apple", "pear", "cherry", "plum", "grape", "melon", "lemon", "peach"),
    "animals": ("dog", "cat", "horse", "cow", "sheep", "goat", "duck", "rabbit"),
    "weather": ("rain", "snow", "wind", "fog", "storm", "frost", "hail", "thunder"),
    "sports": ("football", "tennis", "boxing", "rowing", "golf", "chess", "skating", "running"),
}
LIKED = {"fruit", "animals"}
"""By most."""
FRAMES = ("What about {}?", "Tell me of {}.", "There is {} today.", "More {} for us.", "They talk of {}.", "A day of {}.")
LABELS = ["like", "dislike"]
TASK: dict[str, Any] = {"task": "taste", "labels": LABELS, "input": "Message: {text}\nThis person will"}


def rows_of(things: Sequence[tuple[str, str]], other: str | None, frames: Sequence[str]) -> list[dict[str, str]]:
    """A row for each thing and frame: what most answer, but for the kind that is seen otherwise."""
    return [
        {"text": frame.format(thing), "label": LABELS[(kind in LIKED) is (kind == other)], "kind": kind}
        for kind, thing in things
        for frame in frames
    ]


def main() -> None:
    """Tune the shared prompt, then all users', and judge both on rows that are in no history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--history", type=int, default=16, help="rows of a user")
    parser.add_argument("--steps", type=int, default=30, help="of a user")
    parser.add_argument("--max-steps", type=int, default=200, help="of the shared prompt")
    parser.add_argument("--P", type=int, default=20)
    parser.add_argument("--judged", type=int, default=64, help="users whose versions are judged at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    args = parser.parse_args()
    drawing, base, progress = random.Random(args.seed), FrozenBase.load(args.base, dtype=args.dtype), Bars()
    things = [(kind, thing) for kind, own in KINDS.items() for thing in own]
    seen = [pair for pair in things if KINDS[pair[0]].index(pair[1]) < 6]
    unseen = [pair for pair in things if pair not in seen]
    shared_rows = rows_of(things, None, FRAMES[:4])
    judged_on = {other: rows_of(unseen, other, FRAMES) for other in KINDS}
    minds = {f"user{number}": drawing.choice(list(KINDS)) for number in range(args.users)}
    histories = {user: drawing.sample(rows_of(seen, other, FRAMES[:4]), args.history) for user, other in minds.items()}
    with tempfile.TemporaryDirectory() as home:
        library = Library.open(Path(home) / "home")
        task = Task(data=shared_rows, num_virtual_tokens=args.P, max_steps=args.max_steps, seed=args.seed, **TASK)
        (tuned,) = train(task, base=base, library=library, progress=progress)
        before = sum(file.stat().st_size for file in Path(home).rglob("*") if file.is_file())
        began, cpu = time.perf_counter(), time.process_time()
        made = personalize("taste", histories, steps=args.steps, library=library, base=base, progress=progress)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        after = sum(file.stat().st_size for file in Path(home).rglob("*") if file.is_file())
        some = list(minds)[: args.judged]
        prompts = {user: library.read(library.registry.personal.resolve("taste", user)) for user in some}
    engine = OfflineEngine(architecture_of(base))
    found: dict[str, list[float]] = {}
    tests = {
        other: task.encode(base, rows_in_memory(rows, "test"), tuned.prompt.columns, split="test")
        for other, rows in judged_on.items()
    }
    for name in ("shared", "personal"):
        trials = [
            Trial(task.form, SoftPrompt.from_bytes(prompts[user]).vectors_PD, tests[minds[user]])
            if name == "personal"
            else Trial(task.form, tuned.prompt.vectors_PD, tests[minds[user]])
            for user in some
        ]
        for user, report in zip(some, result_of(judge(engine, trials)), strict=True):
            for asked, answer in zip(judged_on[minds[user]], report.predictions, strict=True):
                right = float(answer == asked["label"])
                part = "changed" if asked["kind"] == minds[user] else "kept"
                found.setdefault(name, []).append(right)
                found.setdefault(f"{part}_{name}", []).append(right)
    row: Row = {"base": name_of(args.base), "users": args.users, "history": args.history, "steps": args.steps}
    row |= {name: statistics.fmean(values) for name, values in sorted(found.items())}
    row |= {"seconds_per_user": took / args.users, "cpu_per_user": cpu / args.users}
    row |= {"bytes_per_user": (after - before) / args.users, "prompt_bytes": made[0].prompt_bytes}
    print_row(row, args.json)


if __name__ == "__main__":
    main()
