"""A training step against PEFT's: same base, rows, rows per step, prompt length and dtype, in turn, in one process.

    python benchmarks/train_vs_peft.py --json
    python benchmarks/train_vs_peft.py --model llama-135m --rows trec6 --dtype bf16 --P 100 --K 1

PEFT runs through the Transformers Trainer; ours through the bank, with the same objective (language modelling). A step
of K prompts is one step of ours and K steps of PEFT. Each row has the ratio of user CPU times (median over the pairs),
wall-clock times beside it, and the roofline: the operations that a step must do, over the time that the machine's measured
matrix-product rate in that dtype would take for them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another
os.environ.setdefault("SOFTPROMPT_DATA", str(HERE.parent.parent / "shared" / "data"))

import torch

from benchmarks.row import print_row
from softprompt.bases.base import FrozenBase
from softprompt.bases.devices import DTYPES
from softprompt.model.architecture import architecture_of
from softprompt.model.fused import Fused
from softprompt.model.splice import common_head, stack_padded
from softprompt.tasks.task import Task
from softprompt.training.objectives import LANGUAGE_MODELING
from softprompt.training.steps.bank import Bank, Rule
from softprompt.training.steps.forward import Example, losses_and_gradient


def _shape(width: int, inner: int, layers: int, heads: tuple[int, int], vocabulary: int) -> dict[str, int]:
    """As a config calls it; heads of queries, and of keys."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
    }


SHORT = {"fp32": "float32", "bf16": "bfloat16"}
SHAPES = {
    "llama-tiny": _shape(64, 128, 2, (4, 2), 8192),
    "llama-135m": _shape(576, 1536, 30, (9, 3), 49152),
    "llama-1b": _shape(2048, 8192, 16, (32, 8), 128256),
}
"""Random Llamas by name: a small one, one of the shapes of SmolLM2-135M, and one of those of Llama 3.2 1B."""
ROWS_PER_STEP = 32
Rows = list[tuple[list[int], list[int]]]


def make_base(model: str, dtype: str, device: str) -> FrozenBase:
    """A random Llama of :data:`SHAPES`, or whatever else can be loaded, such as the built-in base."""
    if model not in SHAPES:
        return FrozenBase.load(model, dtype=SHORT.get(dtype, dtype), device=device)
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPES[model], max_position_embeddings=2048, tie_word_embeddings=True)
    config._attn_implementation = "eager" if device == "cpu" else "sdpa"
    with torch.device(device):  # where drawing a billion numbers is quick
        random_model = transformers.AutoModelForCausalLM.from_config(config).to(DTYPES[SHORT[dtype]])
    random_model.eval().requires_grad_(False)
    return FrozenBase(model=random_model, tokenizer=None, source=model, fingerprint="0" * 32)


def make_rows(kind: str, count: int, seed: int) -> Rows:
    """Rows of trec6 as the built-in tokenizer sees them; or of random tokens, 200 (`200`) or 10 to 40 (`short`)."""
    draw = random.Random(seed)
    if kind in ("short", "200"):
        lengths = [198 if kind == "200" else draw.randrange(9, 40) for _ in range(count)]
        return [([draw.randrange(2, 8000) for _ in range(length)], [draw.randrange(2, 8000)]) for length in lengths]
    tiny = FrozenBase.load("builtin/tiny", device="cpu")
    task = Task.load(HERE.parent / "examples" / "trec6.yaml")
    examples = task.encode(tiny, draw.sample(task.train, count), 20, split="training")
    return list(zip(examples.inputs, examples.targets, strict=True))


def peft_steps(
    base: FrozenBase, rows: Rows, length: int, attention: str, callbacks: Sequence[Any] = ()
) -> Callable[[], None]:
    """A function that does one pass over the rows, a step for each 32, with PEFT and the Trainer, which calls callbacks."""
    import peft
    import transformers

    from softprompt.compare.trainer import collate

    base.model.set_attn_implementation(attention)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    model: Any = peft.get_peft_model(base.model, config)
    data = [{"input_ids": ids + target, "labels": [-100] * len(ids) + target} for ids, target in rows]
    arguments = transformers.TrainingArguments(
        output_dir=str(HERE / "out" / "peft"),
        per_device_train_batch_size=ROWS_PER_STEP,
        num_train_epochs=1,
        learning_rate=0.03,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        use_cpu=base.device.type == "cpu",
    )

    def run() -> None:
        model.base_model.set_attn_implementation(attention)
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[*callbacks]
        )
        with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its summary
            trainer.train()

    return run


def our_steps(
    base: FrozenBase, rows: Rows, length: int, prompts: int, compiled: bool = False, shared: bool | None = None
) -> Callable[[], None]:
    """A function that takes one pass over the rows for each of K prompts, all in one bank; with compiled parts, as a run of
    some minutes has them on a CPU, or without; `shared` forces the shared prefix on or off."""
    attention = "eager" if base.device.type == "cpu" else "sdpa"
    starts = [torch.randn(length, base.width) * 0.02 for _ in range(prompts)]
    bank = Bank(starts, [Rule("adamw", 0.0, 1.0)] * prompts, base.device)
    every, architecture = list(range(prompts)), architecture_of(base)
    fused = Fused(base, lambda message: print(message, file=sys.stderr))

    def run() -> None:
        base.model.set_attn_implementation(attention)
        for at in range(0, len(rows), ROWS_PER_STEP):
            part = rows[at : at + ROWS_PER_STEP]
            total = sum(len(target) for _, target in part)
            batch = [Example(k, ids, LANGUAGE_MODELING, target, 1 / total) for k in every for ids, target in part]
            stack = stack_padded(bank.vectors_KPD, bank.lengths)
            with fused.within() if compiled else contextlib.nullcontext():
                _, gradient_KPD = losses_and_gradient(architecture, stack, batch, shared=shared)
            bank.step(every, gradient_KPD, [0.03] * prompts)

    return run


def needed_operations(base: FrozenBase, rows: Rows, length: int, prompts: int) -> float:
    """Multiplications and additions that a pass must do: linear layers forwards, and backwards to the activations alone, for
    the virtual tokens and what all rows begin with once a step, and for every other token of every row; logits where there
    is a label."""
    linear = sum(p.numel() for name, p in base.model.named_parameters() if p.ndim == 2 and "embed" not in name)
    tokens = 0
    for at in range(0, len(rows), ROWS_PER_STEP):
        part = rows[at : at + ROWS_PER_STEP]
        head = len(common_head([ids[:-1] for ids, _ in part]))
        tokens += prompts * (length + head + sum(len(ids) + len(target) - 1 - head for ids, target in part))
    labels = prompts * sum(len(target) for _, target in rows)
    return float(4 * (linear * tokens + base.embedding.weight.numel() * labels))


def matrix_rate(base: FrozenBase) -> float:
    """Operations a second of matrix products of the base's own shapes, the best of several."""
    width = int(base.model.config.intermediate_size)
    a = torch.randn(1024, base.width, device=base.device, dtype=base.dtype)
    b = torch.randn(base.width, width, device=base.device, dtype=base.dtype)
    best = float("inf")
    for _ in range(20):
        wait(base)
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        wait(base)
        best = min(best, (time.perf_counter() - began) / 10)
    return 2.0 * 1024 * base.width * width / best


def wait(base: FrozenBase) -> None:
    """Until the device has done what it was told; a CPU has."""
    if base.device.type == "cuda":
        torch.cuda.synchronize()


def timed(base: FrozenBase, run: Callable[[], None]) -> tuple[float, float]:
    """User CPU and wall-clock seconds."""
    wait(base)
    user, wall = os.times().user, time.perf_counter()
    run()
    wait(base)
    return os.times().user - user, time.perf_counter() - wall


def compare(
    model: str,
    kind: str,
    dtype: str,
    length: int,
    prompts: int,
    pairs: int,
    steps: int,
    attention: str,
    device: str,
    compiled: bool,
) -> dict[str, Any]:
    """One row of the benchmark."""
    base = make_base(model, dtype, device)
    rows = make_rows(kind, steps * ROWS_PER_STEP, seed=0)
    ours = our_steps(base, rows, length, prompts, compiled=compiled)
    peft = peft_steps(make_base(model, dtype, device), rows, length, attention)
    timed(base, ours)
    timed(base, peft)
    measured: list[tuple[float, float, float, float]] = []
    for _ in range(pairs):
        measured.append((*timed(base, peft), *timed(base, ours)))
    peft_user, peft_wall, our_user, our_wall = (statistics.median(column) for column in zip(*measured, strict=True))
    on_cpu = device == "cpu"
    ratios = [m[0] * prompts / m[2] if on_cpu else m[1] * prompts / m[3] for m in measured]
    operations = needed_operations(base, rows, length, prompts)
    rate = matrix_rate(base)
    return {
        "model": model,
        "rows": kind,
        "dtype": dtype,
        "P": length,
        "K": prompts,
        "attention": attention,
        "compiled": compiled,
        "device": device,
        "pairs": pairs,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "ratio_wall": round(statistics.median(m[1] * prompts / m[3] for m in measured), 3),
        "peft_user_s": round(peft_user * prompts / steps, 3),
        "ours_user_s": round(our_user / steps, 3),
        "peft_wall_s": round(peft_wall * prompts / steps, 3),
        "ours_wall_s": round(our_wall / steps, 3),
        "gflop_needed": round(operations / steps / 1e9, 2),
        "matrix_gflops": round(rate / 1e9, 1),
        "roofline": round(operations / our_wall / rate, 3),
    }


def main() -> None:
    """Print a row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=["builtin/tiny", "llama-135m"], default=["builtin/tiny", "llama-135m"])
    parser.add_argument("--rows", nargs="+", choices=["trec6", "200"], default=["trec6", "200"])
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=list(SHORT))
    parser.add_argument("--P", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--K", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"], help="of PEFT's base; sdpa is its default")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of 32 rows, in each turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="as long runs on a CPU are")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    combinations = itertools.product(args.model, args.rows, args.dtype, args.P, args.K, args.attention)
    for model, kind, dtype, length, prompts, attention in combinations:
        compiled = args.compile and model != "builtin/tiny"  # on which no run is long enough for it
        row = compare(model, kind, dtype, length, prompts, args.pairs, args.steps, attention, args.device, compiled)
        print_row(row, args.json)


if __name__ == "__main__":
    main()
