"""What comes before the first step: of a training from the command line, and of a second one on a base that is loaded.

    python benchmarks/startup.py --model models/smollm2.gguf --dtype bfloat16 --json

`command` is `softprompt train` in a process of its own, by the lines that it reports with: seconds from its start to the end
of loading, to the end of the baselines, and to the end of the first step. It is run twice; a GGUF file is unpacked by the
first alone, where it was not before. `python` is a first and a second training in one process with one loaded base, to the
end of the first step; `loaded_s` is what the loading took. `plan` is what `train --plan` foretells of the whole training,
beside what the second command then took for its steps and in all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import yaml

from benchmarks.row import Row, print_row
from benchmarks.tasks import first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.model.architecture import architecture_of
from softprompt.tasks.task import Task
from softprompt.training.events import Stepped
from softprompt.training.session import Session

ENDS = {"load: 100%": "loaded_s", "baselines: 100%": "baselines_s", "train: 10%": "first_step_s", "test: 0%": "trained_s"}
"""How the lines begin by which a command's parts end. `train: 0%` stands before the first step, and the next line behind a
tenth of them."""


def write_task(task: Task, base: str, folder: Path) -> Path:
    """A task and its rows as files."""
    data = {}
    for split in ("train", "validation", "test"):
        file = folder / f"{split}.jsonl"
        file.write_text("".join(json.dumps(dict(row)) + "\n" for row in getattr(task, split)), encoding="utf-8")
        data[split] = file.name
    config = task.config.model_dump(mode="json", exclude_unset=True, exclude={"data", "base"})
    file = folder / "task.yaml"
    file.write_text(
        yaml.safe_dump(config | {"data": data, "base": str(Path(base).resolve()) if Path(base).exists() else base}),
        encoding="utf-8",
    )
    return file


def call(args: argparse.Namespace, command: str, file: Path, *more: str) -> subprocess.Popen[str]:
    """A command of ours in a process of its own."""
    line = [
        sys.executable,
        "-m",
        "softprompt.cli",
        command,
        str(file),
        "--dtype",
        args.dtype,
        "--json",
    ]
    return subprocess.Popen([*line, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def time_command(args: argparse.Namespace, file: Path, home: Path) -> Row:
    """Seconds to the end of each part of a training."""
    began, found, told = time.perf_counter(), Row(), ""
    with call(args, "train", file, "--home", str(home)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told += line
            for beginning, name in ENDS.items():
                if line.startswith(beginning) and name not in found:
                    found[name] = round(time.perf_counter() - began, 2)
    if process.returncode:
        sys.exit(f"softprompt train: {told.strip()}")
    return found | {"all_s": round(time.perf_counter() - began, 2)}


def foretold(args: argparse.Namespace, file: Path) -> Row:
    """What a plan says of the training."""
    answer = json.loads(call(args, "train", file, "--plan").communicate()[0])
    return {"plan_train_s": answer["train_seconds"], "plan_s": answer["seconds"]}


def first_step(base: FrozenBase, task: Task) -> float:
    """Seconds of a new session to the end of its first step."""
    began, session = time.perf_counter(), Session(architecture_of(base))
    session.add(task)
    for event in session.run():
        if isinstance(event, Stepped):
            break
    return round(time.perf_counter() - began, 2)


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", default="trec6")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--train-rows", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    if args.max_steps > 10:
        parser.error("--max-steps: a command tells of its first step apart where it takes 10 or fewer")
    (task,) = make_tasks([args.task], 0, {"max_steps": args.max_steps})
    task = first_rows(task, args.train_rows)
    known = {"model": Path(args.model).stem, "dtype": args.dtype, "rows": args.task, "steps": args.max_steps}
    with tempfile.TemporaryDirectory() as folder:
        file = write_task(task, args.model, Path(folder))
        for _ in range(2):
            took = time_command(args, file, Path(folder) / "home")
            print_row(known | {"way": "command"} | took, args.json)
        steps = round(took["trained_s"] - took["baselines_s"], 2)
        print_row(known | {"way": "plan"} | foretold(args, file) | {"train_s": steps, "all_s": took["all_s"]}, args.json)
    began = time.perf_counter()
    base = FrozenBase.load(args.model, dtype=args.dtype)
    loaded = round(time.perf_counter() - began, 2)
    for _ in range(2):
        print_row(known | {"way": "python", "loaded_s": loaded, "first_step_s": first_step(base, task)}, args.json)


if __name__ == "__main__":
    main()
