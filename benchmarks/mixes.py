"""Random mixes through the serving engine, token for token against each row's solo run.

    python benchmarks/mixes.py --json              # 1,000 mixes on builtin/tiny, fp32

A pool of rows (prompt of its own length or none, input, bound) is run alone, one row and one whole pass a token, by plain
concatenation. Then mixes of 2 to 16 rows of the pool, with rows coming in while others run and some given up half-way, go
through one engine. A row that differs is a tie where the solo run's two best logits, at the token where it parts, lie within
1e-4; ties are counted, and anything else is wrong. Exits 1 on anything wrong.
"""

from __future__ import annotations

import argparse
import functools
import queue
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.load import running
from benchmarks.row import print_row
from benchmarks.train_vs_peft import SHORT
from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Piece, Result, Sampling, Vectors

TIE = 1e-4


@dataclass(frozen=True)
class Solo:
    """A row, and what it is told alone."""

    job: GenerateJob
    ids: list[int]
    gaps: list[float]
    """Between the two best logits, token by token."""


@torch.no_grad()
def run_alone(base: FrozenBase, job: GenerateJob) -> Solo:
    """The slow twin: everything again for each token."""
    front_PD = job.prompt.vectors_PD if job.prompt.vectors_PD is not None else torch.zeros(0, base.width)
    ids: list[int] = []
    gaps: list[float] = []
    while len(ids) < job.sampling.max_tokens:
        embeds = torch.cat([front_PD, base.embed(torch.tensor([*job.input, *ids]))])[None]
        best = base.model(inputs_embeds=embeds, use_cache=False).logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        if ids[-1] in base.end_ids:
            break
    return Solo(job, ids, gaps)


def make_pool(base: FrozenBase, count: int, seed: int) -> list[GenerateJob]:
    """Rows of all kinds; the prompts are words of the vocabulary, a little shaken."""
    draw, torch_draw = random.Random(seed), torch.Generator().manual_seed(seed)
    prompts: list[Vectors] = [NO_PROMPT]
    for number in range(40):
        ids = torch.randint(2, base.embedding.weight.shape[0], (draw.randint(1, 40),), generator=torch_draw)
        words_PD = base.embed(ids).detach()
        prompts.append(Vectors(f"{number:04x}", words_PD * (1 + 0.3 * torch.randn(words_PD.shape, generator=torch_draw))))
    return [
        GenerateJob(
            draw.choice(prompts),
            tuple(draw.randrange(2, base.embedding.weight.shape[0]) for _ in range(draw.randint(1, 60))),
            Sampling(max_tokens=draw.randint(1, 20), logprobs=0),
        )
        for _ in range(count)
    ]


def main() -> None:
    """Run the mixes and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixes", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    base = FrozenBase.load(args.model, dtype=SHORT[args.dtype], attn_implementation=args.attention)
    pool = [run_alone(base, job) for job in make_pool(base, args.pool, seed=0)]
    draw = random.Random(1)
    counts = dict.fromkeys(("rows", "equal", "tied", "given_up", "wrong"), 0)
    with running(base, prefix_bytes=2 << 20) as engine:  # few prompts are held, so that they come and go
        for mix in range(args.mixes):
            answers: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
            some = draw.choices(pool, k=draw.randint(2, 16))
            left = set()
            for row, solo in enumerate(some):
                ticket = engine.submit(solo.job, functools.partial(_put, answers, row))
                if draw.random() < 0.3:
                    time.sleep(draw.random() * 0.02)
                if draw.random() < 0.05:
                    ticket.cancel()
                    left.add(row)
            ids: list[list[int]] = [[] for _ in some]
            waiting = set(range(len(some))) - left
            while waiting:
                row, result = answers.get(timeout=300)
                if isinstance(result, Piece):
                    ids[row] += [token.id for token in result.tokens]
                if not isinstance(result, Piece) or result.finish:
                    waiting.discard(row)
            for row, solo in enumerate(some):
                counts["rows"] += 1
                counts["given_up" if row in left else verdict(solo, ids[row])] += 1
            if not args.json and mix % 10 == 0:
                sys.stderr.write(f"\r{mix} {counts}")
    report: dict[str, Any] = {
        "model": args.model, "dtype": args.dtype, "attention": args.attention, "mixes": args.mixes, **counts,
    }  # fmt: skip
    if not args.json:
        sys.stderr.write("\n")
    print_row(report, args.json)
    sys.exit(1 if counts["wrong"] else 0)


def _put(answers: queue.SimpleQueue[tuple[int, Result]], row: int, result: Result) -> None:
    answers.put((row, result))


def verdict(solo: Solo, ids: list[int]) -> str:
    """Whether a row was told what it is told alone."""
    if ids == solo.ids:
        return "equal"
    parts = next((i for i, (a, b) in enumerate(zip(ids, solo.ids, strict=False)) if a != b), min(len(ids), len(solo.ids)))
    return "tied" if parts < len(solo.gaps) and solo.gaps[parts] < TIE else "wrong"


if __name__ == "__main__":
    main()
