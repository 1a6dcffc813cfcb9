"""Serving many soft prompts on one base: throughput beside the base alone, PEFT, latency, memory, loading.

    python benchmarks/serve.py --json
    python benchmarks/serve.py --model builtin/tiny --cases mixed --tasks 64 --dtype fp32

Each row of two things compared runs them in turn, in one process, several times, and gives the median of the ratios of user
CPU times (`ratio`) and of wall-clock times (`ratio_wall`); above 1 ours is the faster. Prompts are random, 20 tokens; inputs
are 30 random tokens, 16 come out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import queue
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.load import (
    OUTPUT,
    VIRTUAL,
    closed_loop,
    draw_tasks,
    paired,
    running,
    served_base,
    some_inputs,
    some_vectors,
)
from benchmarks.row import Row, print_row
from benchmarks.serve_storage import cold, swap
from benchmarks.train_vs_peft import SHORT
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Piece, Result, Sampling
from softprompt.model.architecture import architecture_of

DEFAULTS: dict[str, dict[str, Any]] = {
    "builtin/tiny": {"tasks": [1, 8, 64, 1000, 10000], "requests": 256, "pairs": 5, "repeats": 50},
    "llama-135m": {"tasks": [64, 10000], "requests": 128, "pairs": 3, "repeats": 20},
}
"""By model, where the flags say nothing: each row within a few minutes on two cores."""


def mixed(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Requests of many tasks against the same requests without any prompt."""
    inputs = some_inputs(args.requests, seed=1)
    sampling = Sampling(max_tokens=OUTPUT)
    plain = [GenerateJob(NO_PROMPT, ids, sampling) for ids in inputs]
    for tasks, distribution, prefixes in itertools.product(args.tasks, args.distribution, args.prefixes):
        if tasks == 1 and distribution != args.distribution[0]:
            continue
        which = draw_tasks(tasks, distribution, len(inputs), seed=tasks)
        # Other digests in each pair, where the prefixes are to be cold.
        notes = {pair: f"{pair}-" if prefixes == "cold" else "" for pair in range(-1, args.pairs)}
        prompts = {(task, note): some_vectors(base, task, note) for task in set(which) for note in set(notes.values())}
        jobs = {
            pair: [GenerateJob(prompts[task, note], ids, sampling) for task, ids in zip(which, inputs, strict=True)]
            for pair, note in notes.items()
        }
        with running(base, prefix_bytes=args.prefix_bytes) as engine:
            ours = functools.partial(_run_pair, engine, jobs)
            row = paired(ours, functools.partial(_run_pair, engine, dict.fromkeys(jobs, plain)), args.pairs)
            status = engine.status()
        count = len(inputs)
        yield {
            "tasks": tasks,
            "distribution": distribution,
            "prefixes": prefixes,
            "distinct": len({job.prompt.digest for job in jobs[0]}),
            **row,
            "requests_per_s": round(count / row["wall_s"], 1),
            "tokens_per_s": round(count * OUTPUT / row["wall_s"], 1),
            "promptless_requests_per_s": round(count / row["other_wall_s"], 1),
            "prefix_hits": status.prefix_hits,
            "prefix_misses": status.prefix_misses,
        }


def _run_pair(engine: ContinuousEngine, jobs: dict[int, list[GenerateJob]], pair: int) -> None:
    closed_loop(engine, jobs[pair])


def peft(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """32 requests of 32 tasks: PEFT's `set_adapter` and `generate` for each, against all of them through the engine."""
    import peft as library

    count = 32
    inputs = some_inputs(count, seed=2)
    prompts = [some_vectors(base, task) for task in range(count)]
    with contextlib.redirect_stdout(sys.stderr):
        other: Any = None
        for task, prompt in enumerate(prompts):
            config = library.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
            if other is None:
                other = library.get_peft_model(base.model, config, adapter_name="0")
            else:
                other.add_adapter(str(task), config)
            other.prompt_encoder[str(task)].embedding.weight.data.copy_(prompt.vectors_PD)
    other.eval()
    jobs = [GenerateJob(prompts[task], ids, Sampling(max_tokens=OUTPUT)) for task, ids in enumerate(inputs)]

    @torch.no_grad()
    def one_by_one(_: int) -> None:
        for task, ids in enumerate(inputs):
            other.set_adapter(str(task))
            ids_1T = torch.tensor([ids])
            other.generate(
                input_ids=ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=OUTPUT,
                min_new_tokens=OUTPUT,
                do_sample=False,
                pad_token_id=0,
            )

    with running(base) as engine:
        yield {"requests": count, "tasks": count, **paired(lambda _: closed_loop(engine, jobs), one_by_one, args.pairs)}


def latency(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds to the first token, and for each after it, of requests that come one at a time."""
    inputs = some_inputs(args.repeats, seed=3)
    prompts = {"warm": some_vectors(base, 1), "none": NO_PROMPT}
    first: dict[str, list[float]] = {kind: [] for kind in prompts}
    each: dict[str, list[float]] = {kind: [] for kind in prompts}
    with running(base) as engine:
        closed_loop(engine, [GenerateJob(prompt, inputs[0], Sampling(max_tokens=4)) for prompt in prompts.values()])
        for ids, kind in itertools.product(inputs, prompts):
            came: list[float] = []
            ended: queue.SimpleQueue[Result] = queue.SimpleQueue()

            def deliver(result: Result, came: list[float] = came, ended: queue.SimpleQueue[Result] = ended) -> None:
                came.append(time.perf_counter())
                if not isinstance(result, Piece) or result.finish:
                    ended.put(result)

            began = time.perf_counter()
            engine.submit(GenerateJob(prompts[kind], ids, Sampling(max_tokens=OUTPUT, logprobs=0)), deliver)
            ended.get()
            first[kind].append(1000 * (came[0] - began))
            each[kind].append(1000 * (came[-1] - came[0]) / (len(came) - 1))
    for kind in prompts:
        yield {
            "prompt": kind,
            "first_token_ms": round(statistics.median(first[kind]), 2),
            "first_token_p99_ms": round(statistics.quantiles(first[kind], n=100)[98], 2),
            "per_token_ms": round(statistics.median(each[kind]), 2),
            "ratio": round(statistics.median(first["none"]) / statistics.median(first[kind]), 3),
        }


def memory(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Bytes of 50 resident tasks of 20 tokens, beside the base's; `share` is base and vectors over the base."""
    prompts = [some_vectors(base, task) for task in range(50)]
    cache = PrefixCache(architecture_of(base), 1 << 40)
    cache.fetch(prompts)
    weights = sum(weight.nbytes for weight in base.model.parameters())
    vectors = sum(prompt.vectors_PD.nbytes for prompt in prompts if prompt.vectors_PD is not None)
    yield {
        "tasks": len(prompts),
        "base_bytes": weights,
        "vectors_of_50_tasks_bytes": vectors,
        "keys_values_of_50_tasks_bytes": cache.bytes,
        "share": round(1 + vectors / weights, 5),
        "share_with_keys_values": round(1 + (vectors + cache.bytes) / weights, 5),
    }


def transformers_engine(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """The continuous batching of transformers: prompts as ids beyond the vocabulary, which an embedding knows."""
    import transformers

    tasks = 8
    vocabulary, width = base.embedding.weight.shape
    which = draw_tasks(tasks, "uniform", args.requests, seed=tasks)
    inputs = some_inputs(args.requests, seed=1)
    prompts = [some_vectors(base, task) for task in range(tasks)]
    rows = [
        [*range(vocabulary + VIRTUAL * task, vocabulary + VIRTUAL * (task + 1)), *ids]
        for task, ids in zip(which, inputs, strict=True)
    ]
    sampling = Sampling(max_tokens=OUTPUT, logprobs=0)
    other = served_base(args.name, args.width, "sdpa").model
    both = torch.nn.Embedding(vocabulary + VIRTUAL * tasks, width, dtype=base.dtype)
    both.weight.data = torch.cat([base.embedding.weight, *(p.vectors_PD for p in prompts if p.vectors_PD is not None)])
    head = other.get_output_embeddings()
    head.weight = torch.nn.Parameter(base.embedding.weight.data.clone(), requires_grad=False)
    other.set_input_embeddings(both)
    settings = transformers.GenerationConfig(
        max_new_tokens=OUTPUT, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cuda_graph=False
    )
    config = transformers.ContinuousBatchingConfig(page_size=args.page, num_blocks=args.requests, max_batch_tokens=2048)
    jobs = [GenerateJob(prompts[task], ids, sampling) for task, ids in zip(which, inputs, strict=True)]
    told: dict[str, Any] = {}

    def its(_: int) -> None:
        # Whatever fails in there is only logged, and answered with nothing.
        told.update(other.generate_batch(rows, generation_config=settings, continuous_batching_config=config, warmup=False))

    with running(base) as engine:
        measured = paired(lambda _: closed_loop(engine, jobs), its, args.pairs)
    answered = sum(len(output.generated_tokens) == OUTPUT for output in told.values())
    yield {"tasks": tasks, "page": args.page, "answered": answered, "requests": len(jobs), **measured}


CASES: dict[str, Callable[[FrozenBase, argparse.Namespace], Iterator[Row]]] = {
    "mixed": mixed,
    "latency": latency,
    "memory": memory,
    "swap": swap,
    "cold": cold,
    "transformers": transformers_engine,
    "peft": peft,  # the last: it wraps the base
}


def main() -> None:
    """Print a row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(DEFAULTS), default=list(DEFAULTS))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="all; of the larger model without `transformers`")
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=["fp32"])
    parser.add_argument("--attention", nargs="+", default=["sdpa"], help="eager or sdpa")
    parser.add_argument("--tasks", nargs="+", type=int, help="`swap` takes the largest")
    parser.add_argument("--distribution", nargs="+", choices=["zipf", "uniform"], default=["zipf", "uniform"])
    parser.add_argument("--prefixes", nargs="+", choices=["warm", "cold"], default=["warm", "cold"])
    parser.add_argument("--requests", type=int, help="of each turn of `mixed`")
    parser.add_argument("--pairs", type=int, help="turns of each of the two that are compared")
    parser.add_argument("--repeats", type=int, help="of `latency`, `swap` and `cold`")
    parser.add_argument("--prefix-bytes", type=int, default=4 << 30, help="bound on the keys and values of prompts")
    parser.add_argument("--page", type=int, default=256, help="tokens of a page of `transformers`")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for model, dtype, attention in itertools.product(args.model, args.dtype, args.attention):
        given = {name: value for name, value in vars(args).items() if value is not None}
        chosen = argparse.Namespace(**{**DEFAULTS[model], **given, "name": model, "width": dtype})
        every = [case for case in CASES if model == "builtin/tiny" or case != "transformers"]
        for case in args.cases or every:
            for row in CASES[case](served_base(model, dtype, attention), chosen):
                whole = {"model": model, "case": case, "dtype": dtype, "attention": attention, **row}
                print_row(whole, args.json)


if __name__ == "__main__":
    main()
