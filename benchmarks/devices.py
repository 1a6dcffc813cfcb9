"""What another device makes of the same work as the CPU: the largest differences, and whether rows are the same to the last
bit in any company there. No speed is measured.

    python benchmarks/devices.py --json --device cuda

A row for each model. `loss`, `gradient`, `score`: largest differences to the CPU in float32; `same_texts`: whether greedy
answers are the CPU's; `recompute`: what gradient checkpointing changes on the device; `invariant_DTYPE`: how many `rows` of
a mixed batch differ in any bit from the same rows alone, with `batch_invariant`.
"""

from __future__ import annotations

import argparse
import copy
import queue
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.load import running
from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.protocol import GenerateJob, Piece, Result, Sampling, Vectors
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from softprompt.training.forward import Example, losses_and_gradient
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from tests.models import make_base

LABELS = ((4, 5), (6,), (4, 7))
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
        row = {"model": name, "device": args.device, **_compare(base, _moved(base, args.device, torch.float32))}
        for dtype, kind in HALVES.items():
            row[f"invariant_{dtype}"] = _unlike(_moved(base, args.device, kind, batch_invariant=True), args.rows)
        print_row({**row, "rows": args.rows}, args.json)


def _moved(base: FrozenBase, device: str, dtype: torch.dtype, *, batch_invariant: bool = False) -> FrozenBase:
    return replace(base, model=copy.deepcopy(base.model).to(device, dtype), batch_invariant=batch_invariant)


def _prompts(base: FrozenBase) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, base.width, generator=generator) * 0.1 for rows in (5, 1, 8)]


def _inputs(base: FrozenBase, count: int) -> list[tuple[int, ...]]:
    draw, size = random.Random(0), len(base.embedding.weight)
    return [tuple(draw.randrange(2, size) for _ in range(draw.randrange(2, 24))) for _ in range(count)]


def _compare(cpu: FrozenBase, other: FrozenBase) -> Row:
    prompts, inputs = _prompts(cpu), _inputs(cpu, 12)
    which = [number % 3 for number in range(12)]
    examples = [
        Example(w, ids, LABEL_SCORING, LabelTarget(LABELS, w), 0.5)
        if number % 2
        else Example(w, ids, LANGUAGE_MODELING, [*ids[:2], 3], 0.5)
        for number, (w, ids) in enumerate(zip(which, inputs, strict=True))
    ]
    found = []
    for base in (cpu, other):
        architecture = architecture_of(base)
        stack = stack_prompts([prompt.to(base.device) for prompt in prompts])
        losses, gradient = losses_and_gradient(architecture, stack, examples)
        again = losses_and_gradient(architecture, stack, examples, recompute=True)[1]
        engine = OfflineEngine(architecture)
        scores = torch.tensor(result_of(engine.score(prompts, which, inputs, [LABELS] * 12)))
        texts = result_of(engine.generate(prompts, which, inputs, [8] * 12))
        found.append((losses.cpu(), gradient.cpu(), scores, texts, float((again - gradient).abs().max())))
    (losses, gradient, scores, texts, _), (losses_2, gradient_2, scores_2, texts_2, recompute) = found
    return {
        "loss": float((losses - losses_2).abs().max()),
        "gradient": float((gradient - gradient_2).abs().max()),
        "score": float((scores - scores_2).abs().max()),
        "recompute": recompute,
        "same_texts": texts == texts_2,
    }


def _unlike(base: FrozenBase, count: int) -> int:
    """How many rows of a mixed batch differ from the same rows alone, in a token or a bit of a log-probability."""
    prompts = [Vectors(f"{number:064x}", prompt.to(base.dtype)) for number, prompt in enumerate(_prompts(base))]
    how = Sampling(max_tokens=12, logprobs=2)
    jobs = [GenerateJob(prompts[number % 3], ids, how) for number, ids in enumerate(_inputs(base, count))]
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
