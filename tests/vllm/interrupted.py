"""Requests on an engine of vLLM's in this process, with fewer blocks of keys and values than they need together: vLLM
interrupts some and begins them anew. Prints how many, and how many answers are those of the same requests one by one, by
vectors."""

from __future__ import annotations

import json
import random
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.inputs import embeds_input, tokens_input

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import locate
from softprompt.vllm.held import EXTENSION
from tests.vllm.server import BLOCK

PROMPTS, ROWS, INPUT, OUTPUT, REQUESTS = 8, 64, 30, 90, 16
SERVER = "the-test"


def main() -> None:
    """Run them."""
    folder = str(locate("builtin/tiny"))
    base = FrozenBase.load(folder, dtype="float32", device="cpu")
    engine = LLM(
        model=folder, dtype="float32", block_size=BLOCK, num_gpu_blocks_override=20, enforce_eager=True, max_model_len=512,
        max_num_seqs=REQUESTS, enable_prompt_embeds=True, worker_extension_cls=EXTENSION,
        distributed_executor_backend="uni", disable_log_stats=False,
    )  # fmt: skip
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    prompts = [torch.randn(ROWS, base.width, generator=generator) * base.spread for _ in range(PROMPTS)]
    inputs = [[draw.randrange(300, 2000) for _ in range(INPUT)] for _ in range(REQUESTS)]
    engine.collective_rpc("softprompt_begin", args=(SERVER,))
    for number, rows_PD in enumerate(prompts):
        told: tuple[Any, ...] = (SERVER, str(number), rows_PD.numpy().tobytes(), ROWS, "float32", [])
        engine.collective_rpc("softprompt_hold", args=told)

    def sampling(**more: Any) -> Any:
        return SamplingParams(max_tokens=OUTPUT, temperature=0, ignore_eos=True, detokenize=False, **more)

    def by_vectors(number: int) -> tuple[Any, Any]:
        rows_SD = torch.cat([prompts[number % PROMPTS], base.embed(torch.tensor(inputs[number]))])
        return embeds_input(rows_SD, cache_salt=f"alone-{number}"), sampling()

    def held(number: int) -> tuple[Any, Any]:
        digest = str(number % PROMPTS)
        return tokens_input([0] * ROWS + inputs[number], cache_salt=digest), sampling(extra_args={SERVER: digest})

    alone: list[list[int]] = []
    for number in range(REQUESTS):
        alone += run(engine.llm_engine, [by_vectors(number)])
    before = interrupted(engine)
    together = run(engine.llm_engine, [held(number) for number in range(REQUESTS)])
    row = {
        "interrupted": interrupted(engine) - before,
        "same": sum(one == other for one, other in zip(alone, together, strict=True)),
        "different": len({tuple(answer) for answer in alone}),
    }
    print(json.dumps(row))  # noqa: T201


def run(engine: Any, requests: list[tuple[Any, Any]]) -> list[list[int]]:
    """Their tokens."""
    for number, (given, sampling) in enumerate(requests):
        engine.add_request(str(number), given, sampling)
    found: dict[int, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                found[int(output.request_id.partition("-")[0])] = list(output.outputs[0].token_ids)
    return [found[number] for number in range(len(requests))]


def interrupted(engine: Any) -> int:
    """How many vLLM has counted."""
    return int(sum(metric.value for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions"))


if __name__ == "__main__":
    main()
