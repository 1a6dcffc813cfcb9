"""The cases of `serve.py` that read a library: swapping resident prompts, and loading cold ones from a store."""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import VIRTUAL, closed_loop, quantiles, running, some_inputs, some_vectors
from benchmarks.row import Row
from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Result, Sampling
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.residents.residents import Residents


def swap(base: FrozenBase, args: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds to get a resident prompt's vectors and queue a job with them, of 10,000 prompts in the library."""
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
        **{f"{what}_{name}": value for what, values in (("get", got), ("swap", took)) for name, value in quantiles(values)},
    }


def _prompt_file(base: FrozenBase, task: int) -> bytes:
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
            rows = [*(("load", *cut) for cut in quantiles(loaded)), *(("first", *cut) for cut in quantiles(first))]
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
