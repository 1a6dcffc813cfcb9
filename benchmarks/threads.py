"""Decoding and training by some threads on a machine that is free, and on one whose cores are busy.

    python benchmarks/threads.py --json
    python benchmarks/threads.py --busy 2 --threads 2 --spin 300000 1000 100

`spin` is how often a thread looks before it sleeps (`GOMP_SPINCOUNT`); 300,000 is libgomp's own. A setting takes a process
of its own, since torch reads it once; `busy` processes do sums meanwhile. Tokens a second of eight rows that decode together
on the built-in base, and steps a second of a prompt of 20 vectors over 32 rows; the median of several turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

TOKENS, ROWS = 30, 8


def measure(turns: int) -> dict[str, float]:
    """In this process, with its threads."""
    import torch
    from transformers import DynamicCache

    from benchmarks.train_vs_peft import make_rows, our_steps
    from softprompt.bases.base import FrozenBase

    base = FrozenBase.load("builtin/tiny", dtype="float32")
    step = our_steps(base, make_rows("short", 32, seed=0), 20, 1)
    ids = torch.tensor([base.encode(["The river is a long way from the house"])[0]] * ROWS)

    @torch.no_grad()
    def decode() -> None:
        base.model.set_attn_implementation("sdpa")
        cache, last = DynamicCache(), ids
        for _ in range(TOKENS):
            logits_BV = base.model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            last = logits_BV.argmax(-1)[:, None]

    found = {}
    for name, run, count in (("decode_tokens", decode, TOKENS * ROWS), ("train_steps", step, 1)):
        run()
        times = []
        for _ in range(turns):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        found[f"{name}_per_s"] = round(count / statistics.median(times), 2)
    return found


def _be_busy() -> None:
    number = 0
    while True:
        number += 1


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="processes beside it")
    parser.add_argument("--spin", nargs="+", type=int, default=[300000, 10000, 1000, 100, 0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.turns)))
        return
    from benchmarks.row import print_row

    for busy, threads, spin in itertools.product(args.busy, args.threads, args.spin):
        if threads == 1 and spin != args.spin[0]:
            continue  # nobody waits
        given = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": str(spin)}
        others = [multiprocessing.Process(target=_be_busy, daemon=True) for _ in range(busy)]
        for other in others:
            other.start()
        try:
            command = [sys.executable, __file__, "--here", "--turns", str(args.turns)]
            done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True)
        finally:
            for other in others:
                other.terminate()
        row = {"busy": busy, "threads": threads, "spin": spin, **json.loads(done.stdout.splitlines()[-1])}
        print_row(row, args.json)


if __name__ == "__main__":
    main()
