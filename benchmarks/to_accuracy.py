"""Time to equal accuracy against PEFT and the Trainer: the same base, rows, start, rate, schedule and rows a step.

    python benchmarks/to_accuracy.py --model models/smollm2.gguf --dtype bf16 --P 20 100 --json

Both are judged every few steps on the same validation rows by the same evaluation, which no time is counted for, until one
judging reaches the accuracy asked for. A row for each method as soon as it is there, with the time and user CPU time until
then, and one of their ratio; `per_step` is the ratio of the times of a step, whatever the accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from torch import Tensor

from benchmarks.row import Row, print_row
from benchmarks.tasks import first_rows, make_tasks
from benchmarks.train_vs_peft import SHORT, wait
from softprompt.bases.base import FrozenBase
from softprompt.compare.peft_prompts import our_arguments
from softprompt.compare.trainer import fit_peft, without_future_warnings
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Silent
from softprompt.tasks.task import Examples, Task
from softprompt.training.prepare import Preparer
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.loop import Stepper


class _Reached(Exception):
    """The accuracy has been reached."""


class Watch:
    """Time of training alone, and what the prompt was worth on the way."""

    def __init__(self, base: FrozenBase, task: Task, rows: Examples, every: int, target: float, method: str) -> None:
        self._engine, self._base, self._task, self._rows = OfflineEngine(architecture_of(base)), base, task, rows
        self._every, self._target, self._method = every, target, method
        self.steps, self.user, self.wall = 0, 0.0, 0.0
        self.curve: list[tuple[int, float, float, float]] = []
        self.go_on()

    def go_on(self) -> None:
        """Count from now."""
        self._began = os.times().user, time.perf_counter()

    def took_step(self, vectors: Callable[[], Tensor]) -> None:
        """Count a step; judge where that is due.

        Raises:
            _Reached: the accuracy was.
        """
        wait(self._base)
        self.user += os.times().user - self._began[0]
        self.wall += time.perf_counter() - self._began[1]
        self.steps += 1
        if self.steps % self._every == 0:
            vectors_PD = vectors().detach().to(self._base.device, self._base.dtype)
            (report,) = result_of(judge(self._engine, [Trial(self._task.form, vectors_PD, self._rows)]))
            self.curve.append((self.steps, round(report.value, 4), round(self.user, 2), round(self.wall, 2)))
            print(f"{self._method}: step {self.steps}, {report.value:.3f}, {self.user:.0f} s of CPU", file=sys.stderr)
            if report.value >= self._target:
                raise _Reached
        self.go_on()

    def row(self) -> Row:
        """What is known of it."""
        return {
            "method": self._method,
            "reached": bool(self.curve) and self.curve[-1][1] >= self._target,
            "steps": self.steps,
            "user_s": round(self.user, 2),
            "wall_s": round(self.wall, 2),
            "curve": self.curve,
        }


def ours(base: FrozenBase, task: Task, make: Callable[[Examples], Watch]) -> tuple[Watch, Tensor]:
    """By the bank; and the vectors that it started from."""
    run, _ = Preparer(base).prepare(task, None)
    watch = make(run.validation)
    bank, stepper = Bank([run.start_PD], [run.rule], base.device), Stepper(architecture_of(base))
    watch.go_on()  # what comes before the first step is of both: reading and encoding
    with contextlib.suppress(_Reached):
        while run.running:
            stepper.take(bank, [run])
            watch.took_step(lambda: bank.prompt(0))
    return watch, run.start_PD


def peft_model(base: FrozenBase, start_PD: Tensor) -> Any:
    """A copy of the base in PEFT's prompt tuning, its vectors as given."""
    import peft as library

    config = library.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(start_PD))
    with without_future_warnings():
        model: Any = library.get_peft_model(copy.deepcopy(base.model), config)
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data.copy_(start_PD.to(weight))
    return model


def arguments_for_peft(task: Task, rate: float) -> dict[str, Any]:
    """A task's recipe in the Trainer's words."""
    return our_arguments(task, rate) | {
        "adam_beta2": task.config.adam_beta2,
        "max_grad_norm": task.config.max_grad_norm,
    }


def peft(base: FrozenBase, task: Task, rate: float, start_PD: Tensor, watch: Watch) -> Watch:
    """By PEFT's prompt tuning in the Trainer, from the same vectors, with the attention that trains faster on the device."""
    import transformers

    model = peft_model(base, start_PD)

    class Step(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.go_on()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.took_step(lambda: model.get_prompt_embedding_to_save("default"))

    with contextlib.suppress(_Reached):
        fit_peft(model, task, base, arguments_for_peft(task, rate), Silent(), callbacks=[Step()])
    return watch


def compare(args: argparse.Namespace, length: int, tell: Callable[[Row], None]) -> None:
    """Both methods at one length."""
    base = FrozenBase.load(args.model, dtype=SHORT.get(args.dtype, args.dtype))
    settings = {
        "num_virtual_tokens": length,
        "per_device_train_batch_size": args.batch,
        "learning_rate": args.rate,
        "max_steps": args.max_steps,
        "max_eval_samples": args.rows,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": args.text,
    }
    (task,) = make_tasks(["trec6"], args.seed, settings)
    task = first_rows(task, 2000)
    known = {"model": Path(args.model).stem, "dtype": args.dtype, "P": length, "accuracy": args.accuracy, "seed": args.seed}
    found = {}

    def make(name: str) -> Callable[[Examples], Watch]:
        return lambda rows: Watch(base, task, rows, args.every, args.accuracy, name)

    own, start_PD = ours(base, task, make("ours"))
    found["ours"] = own.row()
    tell(known | found["ours"])
    rows = task.encode(base, task.validation, length, split="validation")
    other = peft(base, task, args.rate, start_PD, make("peft")(rows))
    found["peft"] = other.row()
    tell(known | found["peft"])
    both = found["ours"]["reached"] and found["peft"]["reached"]
    ratio = {
        name: round(found["peft"][name] / found["ours"][name], 3) if both else None for name in ("user_s", "wall_s", "steps")
    }
    step = (other.user / other.steps) / (own.user / own.steps)
    tell(known | {"method": "peft/ours", **ratio, "per_step": round(step, 3)})


def main() -> None:
    """Print a row for each method and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--dtype", default="fp32", choices=list(SHORT))
    parser.add_argument("--P", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--accuracy", type=float, default=0.8, help="to be reached, on the validation rows")
    parser.add_argument("--every", type=int, default=10, help="steps between judgings")
    parser.add_argument("--rows", type=int, default=256, help="of a judging, at most")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--text", default="Classify the question by the type of its answer.", help="what the vectors start from"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for length in args.P:
        compare(args, length, lambda row: print_row(row, args.json))


if __name__ == "__main__":
    main()
