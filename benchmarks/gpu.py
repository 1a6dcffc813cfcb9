"""What a GPU does, in ten minutes at most: results against the CPU's, training against PEFT, serving against no prompt.

    python benchmarks/gpu.py --json --out gpu.jsonl
    python benchmarks/gpu.py --device cpu --quick

Rows come as each is known, the most telling first; a row that fails says why, and the others go on. Sections:

- `machine`: the card, versions, and the rate of a large matrix product.
- `correctness`: a training step, label scores and greedy answers in each dtype, on random models and SmolLM2, relative to
  float32 on the CPU with the same rounded weights; `ok` says whether that is rounding.
- `training`: a step of K prompts of P vectors, 32 rows each, against K steps of PEFT's with the Trainer, whose set-up is not
  counted. `roofline`: the operations that must be done, over what the products of one layer reach there with as many tokens.
  `*_step_mb`: the most that a step holds beside the base. `shared_ms`: with the shared prefix, where steps would do without.
- `serving`: 64 tasks against the same requests without a prompt, and the latency of single requests.
- `4bit`: bitsandbytes, against the same rounded weights made wide on the CPU.
- `shapes`: our steps on rows that were not met before, and again, with cuDNN's attention among torch's kernels and without:
  it may make a plan for each shape.
- `attention`: a random Llama with each implementation, held to the same bounds.

SmolLM2 is a file of `make models`; where it is not there, random weights of its shapes take its place in what is timed. Ends
with 1 where a row has failed or is not `ok`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import torch

from benchmarks import serve, train_vs_peft
from benchmarks.agreement import Referee, moved
from benchmarks.load import as_served
from benchmarks.row import Row
from benchmarks.train_vs_peft import ROWS_PER_STEP, make_base, make_rows, needed_operations, our_steps, peft_steps, wait
from softprompt.bases.base import FrozenBase
from softprompt.errors import reason_of
from softprompt.model.memory import free_caches, out_of_memory
from tests.models import make_base as random_base

HALVES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RANDOM = ("llama", "gpt2", "gemma2", "mistral")
COLUMNS = {
    "machine": "gpu:22 torch:12 transformers peft bf16_tflops",
    "correctness": "model:10 dtype ok:5 loss:7 gradient score:7 greedy_gap same_texts",
    "training": "model:10 rows:5 P:3 K:2 ratio ours_ms:7 shared_ms peft_ms:7 roofline",
    "serving": "model:10 case:7 prompts ratio tokens_per_s first_token_ms per_token_ms",
    "shapes": "model:10 rows:5 dtype:5 P:3 K:2 cudnn new_ms:7 again_ms:8",
    "4bit": "model:10 dtype ok:5 loss:7 gradient score:7 greedy_gap same_texts",
    "attention": "attention:14 dtype ok:5 loss:7 gradient score:7 greedy_gap way:8",
}
"""What the table shows of each section, and how wide; JSON has all."""


class Unavailable(Exception):
    """What a row asks for is not to be had here, which is no fault."""


@dataclass(frozen=True)
class Case:
    """A row to be."""

    section: str
    names: Row
    run: Callable[[], Row]


class Printer:
    """Rows as JSON lines or as a table; appended to a file as well, where one is given."""

    def __init__(self, as_json: bool, out: Path | None) -> None:
        self._as_json, self._out = as_json, out
        self._section = ""

    def __call__(self, row: Row) -> None:
        line = json.dumps(row, separators=(",", ":"))
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(line + "\n")
        if not self._as_json:
            line = self._table(row)
        print(line, flush=True)

    def _table(self, row: Row) -> str:
        named = [column.partition(":") for column in COLUMNS[row["section"]].split()]
        widths = {name: int(width or max(5, len(name))) for name, _, width in named}
        head = ""
        if row["section"] != self._section:
            self._section = row["section"]
            head = f"\n{self._section}\n" + "  ".join(f"{name:>{width}}" for name, width in widths.items()) + "\n"
        trouble = next((f"{key}: {row[key]}" for key in ("failed", "unavailable", "skipped") if key in row), None)
        if trouble:
            return head + "  ".join(str(row[name]) for name in widths if name in row) + f"  {trouble}"
        return head + "  ".join(f"{row.get(name, '-')!s:>{width}}" for name, width in widths.items())


def run_cases(
    cases: Iterator[Case], seconds: float, began: float, device: torch.device, emit: Callable[[Row], None]
) -> bool:
    """Emit a row for each case; those whose turn comes after so many seconds are skipped, and say so. Whether all are well.

    Args:
        began: when the seconds began, by `time.perf_counter`.
    """
    well = True
    for case in cases:
        row = {"section": case.section, **case.names}
        if time.perf_counter() - began > seconds:
            emit({**row, "skipped": f"the {seconds:g} seconds were over"})
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        row |= _guarded(case.run)
        if device.type == "cuda":
            if case.section != "training":  # which looks by itself, run by run
                row["peak_mb"] = _mb(torch.cuda.max_memory_allocated(device))
            gc.collect()  # out here an error is gone, and with it what its frames held
            free_caches(device)
        well = well and "failed" not in row and row.get("ok", True)
        emit({**row, "seconds": round(time.perf_counter() - start, 1)})
    return well


def _guarded(run: Callable[[], Row]) -> Row:
    try:
        return run()
    except Unavailable as error:
        return {"unavailable": str(error)}
    except Exception as error:
        what = "out of memory: " if out_of_memory(error) else ""
        return {"failed": f"{what}{type(error).__name__}: {reason_of(error)}"[:300]}


class Bases:
    """Bases by name, on the device, and what they are held against; the last one alone is kept."""

    def __init__(self, device: torch.device, smollm2: Path | None) -> None:
        self.device, self._smollm2 = device, smollm2
        self._held: tuple[str, str] | None = None
        self._base: FrozenBase | None = None
        self._referee: Referee | None = None

    def get(self, name: str, dtype: str) -> FrozenBase:
        """`smollm2`, a name of :data:`train_vs_peft.SHAPES`, or one of the tests' random models."""
        if self._base is None or self._held != (name, dtype):
            self._base = self._referee = None
            free_caches(self.device)
            self._base, self._held = self._make(name, dtype), (name, dtype)
        return self._base

    def referee(self, name: str, dtype: str) -> Referee:
        """For that base."""
        base = self.get(name, dtype)
        if self._referee is None:
            self._referee = Referee(base, HALVES[dtype])
        return self._referee

    def _make(self, name: str, dtype: str) -> FrozenBase:
        if name in RANDOM:
            return moved(random_base(name), self.device, HALVES[dtype])
        if name != "smollm2":
            return as_served(make_base(name, dtype, str(self.device)), "eager")  # which gives it a tokenizer
        if self._smollm2 is None:
            raise Unavailable("--quick takes random models alone")
        if not self._smollm2.exists():
            raise Unavailable(f"{self._smollm2} is not there; `make models` fetches it")
        return make_base(str(self._smollm2), dtype, str(self.device))


# Sections


def machine(device: torch.device, quick: bool) -> Row:
    """The card, versions, and the rate of a large matrix product in bfloat16."""
    row: Row = {"gpu": "none", "memory_gb": 0}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row = {"gpu": found.name, "memory_gb": round(found.total_memory / 1e9), "capability": f"{found.major}.{found.minor}"}
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        row[package] = importlib.metadata.version(package) if _installed(package) else None
    size = 256 if quick else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return {**row, "cpus": os.cpu_count(), "bf16_tflops": _tflops(2 * size**3 / _best_seconds(device, lambda: a @ b))}


def correctness(bases: Bases, name: str, dtype: str) -> Row:
    """One model in one dtype, by the attention that the device trains with."""
    base = bases.get(name, dtype)
    attention = "sdpa" if bases.device.type == "cuda" and base.model._supports_sdpa else "eager"
    base.model.set_attn_implementation(attention)
    return {"attention": attention, **bases.referee(name, dtype).judge(base)}


def training(bases: Bases, name: str, kind: str, length: int, prompts: int, steps: int, pairs: int, seconds: float) -> Row:
    """Ours and PEFT's in turn, up to so many pairs or seconds. Without PEFT ours alone."""
    base = bases.get(name, "bf16")
    rows = make_rows(kind, steps * ROWS_PER_STEP, seed=0)
    tokens = prompts * sum(len(ids) + len(target) for ids, target in rows)
    ours = our_steps(base, rows, length, prompts)
    other = _peft(base, rows, length) if _installed("peft") else None
    our_mb, other_mb = _held_mb(base, ours), _held_mb(base, other) if other else None  # the first runs; not timed
    our_s: list[float] = []
    other_s: list[float] = []
    began = time.perf_counter()
    while len(our_s) < pairs and (not our_s or time.perf_counter() - began < seconds):
        if other:
            other_s.append(prompts * other())
        our_s.append(train_vs_peft.timed(base, ours)[1])
    mine, rate = statistics.median(our_s), layer_rate(base, tokens // steps)
    row: Row = {"ours_ms": _ms(mine / steps), "tokens_per_s": round(tokens / mine), "ours_step_mb": our_mb}
    if other:
        ratios = [its / own for its, own in zip(other_s, our_s, strict=True)]
        its = statistics.median(other_s)
        row = {
            "ratio": round(statistics.median(ratios), 2),
            "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2),
            **row,
            "peft_ms": _ms(its / steps),
            "peft_tokens_per_s": round(tokens / its),
            "peft_step_mb": other_mb,
        }
    else:
        row["ratio"] = None
        row["peft"] = "peft is not installed"
    row |= {
        "pairs": len(our_s),
        "steps": steps,
        "base_mb": _mb(sum(weight.nbytes for weight in base.model.parameters())),
        "layer_tflops": _tflops(rate),
        "roofline": round(needed_operations(base, rows, length, prompts) / mine / rate, 3),
    }
    sharing = our_steps(base, rows, length, prompts, shared=True)
    _, row["shared_ms"] = (_ms(train_vs_peft.timed(base, sharing)[1] / steps) for _ in range(2))
    return row


def _peft(base: FrozenBase, rows: train_vs_peft.Rows, length: int) -> Callable[[], float]:
    """A function that does PEFT's steps on a copy of the base, and returns their seconds without the Trainer's set-up."""
    import transformers

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """From the first step's beginning to the last one's end."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            wait(base)
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            wait(base)
            self.seconds = time.perf_counter() - self.began

    clock = Clock()
    apart = replace(base, model=copy.deepcopy(base.model))
    steps = peft_steps(apart, rows, length, "eager" if base.device.type == "cpu" else "sdpa", [clock])

    def run() -> float:
        steps()
        return float(clock.seconds)

    return run


def _held_mb(base: FrozenBase, run: Callable[[], Any]) -> int | None:
    """The most that a run holds on the GPU beside what is there before it."""
    if base.device.type != "cuda":
        run()
        return None
    before = torch.cuda.memory_allocated(base.device)
    torch.cuda.reset_peak_memory_stats(base.device)
    run()
    return _mb(torch.cuda.max_memory_allocated(base.device) - before)


def layer_rate(base: FrozenBase, tokens: int) -> float:
    """Operations a second of the products of one decoder layer, each with so many tokens, or with as many as keep a GPU
    busy, whichever is quicker."""
    layer = base.model.get_decoder().layers[0]
    weights = [weight.detach() for weight in layer.parameters() if weight.ndim == 2]
    busy = 16384 if base.device.type == "cuda" else tokens
    rates: list[float] = []
    for count in {tokens, busy}:
        inputs = {w: torch.randn(count, w, device=base.device, dtype=base.dtype) for w in {w.shape[1] for w in weights}}

        def products(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for weight in weights:
                inputs[weight.shape[1]] @ weight.T

        rates.append(2 * count * sum(weight.numel() for weight in weights) / _best_seconds(base.device, products))
    return max(rates)


def _best_seconds(device: torch.device, run: Callable[[], Any]) -> float:
    """Of one run, the best of five times ten in a row; on a CPU of three runs."""
    turns, each = (5, 10) if device.type == "cuda" else (3, 1)
    best = float("inf")
    for _ in range(turns + 1):  # the first is slower than all
        _synchronize(device)
        began = time.perf_counter()
        for _ in range(each):
            run()
        _synchronize(device)
        best = min(best, (time.perf_counter() - began) / each)
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def serving(bases: Bases, name: str, case: str, prompts: str, requests: int, pairs: int) -> Row:
    """`mixed` or `latency` of serve.py, one row; on a GPU the ratio is of wall-clock times."""
    base = as_served(bases.get(name, "bf16"), "sdpa")
    if case == "latency":
        rows = {row["prompt"]: row for row in serve.latency(base, argparse.Namespace(repeats=max(2, requests // 12)))}
        warm = {key: value for key, value in rows["warm"].items() if key != "prompt"}
        return {**warm, "promptless_first_token_ms": rows["none"]["first_token_ms"]}
    settings = {"requests": requests, "pairs": pairs, "tasks": [64], "distribution": ["zipf"], "prefixes": [prompts]}
    row = next(serve.mixed(base, argparse.Namespace(**settings, prefix_bytes=4 << 30)))
    row["ratio_user"] = row.pop("ratio")  # with ratio_min and ratio_max
    return {"ratio": row["ratio_wall"] if base.device.type == "cuda" else row["ratio_user"], **row}


def shapes(bases: Bases, name: str, dtype: str, cudnn: bool, steps: int) -> Row:
    """A step of 8 prompts of 20 vectors, the mean over steps of unlike rows: the first time that they are met, and again."""
    base = bases.get(name, dtype)
    run = our_steps(base, make_rows("short", steps * ROWS_PER_STEP, seed=0), 20, 8)
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    try:
        new_s, again_s = (train_vs_peft.timed(base, run)[1] for _ in range(2))
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)  # as it is for bases
    return {"new_ms": _ms(new_s / steps), "again_ms": _ms(again_s / steps), "steps": steps}


def four_bits(bases: Bases, name: str, dtype: str) -> Row:
    """A random Llama through a folder, as users' bases come."""
    if bases.device.type != "cuda":
        raise Unavailable("4-bit bases need a CUDA GPU")
    if not _installed("bitsandbytes"):
        raise Unavailable("bitsandbytes is not installed; pip install 'softprompt[quant]'")
    with tempfile.TemporaryDirectory() as folder:
        make_base(name, "fp32", "cpu").model.save_pretrained(folder)
        FrozenBase.load("builtin/tiny", device="cpu").tokenizer.save_pretrained(folder)
        full = train_vs_peft.SHORT.get(dtype, "float16")
        base = FrozenBase.load(folder, dtype=full, device=str(bases.device), quantization="4bit")
        wide = FrozenBase.load(folder, dtype="float32", device="cpu")
    widen(base.model, wide.model)
    return Referee(wide, HALVES[dtype]).judge(base)


def widen(quantised: Any, wide: Any) -> None:
    """Give the linear layers of a model the weights that a model of 4-bit ones computes with.

    Raises:
        ValueError: there are none.
    """
    import bitsandbytes

    layers = [(n, m) for n, m in quantised.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if not layers:
        raise ValueError("no layer of the base is in 4 bits")
    for name, layer in layers:
        made = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        wide.get_submodule(name).weight.data.copy_(made)


def attention(bases: Bases, name: str, kind: str, dtype: str) -> Row:
    """A random Llama with one implementation."""
    if kind == "flex_attention" and bases.device.type == "cpu":
        raise Unavailable("flex_attention has no backward pass on a CPU")
    base, referee = bases.get(name, dtype), bases.referee(name, dtype)
    try:
        base.model.set_attn_implementation(kind)
        return referee.judge(base)
    except Exception as error:
        if kind != "flex_attention" or out_of_memory(error):
            raise
        raise Unavailable(f"{type(error).__name__}: {reason_of(error)}"[:300]) from None


def smollm2(bases: Bases) -> Row:
    """Why it is not there."""
    bases.get("smollm2", "bf16")
    return {}


def all_cases(bases: Bases, has_smollm2: bool, quick: bool) -> Iterator[Case]:
    """Every row, the most telling first."""
    device = bases.device
    yield Case("machine", {}, lambda: machine(device, quick))
    stand_in = "llama-tiny" if quick else "llama-135m"
    real = "smollm2" if has_smollm2 else stand_in
    for name, dtype in itertools.product(RANDOM[:1] if quick else (*RANDOM, "smollm2"), HALVES):
        yield Case("correctness", {"model": name, "dtype": dtype}, lambda n=name, d=dtype: correctness(bases, n, d))  # type: ignore[misc]
    if real != "smollm2":
        yield Case("training", {"model": "smollm2"}, lambda: smollm2(bases))
    timed = [real, "llama-tiny" if quick else "llama-1b"]
    kinds, lengths = (["short"], [20]) if quick else (["short", "200"], [20, 100])
    steps, pairs, requests = (1, 1, 24) if quick else (4, 3, 256)
    for name in dict.fromkeys(timed):
        for kind, length, prompts in itertools.product(kinds, lengths, (1, 8)):
            names = {"model": name, "rows": kind, "dtype": "bf16", "P": length, "K": prompts}
            yield Case(
                "training",
                names,
                lambda n=name, r=kind, p=length, k=prompts: training(bases, n, r, p, k, steps, pairs, 6.0),  # type: ignore[misc]
            )
    for name, (case, how) in itertools.product(
        dict.fromkeys(timed), [("mixed", "warm"), ("mixed", "cold"), ("latency", "warm")]
    ):
        names = {"model": name, "case": case, "dtype": "bf16", "prompts": how}
        yield Case("serving", names, lambda n=name, c=case, h=how: serving(bases, n, c, h, requests, pairs))  # type: ignore[misc]
    for dtype, cudnn in itertools.product(("bf16",) if quick else ("bf16", "fp32"), (True, False)):
        names = {"model": stand_in, "rows": "short", "dtype": dtype, "P": 20, "K": 8, "cudnn": cudnn}
        yield Case("shapes", names, lambda d=dtype, c=cudnn: shapes(bases, stand_in, d, c, 1 if quick else 16))  # type: ignore[misc]
    for dtype in HALVES:
        yield Case("4bit", {"model": stand_in, "dtype": dtype}, lambda d=dtype: four_bits(bases, stand_in, d))  # type: ignore[misc]
    for dtype, kind in itertools.product(("bf16",) if quick else ("fp32", "bf16"), ("eager", "sdpa", "flex_attention")):
        names = {"model": stand_in, "attention": kind, "dtype": dtype}
        yield Case("attention", names, lambda a=kind, d=dtype: attention(bases, stand_in, a, d))  # type: ignore[misc]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _mb(size: int) -> int:
    return round(size / 2**20)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _tflops(rate: float) -> float:
    return round(rate / 1e12, 3)


def main() -> None:
    """Print every row that the time allows."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--smollm2", type=Path, default=HERE.parent / "models" / "smollm2.gguf", help="a file of `make models`"
    )
    parser.add_argument("--sections", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--models", nargs="+", help="rows of these alone, in sections that name a model")
    parser.add_argument("--seconds", type=float, default=540, help="no row is begun later than that")
    parser.add_argument("--out", type=Path, help="append each row to this file as well, as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny random models in the place of all others")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible; --device cpu --quick tries the script without one")
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        parser.error("the Trainer would spread PEFT's batch over all GPUs; let one be visible: CUDA_VISIBLE_DEVICES=0")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bases = Bases(device, None if args.quick else args.smollm2)
    cases = (
        case
        for case in all_cases(bases, not args.quick and args.smollm2.exists(), args.quick)
        if case.section in args.sections and (not args.models or case.names.get("model", args.models[0]) in args.models)
    )
    well = run_cases(cases, args.seconds, began, device, Printer(args.json, args.out))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
