"""What a prompt costs vLLM's engine, and what of it nobody can avoid: as many ordinary tokens in front of the same input

    make test-vllm && .venv-vllm/bin/python benchmarks/vllm_floor.py --json
    .venv-vllm/bin/python benchmarks/vllm_floor.py --model FOLDER --P 64 --K 8 --requests 16 --rounds 20

Scheduler, worker and model run in this process, on one thread, without HTTP and without messages between processes; so its
seconds of CPU are those of the work, and other programs change them little. In each round every case is run, in an order of
its own: `base`, the input alone; `tokens`, the input behind P ordinary tokens, which vLLM's cache has; `held`, behind a
prompt that the worker holds; `vectors`, behind a prompt whose vectors, and the input's, come with each request. `cpu_ms` is
of a request, the median of the rounds and the least; `ratio` is the median of the base's over the case's in a round. What
vectors cost between processes is not in it: `wire_kb` is what of a request goes through two of them, the engine's and the
worker's.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # and not this folder, where a module is called like vLLM
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip

import torch

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import locate
from softprompt.vllm.held import EXTENSION

INPUT = 30
SERVER = "softprompt-benchmark"


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each case."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import embeds_input, tokens_input

    torch.set_num_threads(1)
    folder = str(locate(args.model))
    engine = LLM(
        model=folder, dtype="float32", block_size=32, enforce_eager=True, max_model_len=512, max_num_seqs=args.requests,
        enable_prompt_embeds=True, worker_extension_cls=EXTENSION, distributed_executor_backend="uni",
    )  # fmt: skip
    base = FrozenBase.load(folder, dtype="float32", device="cpu")
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(300, 2000) for _ in range(count)]

    fronts = [tokens(args.P) for _ in range(args.K)]
    prompts = [torch.randn(args.P, base.width, generator=generator) * base.spread for _ in range(args.K)]
    engine.collective_rpc("softprompt_begin", args=(SERVER,))
    for number, rows_PD in enumerate(prompts):
        told: tuple[Any, ...] = (SERVER, str(number), rows_PD.numpy().tobytes(), args.P, "float32", [])
        engine.collective_rpc("softprompt_hold", args=told)

    def sampling(**more: Any) -> Any:
        return SamplingParams(max_tokens=args.output, temperature=0, ignore_eos=True, detokenize=False, **more)

    def vectors(number: int) -> tuple[Any, Any]:
        rows_TD = base.embed(torch.tensor(tokens(INPUT)))
        return embeds_input(torch.cat([prompts[number], rows_TD]), cache_salt=str(number)), sampling()

    def held(number: int) -> tuple[Any, Any]:
        given = tokens_input([0] * args.P + tokens(INPUT), cache_salt=str(number))
        return given, sampling(extra_args={SERVER: str(number)})

    cases: dict[str, Callable[[int], tuple[Any, Any]]] = {
        "base": lambda _: (tokens_input(tokens(INPUT)), sampling()),
        "tokens": lambda number: (tokens_input(fronts[number] + tokens(INPUT)), sampling()),
        "held": held,
        "vectors": vectors,
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    cached: dict[str, float] = {}
    for turn in range(-3, args.rounds):  # the first few warm up
        for name in random.Random(turn).sample(list(cases), len(cases)):
            began = time.process_time()
            cached[name] = run(engine.llm_engine, [cases[name](number % args.K) for number in range(args.requests)])
            if turn >= 0:
                found[name].append((time.process_time() - began) / args.requests * 1e3)
    for name, spent in found.items():
        yield {
            "case": name,
            "ratio": round(statistics.median(one / other for one, other in zip(found["base"], spent, strict=True)), 3),
            "cpu_ms": round(statistics.median(spent), 3),
            "cpu_ms_min": round(min(spent), 3),
            "cached": round(cached[name], 3),
            "wire_kb": round((args.P + INPUT) * base.width * 4 / 1e3, 1) if name == "vectors" else 0,
        }


def run(engine: Any, requests: list[tuple[Any, Any]]) -> float:
    """Requests to their ends, all at once; what share of their tokens was in the cache."""
    for number, (given, sampling) in enumerate(requests):
        engine.add_request(f"{time.monotonic_ns()}-{number}", given, sampling)
    done = []
    while engine.has_unfinished_requests():
        done += [output for output in engine.step() if output.finished]
    assert len(done) == len(requests)
    lengths = [len(output.prompt_token_ids) for output in done]
    return float(sum(output.num_cached_tokens for output in done) / sum(lengths))


def main() -> None:
    """Measure, and print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny", help="a folder, or builtin/tiny")
    parser.add_argument("--P", type=int, default=64, help="virtual tokens of a prompt")
    parser.add_argument("--K", type=int, default=8, help="prompts")
    parser.add_argument("--requests", type=int, default=16, help="at once")
    parser.add_argument("--output", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for row in measure(args):
        print_row({"model": args.model, "dtype": "fp32", "P": args.P, "K": args.K, **row}, args.json)


if __name__ == "__main__":
    main()
