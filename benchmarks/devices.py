"""What another device makes of the same work as the CPU: the largest differences, and whether rows are the same to the last
bit in any company there. No speed is measured.

    python benchmarks/devices.py --json --device cuda

A row for each model. `loss`, `gradient`, `score`: largest differences to the CPU in float32; `same_texts`: whether greedy
answers are the CPU's; `recompute`: what gradient checkpointing changes on the device; `invariant_DTYPE`: how many `rows` of
a mixed batch differ in any bit from the same rows alone, with `batch_invariant`.
"""

from __future__ import annotations

import argparse
import queue
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.agreement import PROMPTS, differences, moved, outcome_of, some_inputs, some_prompts
from benchmarks.load import running
from benchmarks.row import print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import GenerateJob, Piece, Result, Sampling, Vectors
from tests.models import make_base

HALVES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["llama", "gpt2", "gemma2", "mistral", "builtin/tiny"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=24, help="Rows of a mixed batch.")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in args.model:
        base = FrozenBase.load(name, dtype="float32", device="cpu") if "/" in name else make_base(name)
        row = {"model": name, "device": args.device}
        row |= differences(outcome_of(base), outcome_of(moved(base, args.device, torch.float32)))
        for dtype, kind in HALVES.items():
            row[f"invariant_{dtype}"] = _unlike(moved(base, args.device, kind, batch_invariant=True), args.rows)
        print_row({**row, "rows": args.rows}, args.json)


def _unlike(base: FrozenBase, count: int) -> int:
    """How many rows of a mixed batch differ from the same rows alone, in a token or a bit of a log-probability."""
    prompts = [Vectors(f"{number:064x}", prompt.to(base.dtype)) for number, prompt in enumerate(some_prompts(base))]
    how = Sampling(max_tokens=12, logprobs=2)
    jobs = [GenerateJob(prompts[number % PROMPTS], ids, how) for number, ids in enumerate(some_inputs(base, count))]
    with running(base) as engine:
        together = _answers(engine, jobs)
        alone = [_answers(engine, [job])[0] for job in jobs]
    return sum(one != other for one, other in zip(together, alone, strict=True))


def _answers(engine: ContinuousEngine, jobs: Sequence[GenerateJob]) -> list[list[tuple[int, float]]]:
    """Tokens and their log-probabilities of each job."""
    ended: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
    answers: list[list[tuple[int, float]]] = [[] for _ in jobs]

    def deliver_to(number: int) -> Callable[[Result], None]:
        return lambda result: ended.put((number, result))

    engine.submit_all([(job, deliver_to(number)) for number, job in enumerate(jobs)])
    left = len(jobs)
    while left:
        number, result = ended.get()
        if not isinstance(result, Piece):
            raise RuntimeError(f"row {number} failed: {result}")
        answers[number] += [(token.id, token.logprob) for token in result.tokens]
        left -= bool(result.finish)
    return answers


if __name__ == "__main__":
    main()
