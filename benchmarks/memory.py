"""Peak memory of one training step of 32 rows: full fine-tuning, PEFT's prompt tuning, and ours in its several ways.

    python benchmarks/memory.py --json
    python benchmarks/memory.py --model llama-135m --rows trec6 --dtype fp32 --P 100 --method peft ours

Each figure comes from a process of its own, behind a warm-up step of two rows. On a CPU it is the high-water mark of the
resident set over what it was when all libraries were imported, so the base is in it; on a GPU, what torch has allocated at
most. The allocator is told to hand every large piece back when it is freed: by default glibc keeps more of them the longer a
process lives, and figures would tell of its history.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import torch

from benchmarks.row import print_row
from benchmarks.train_vs_peft import ROWS_PER_STEP, SHORT, Rows, make_base, make_rows, peft_steps
from softprompt.bases.base import FrozenBase
from softprompt.bases.quantization import Int8Linear
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_padded
from softprompt.training.objectives import LANGUAGE_MODELING
from softprompt.training.steps.bank import Bank, Rule
from softprompt.training.steps.forward import Example, losses_and_gradient

METHODS = ("full", "peft", "ours", "ours_checkpointing", "ours_int8", "ours_int8_checkpointing")
MIB = 2**20


def make_step(method: str, base: FrozenBase, length: int) -> Callable[[Rows], None]:
    """A function that does one training step on rows."""
    if method == "full":
        return full_step(base)
    if method == "peft":
        return lambda rows: peft_steps(base, rows, length, "sdpa")()
    return our_step(base, length, recompute="checkpointing" in method)


def full_step(base: FrozenBase) -> Callable[[Rows], None]:
    """AdamW on all weights, all rows in one batch as the Trainer has them."""
    from softprompt.compare.trainer import collate

    base.model.set_attn_implementation("sdpa")
    base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(base.model.parameters(), lr=1e-5)

    def step(rows: Rows) -> None:
        batch = collate([{"input_ids": ids + target, "labels": [-100] * len(ids) + target} for ids, target in rows])
        base.model(**{name: tensor.to(base.device) for name, tensor in batch.items()}).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def our_step(base: FrozenBase, length: int, recompute: bool) -> Callable[[Rows], None]:
    """One prompt of so many vectors in a bank."""
    bank = Bank([torch.randn(length, base.width) * 0.02], [Rule("adamw", 0.0, 1.0)], base.device)
    architecture = architecture_of(base)

    def step(rows: Rows) -> None:
        total = sum(len(target) for _, target in rows)
        batch = [Example(0, ids, LANGUAGE_MODELING, target, 1 / total) for ids, target in rows]
        stack = stack_padded(bank.vectors_KPD, bank.lengths)
        _, gradient_KPD = losses_and_gradient(architecture, stack, batch, recompute=recompute)
        bank.step([0], gradient_KPD, [0.03])

    return step


def save_base(model: str, folder: Path) -> str:
    """What :meth:`FrozenBase.load` takes for a model: weights are read from files here, as users' are. One that was made in
    memory would leave holes there when it is quantised."""
    if model.startswith("builtin/"):
        return model
    make_base(model, "fp32", "cpu").model.save_pretrained(folder)
    FrozenBase.load("builtin/tiny", device="cpu").tokenizer.save_pretrained(folder)
    return str(folder)


def measure(
    source: str, model: str, kind: str, dtype: str, length: int, method: str, device: str
) -> dict[str, Any]:  # fmt: skip
    """One row of the benchmark; to be called in a fresh process."""
    import peft  # noqa: F401  (what is imported later would count as memory of the step)
    import transformers.models.llama.modeling_llama
    import transformers.trainer  # noqa: F401

    Int8Linear(torch.zeros(2, 2), None)  # for what torchao imports
    if device == "cpu":
        ctypes.CDLL(None).mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD; setting it ends its growth
    rows = make_rows(kind, ROWS_PER_STEP, seed=0)
    before = settled() if device == "cpu" else 0
    base = FrozenBase.load(source, dtype=dtype, device=device, quantization="int8" if "int8" in method else None)
    step = make_step(method, base, length)
    step(rows[:2])
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in (*base.model.parameters(), *base.model.buffers())}
    if device == "cpu":
        settled()
        step(rows)
        peak = status("VmHWM") - before
    else:
        torch.cuda.reset_peak_memory_stats()
        step(rows)
        peak = torch.cuda.max_memory_allocated()
    return {
        "model": model,
        "rows": kind,
        "dtype": dtype,
        "P": length,
        "method": method,
        "device": device,
        "peak_mb": round(peak / MIB),
        "base_mb": round(sum(weights.values()) / MIB),
    }


def measured_apart(source: str, *wanted: Any) -> dict[str, Any]:
    """A row from a fresh process; without a figure where memory ran out, or the system killed it for memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, source, *wanted).result()
        except (BrokenProcessPool, RuntimeError) as error:
            names = ("model", "rows", "dtype", "P", "method", "device")
            return dict(zip(names, wanted, strict=True)) | {"peak_mb": None, "failed": f"{type(error).__name__}: {error}"}


def settled() -> int:
    """Bytes resident now, garbage and free memory given back, and the high-water mark set anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    """A figure of this process in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Print a row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=["builtin/tiny", "llama-135m"], default=["builtin/tiny", "llama-135m"])
    parser.add_argument("--rows", nargs="+", choices=["trec6", "200"], default=["trec6", "200"])
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=list(SHORT))
    parser.add_argument("--P", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    if args.device == "cpu" and sys.platform != "linux":
        sys.exit("the high-water mark of a step is read from /proc, which only Linux has; use --device cuda:0")
    for model in args.model:
        with tempfile.TemporaryDirectory() as folder:
            source = save_base(model, Path(folder))
            for wanted in itertools.product(args.rows, args.dtype, args.P, args.method):
                row = measured_apart(source, model, *wanted, args.device)
                print_row(row, args.json)


if __name__ == "__main__":
    main()
