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
import json
import os
import queue
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import torch

from benchmarks.train_vs_peft import SHORT, make_base
from softprompt.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Piece, Result, Sampling, Vectors
from softprompt.engines.scheduler import Limits
from softprompt.errors import EngineError

VIRTUAL, INPUT, OUTPUT, FLIGHT = 20, 30, 16, 64
Row = dict[str, Any]


def served_base(model: str, dtype: str, attention: str) -> FrozenBase:
    """A base that never ends a text by itself, so that every request costs the same."""
    base = make_base(model, dtype, "cpu")
    base.model.set_attn_implementation(attention)
    base.tokenizer = base.tokenizer or FrozenBase.load("builtin/tiny").tokenizer
    base.__dict__["end_ids"] = frozenset()
    return base


def some_vectors(base: FrozenBase, task: int, note: str = "") -> Vectors:
    """The random prompt of a task."""
    generator = torch.Generator().manual_seed(task)
    vectors_PD = torch.randn(VIRTUAL, base.width, generator=generator) * 0.02
    return Vectors(f"{note}{task:08x}", vectors_PD.to(base.dtype))


def some_inputs(count: int, seed: int) -> list[tuple[int, ...]]:
    """Random inputs, of ids that every base here knows."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(2, 8000) for _ in range(INPUT)) for _ in range(count)]


def draw_tasks(tasks: int, distribution: str, count: int, seed: int) -> list[int]:
    """The task of each request: uniform, or Zipf with exponent 1.1."""
    weights = [1.0] * tasks if distribution == "uniform" else [rank**-1.1 for rank in range(1, tasks + 1)]
    return random.Random(seed).choices(range(tasks), weights, k=count)


def closed_loop(engine: ContinuousEngine, jobs: Sequence[GenerateJob], flight: int = FLIGHT) -> None:
    """Run jobs, so many in flight at a time."""
    ended: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def deliver(result: Result) -> None:
        if not isinstance(result, Piece) or result.finish:
            ended.put(result)

    waiting = iter(jobs)
    engine.submit_all([(job, deliver) for job in itertools.islice(waiting, flight)])
    for _ in jobs:
        result = ended.get()
        if isinstance(result, EngineError):
            raise result
        for job in itertools.islice(waiting, 1):
            engine.submit(job, deliver)


def timed(run: Callable[[int], Any], pair: int) -> tuple[float, float]:
    """User CPU and wall-clock seconds."""
    user, wall = os.times().user, time.perf_counter()
    run(pair)
    return os.times().user - user, time.perf_counter() - wall


def paired(ours: Callable[[int], Any], other: Callable[[int], Any], pairs: int) -> Row:
    """Time two things in turn; each is given the number of the pair."""
    ours(-1)
    other(-1)
    measured = []
    for pair in range(pairs):
        if pair % 2:  # neither is always the first
            mine, its = timed(ours, pair), timed(other, pair)
        else:
            its, mine = timed(other, pair), timed(ours, pair)
        measured.append((*its, *mine))
    ratios = [other_user / our_user for other_user, _, our_user, _ in measured]
    columns = [statistics.median(column) for column in zip(*measured, strict=True)]
    return {
        "pairs": pairs,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "ratio_wall": round(statistics.median(m[1] / m[3] for m in measured), 3),
        "other_user_s": round(columns[0], 3),
        "other_wall_s": round(columns[1], 3),
        "user_s": round(columns[2], 3),
        "wall_s": round(columns[3], 3),
    }


@contextlib.contextmanager
def running(base: FrozenBase, **options: Any) -> Iterator[ContinuousEngine]:
    """An engine, stopped at the end."""
    engine = ContinuousEngine(base, Limits(max_rows=FLIGHT), **options)
    try:
        yield engine
    finally:
        engine.stop(drain=False)


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
    """Bytes of 50 resident tasks of 20 tokens, beside the base's."""
    from softprompt.engines.prefixes import PrefixCache

    prompts = [some_vectors(base, task) for task in range(50)]
    cache = PrefixCache(base, 1 << 40)
    cache.fetch(prompts)
    weights = sum(weight.nbytes for weight in base.model.parameters())
    vectors = sum(prompt.vectors_PD.nbytes for prompt in prompts if prompt.vectors_PD is not None)
    yield {
        "tasks": len(prompts),
        "base_bytes": weights,
        "vector_bytes_per_task": vectors // len(prompts),
        "keys_values_bytes_per_task": cache.bytes // len(prompts),
        "ratio": round((weights + vectors) / weights, 5),
        "ratio_with_keys_values": round((weights + vectors + cache.bytes) / weights, 5),
    }


def swap(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds to get a resident prompt's vectors and queue a job with them, of 10,000 prompts in the library."""
    from softprompt.library import Library
    from softprompt.serving.residents import Residents

    count = max(args.tasks)
    with tempfile.TemporaryDirectory() as folder, Library.open(folder, store="memory://swap") as library:
        library.publish_all([_prompt_file(base, task) for task in range(count)], base=base.name)
        residents = Residents(library, base, max_bytes=1 << 40, max_prompts=count)
        draw = random.Random(0)
        inputs = some_inputs(args.repeats * 20, seed=4)
        names = [f"task-{draw.randrange(count):05}" for _ in inputs]
        for name in names:
            residents.get(name)
        took: list[float] = []
        got: list[float] = []
        with running(base) as engine:
            ended: queue.SimpleQueue[Result] = queue.SimpleQueue()
            for name, ids in zip(names, inputs, strict=True):
                began = time.perf_counter()
                vectors = residents.get(name).vectors
                between = time.perf_counter()
                engine.submit(GenerateJob(vectors, ids, Sampling(max_tokens=1)), ended.put)
                took.append(1000 * (time.perf_counter() - began))
                got.append(1000 * (between - began))
                ended.get()
        status = residents.status()
        residents.close()
    yield {
        "prompts": count,
        "resident": status.prompts,
        "repeats": len(took),
        **{f"{what}_{name}": value for what, values in (("get", got), ("swap", took)) for name, value in _quantiles(values)},
    }


def _quantiles(values: Sequence[float]) -> list[tuple[str, float]]:
    cuts = statistics.quantiles(values, n=100)
    return [("p50_ms", round(cuts[49], 4)), ("p99_ms", round(cuts[98], 4))]


def _prompt_file(base: FrozenBase, task: int) -> bytes:
    from softprompt.card import Card
    from softprompt.prompt import SoftPrompt

    vectors_PD = some_vectors(base, task).vectors_PD
    assert vectors_PD is not None
    card = Card(
        task=f"task-{task:05}",
        base=base.name,
        fingerprint=base.fingerprint,
        num_virtual_tokens=VIRTUAL,
        token_dim=base.width,
        input="{text}",
    )
    return SoftPrompt(vectors_PD.float(), card).to_bytes()


def cold(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds from a prompt that is only in the store to its first token."""
    from softprompt.library import Library
    from softprompt.serving.residents import Residents

    with tempfile.TemporaryDirectory() as folder:
        for store, opened in (("folder", _folder_store), ("redis", _redis_store), ("s3", _s3_store)):
            home = Path(folder) / store
            try:
                with opened(home) as url, Library.open(home, store=url) as library:
                    library.publish_all([_prompt_file(base, task) for task in range(args.repeats)], base=base.name)
                    if library.cache is not None:
                        shutil.rmtree(home / "cache", ignore_errors=True)  # publishing or reading may have filled it
                    residents = Residents(library, base, max_bytes=1 << 40, max_prompts=args.repeats)
                    loaded, first = [], []
                    with running(base) as engine:
                        closed_loop(engine, [GenerateJob(NO_PROMPT, some_inputs(1, 5)[0], Sampling(max_tokens=1))])
                        for task, ids in enumerate(some_inputs(args.repeats, seed=5)):
                            began = time.perf_counter()
                            vectors = residents.get(f"task-{task:05}").vectors
                            loaded.append(1000 * (time.perf_counter() - began))
                            closed_loop(engine, [GenerateJob(vectors, ids, Sampling(max_tokens=1))])
                            first.append(1000 * (time.perf_counter() - began))
                    residents.close()
            except _NotThere as missing:
                yield {"store": store, "skipped": str(missing)}
                continue
            rows = [*(("load", *cut) for cut in _quantiles(loaded)), *(("first", *cut) for cut in _quantiles(first))]
            yield {"store": store, "repeats": args.repeats, **{f"{what}_{name}": value for what, name, value in rows}}


class _NotThere(Exception):
    """A server's program is not on this machine."""


@contextlib.contextmanager
def _folder_store(home: Path) -> Iterator[str]:
    yield str(home / "blobs")


@contextlib.contextmanager
def _redis_store(home: Path) -> Iterator[str]:
    from tests.services.servers import redis_server

    if not shutil.which("redis-server"):
        raise _NotThere("there is no redis-server on this machine")
    with redis_server() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextlib.contextmanager
def _s3_store(home: Path) -> Iterator[str]:
    import importlib.util
    import urllib.request

    from tests.services.servers import s3_server

    if importlib.util.find_spec("moto") is None:
        raise _NotThere("moto is not installed; pip install moto[s3,server]")
    with s3_server() as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        os.environ |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")):
            pass
        yield "s3://bench/prompts"


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
    parser.add_argument("--model", nargs="+", choices=["builtin/tiny", "llama-135m"], default=["builtin/tiny", "llama-135m"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--dtype", nargs="+", choices=list(SHORT), default=["fp32"])
    parser.add_argument("--attention", nargs="+", default=["sdpa"], help="eager or sdpa")
    parser.add_argument("--tasks", nargs="+", type=int, default=[1, 8, 64, 1000, 10000])
    parser.add_argument("--distribution", nargs="+", choices=["zipf", "uniform"], default=["zipf", "uniform"])
    parser.add_argument("--prefixes", nargs="+", choices=["warm", "cold"], default=["warm", "cold"])
    parser.add_argument("--requests", type=int, default=256, help="of each turn of `mixed`")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=50, help="of `latency`, `swap` and `cold`")
    parser.add_argument("--prefix-bytes", type=int, default=4 << 30, help="bound on the keys and values of prompts")
    parser.add_argument("--page", type=int, default=256, help="tokens of a page of `transformers`")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    for model, dtype, attention, case in itertools.product(args.model, args.dtype, args.attention, args.cases):
        base = served_base(model, dtype, attention)
        args.name, args.width = model, dtype
        for row in CASES[case](base, args):
            whole = {"model": model, "case": case, "dtype": dtype, "attention": attention, **row}
            print(
                json.dumps(whole, separators=(",", ":")) if args.json else "  ".join(f"{k} {v}" for k, v in whole.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
