"""Prompts on vLLM beside the base alone and beside LoRA adapters, all on the same base, by real servers in one run.

    make test-vllm && .venv-vllm/bin/python benchmarks/vllm.py --json
    .venv-vllm/bin/python benchmarks/vllm.py --model FOLDER --P 64 --K 8 --requests 100

Two servers at once, whose cases take turns: one whose workers hold the prompts' vectors, one that is sent them with each
request; then one with adapters, since a server that is ready for them is slower on the base alone, too. `ratio` is the
median of each turn's tokens a second over those of the base alone in vLLM's own route on the same server; `ratio_cpu`
compares the server's seconds of CPU likewise, which other work on the machine changes less. Above 1 the case is the faster.
What a prompt costs either way is what as many ordinary tokens in front of an input cost, which vLLM finds in its cache like
it. `cpu_ms` and `engine_cpu_ms` are milliseconds of CPU for a request, of all of a server and of its engine. Prompts,
adapters and inputs are random, no answer ends early, and `cached` is the share of input and virtual tokens that vLLM found
in its cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # and not this folder, where a module is called like vLLM

import psutil  # type: ignore[import-untyped]
import torch
from safetensors.torch import save_file

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import locate
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from tests.vllm.server import BY_VECTORS, Vllm, running

INPUT, RANK = 30, 8
Case = Callable[[int], tuple[str, dict[str, Any]]]
"""Route and body of a request, by its number."""


def endless(model: str, folder: Path) -> Path:
    """A copy of a base that no token ends the texts of, so that every request costs the same."""
    shutil.copytree(locate(model), folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file():
            values = json.loads(file.read_text())
            file.write_text(json.dumps({key: value for key, value in values.items() if not key.startswith("eos_token")}))
    return folder


def publish(home: Path, base: FrozenBase, args: argparse.Namespace) -> None:
    """Random prompts, `task-0` and so on."""
    with Library.open(home) as library:
        for task in range(args.K):
            numbers = torch.randn(args.P, base.width, generator=torch.Generator().manual_seed(task)) * base.spread
            card = Card(
                task=f"task-{task}", base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=args.P,
                token_dim=base.width, metric="exact_match", max_new_tokens=args.output,
            )  # fmt: skip
            library.publish(SoftPrompt(numbers, card).to_bytes(), base=base.address)


def write_adapter(folder: Path, base: FrozenBase, seed: int) -> Path:
    """A random LoRA adapter of queries and values, as PEFT saves it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in base.model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            for part, shape in (("A", (RANK, layer.in_features)), ("B", (layer.out_features, RANK))):
                tensors[f"base_model.model.{name}.lora_{part}.weight"] = torch.randn(*shape, generator=generator) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": base.name, "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def turns(cases: dict[str, tuple[Vllm, Case]], args: argparse.Namespace) -> Iterator[Row]:
    """Each case's requests in turn, `--pairs` times; a row for each case, beside the first of those on its server."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for turn, (name, (server, case)) in itertools.product(range(-1, args.pairs), cases.items()):
        queries, hits = (server.metric(f"vllm:prefix_cache_{what}_total") for what in ("queries", "hits"))
        requests = [case(number) for number in range(args.requests)]
        began, cpu, engine = time.perf_counter(), _cpu(server), _cpu_of_engine(server)
        with ThreadPoolExecutor(args.flight) as pool:
            answers = list(pool.map(lambda request, server=server: server.post(*request), requests))
        wall, cpu, engine = time.perf_counter() - began, _cpu(server) - cpu, _cpu_of_engine(server) - engine
        assert all(answer.status_code == 200 for answer in answers), answers[0].text
        tokens = sum(answer.json()["usage"]["completion_tokens"] for answer in answers)
        assert tokens == args.requests * args.output, "every request costs the same"
        asked = server.metric("vllm:prefix_cache_queries_total") - queries
        cached = (server.metric("vllm:prefix_cache_hits_total") - hits) / asked if asked else 0.0
        if turn >= 0:  # the first warms up
            found[name].append({"wall": wall, "cpu": cpu, "engine": engine, "tokens": tokens / wall, "cached": cached})
    plain: dict[int, list[dict[str, float]]] = {}
    for name, measured in found.items():
        base = plain.setdefault(id(cases[name][0]), measured)
        ratios = [one["tokens"] / other["tokens"] for one, other in zip(measured, base, strict=True)]
        cpu_ratios = [other["cpu"] / one["cpu"] for one, other in zip(measured, base, strict=True)]
        yield {
            "case": name,
            "ratio_cpu": round(statistics.median(cpu_ratios), 3),
            "ratio_cpu_min": round(min(cpu_ratios), 3),
            "ratio_cpu_max": round(max(cpu_ratios), 3),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_min": round(min(ratios), 3),
            "ratio_max": round(max(ratios), 3),
            "cpu_ms": round(1e3 * statistics.median(one["cpu"] for one in measured) / args.requests, 2),
            "engine_cpu_ms": round(1e3 * statistics.median(one["engine"] for one in measured) / args.requests, 2),
            "tokens_per_s": round(statistics.median(one["tokens"] for one in measured), 1),
            "requests_per_s": round(args.requests / statistics.median(one["wall"] for one in measured), 2),
            "cached": round(statistics.median(one["cached"] for one in measured), 3),
        }


def _cpu(server: Vllm) -> float:
    """Seconds of CPU that a server and its engine have used."""
    return _cpu_of(psutil.Process(server.process.pid))


def _cpu_of_engine(server: Vllm) -> float:
    """Seconds of CPU of the engine and its workers."""
    return _cpu_of(psutil.Process(server.engine()))


def _cpu_of(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def measure(args: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Rows of all servers."""
    folder = endless(args.model, work / "base")
    base = FrozenBase.load(str(folder), dtype="float32")
    publish(work / "home", base, args)
    draw = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(300, 2000) for _ in range(count)]

    inputs = itertools.cycle([tokens(INPUT) for _ in range(4096)])
    fronts = [tokens(args.P) for _ in range(args.K)]

    def body(model: str, front: list[int] | None = None) -> dict[str, Any]:
        prompt = [*(front or ()), *next(inputs)]
        return {"model": model, "prompt": prompt, "max_tokens": args.output, "temperature": 0}

    def plain(_: int) -> tuple[str, dict[str, Any]]:
        return "/v1/completions", body("plain")

    def prompts(number: int) -> tuple[str, dict[str, Any]]:
        return "/v1/completions", body(f"task-{number % args.K}")

    options = ["--served-model-name", "plain", "--max-num-seqs", str(args.flight), "--max-model-len", "512"]
    environment = {"SOFTPROMPT_HOME": str(work / "home")}
    with (
        running(folder, work / "held.log", *options, environment=environment) as held,
        running(folder, work / "vectors.log", *options, environment=environment, prompts=BY_VECTORS) as vectors,
    ):
        cases: dict[str, tuple[Vllm, Case]] = {
            "base, vLLM's route": (held, plain),
            "base, our route": (held, lambda _: ("/v1/completions", body(base.name))),
            f"base behind {args.P} tokens more, vLLM's route": (
                held, lambda number: ("/v1/completions", body("plain", fronts[number % args.K])),
            ),
            f"base behind {args.P} tokens more, our route": (
                held, lambda number: ("/v1/completions", body(base.name, fronts[number % args.K])),
            ),
            "prompts, held in the workers": (held, prompts),
            "base, vLLM's route, the other server": (vectors, plain),
            "prompts, vectors with each request": (vectors, prompts),
        }  # fmt: skip
        yield from turns(cases, args)
    if not args.adapters:
        return
    adapters = [write_adapter(work / f"lora-{number}", base, number) for number in range(args.K)]
    options += ["--enable-lora", "--max-loras", str(args.K), "--max-lora-rank", str(RANK), "--lora-modules"]
    options += [f"lora-{number}={adapter}" for number, adapter in enumerate(adapters)]
    with running(folder, work / "adapters.log", *options, environment=environment) as ready:
        cases = {
            "base, vLLM's route, ready for adapters": (ready, plain),
            "LoRA adapters": (ready, lambda number: ("/v1/completions", body(f"lora-{number % args.K}"))),
        }
        yield from turns(cases, args)


def main() -> None:
    """Measure, and print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny", help="a folder, or builtin/tiny")
    parser.add_argument("--P", type=int, default=64, help="virtual tokens of a prompt")
    parser.add_argument("--K", type=int, default=8, help="prompts, and adapters")
    parser.add_argument("--requests", type=int, default=128, help="of a turn")
    parser.add_argument("--output", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--flight", type=int, default=16, help="requests at once")
    parser.add_argument("--pairs", type=int, default=3, help="turns")
    parser.add_argument("--adapters", action=argparse.BooleanOptionalAction, default=True, help="measure LoRA adapters, too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for row in measure(args, Path(work)):
            print_row({"model": args.model, "dtype": "fp32", "P": args.P, "K": args.K, **row}, args.json)


if __name__ == "__main__":
    main()
