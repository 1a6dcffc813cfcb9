"""An instruction with many examples into a short soft prompt: how often the two answer alike, and what a request costs.

    python benchmarks/distill.py --json
    python benchmarks/distill.py --model builtin/tiny --tokens 300 --max-steps 50

The instruction is made by program: the task's zero-shot text and as many of its training rows, in its own template, as make
--tokens tokens. A row for each length of the prompt (--P), on the task's test rows: `value` of the prompt, `teacher` of the
instruction, `agreement` of the two, milliseconds of a request alone with either, run anew or behind keys and values that a
server keeps, and the bytes of these. --judge-rows bounds the test rows. Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, first_rows, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.compare.text_prompts import draw_examples, few_shot_text
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.distill import distill

KEPT = (
    "task", "metric", "value", "stderr", "teacher", "teacher_stderr", "zero_shot", "untrained", "agreement",
    "agreement_stderr", "decided", "agreement_decided", "test_rows", "train_rows", "steps", "seconds",
    "instruction_tokens", "tokens_saved", "latency_ms",
    "teacher_latency_ms", "cheaper", "cached_latency_ms", "teacher_cached_latency_ms", "kept_bytes", "teacher_kept_bytes",
)  # fmt: skip


def make_instruction(task: Task, base: FrozenBase, tokens: int) -> tuple[str, int]:
    """The task's text with as many examples as fit so many tokens, and their number."""
    drawn = draw_examples(task, tokens // 8, task.config.seed)
    texts = [few_shot_text(task, drawn[:count], base) for count in range(len(drawn) + 1)]
    count = max(n for n, ids in enumerate(base.encode(texts)) if n == 0 or len(ids) <= tokens)
    return texts[count].removesuffix("\n"), count


def main() -> None:
    """Measure each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE.parent / "models" / "smollm2.gguf"), help="a base; by default SmolLM2")
    parser.add_argument("--dtype", default="bf16", help="fp32 or bf16 (the default)")
    parser.add_argument("--task", choices=REAL, default="trec6")
    parser.add_argument("--tokens", type=int, default=1000, help="of the instruction")
    parser.add_argument("--P", type=int, nargs="+", default=[20], help="lengths of the prompt")
    parser.add_argument("--train-rows", type=int, default=1500)
    parser.add_argument("--judge-rows", type=int, help="of the test rows; by default all")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value for a key of the task"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    args = parser.parse_args()
    base = FrozenBase.load(args.model, dtype=args.dtype)
    overrides = dict(item.split("=", 1) for item in args.set)
    recipe = {"max_steps": args.max_steps, "per_device_train_batch_size": 32, "max_baseline_samples": 64}
    recipe |= {"prompt_tuning_init": None} | overrides  # the start that distillation has where a file names none
    (whole,) = make_tasks([args.task], 0, recipe)
    text, examples = make_instruction(whole, base, args.tokens)
    task = first_rows(whole, args.train_rows)
    if args.judge_rows is not None:
        data = {"train": list(task.train), "validation": list(task.validation), "test": list(task.test)[: args.judge_rows]}
        task = task.variant(data=data)
    for length in args.P:
        own = task.variant(num_virtual_tokens=length)
        found = distill(own, text, base=base, publish=False, progress=Bars()).row()
        named = {"model": Path(args.model).stem, "dtype": args.dtype, "P": length, "examples": examples}
        row: Row = named | {name: found[name] for name in KEPT if name in found}
        print_row(row, args.json)


if __name__ == "__main__":
    main()
