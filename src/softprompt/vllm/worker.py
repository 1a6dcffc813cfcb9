"""Prompts' vectors inside vLLM's workers: `vllm serve --worker-extension-cls softprompt.vllm.worker.PromptHolder`.

vLLM mixes the class into its own worker, and a server calls it there (`collective_rpc`). A request then says whose vectors
it wants (`SamplingParams.extra_args`), with some token id at each of their positions, and the worker puts them into the
request as `prompt_embeds` before vLLM's model runner sees it.

Shapes: P virtual tokens, S tokens of a request with them, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

Held = dict[str, dict[str, torch.Tensor]]
"""Vectors by the server that gave them, and their digest."""

PARTS = {"sampling_params", "prompt_token_ids", "prompt_embeds", "prompt_is_token_ids"}
"""What a request has in a worker."""


class PromptHolder:
    """What a worker can do besides. Nothing of it is called but by a server of ours."""

    def softprompt_begin(self, server: str) -> None:
        """Look at requests for vectors from now on.

        Args:
            server: a name that no one else can guess: a request that says it is that server's.

        Raises:
            AttributeError: this worker has no part that is needed.
        """
        from vllm.v1.core.sched.output import NewRequestData

        if lacking := PARTS - NewRequestData.__dataclass_fields__.keys():
            raise AttributeError(f"requests in this worker have no {min(lacking)}")
        held: Held | None = getattr(self, "_softprompt_held", None)
        if held is None:
            held = {}
            self._softprompt_held: Held = held
            run = self.execute_model  # type: ignore[has-type]

            def execute_model(scheduler_output: Any, *args: Any, **options: Any) -> Any:
                put_vectors(scheduler_output.scheduled_new_reqs, held)
                return run(scheduler_output, *args, **options)

            self.execute_model = execute_model
        held.setdefault(server, {})

    def softprompt_hold(self, server: str, digest: str, numbers: bytes, rows: int, dtype: str, drop: list[str]) -> None:
        """Hold a prompt's vectors, and let others go, which no request under way wants."""
        mine = self._softprompt_held[server]
        for other in drop:
            mine.pop(other, None)
        mine[digest] = torch.frombuffer(bytearray(numbers), dtype=getattr(torch, dtype)).view(rows, -1)


def put_vectors(requests: Iterable[Any], held: Held) -> None:
    """Put vectors at the first positions of the requests that ask for them. Others are left as they are.

    Args:
        requests: those that a step begins with, vLLM's `NewRequestData`.
        held: what there is to put.

    Raises:
        RuntimeError: a request asks for vectors that are not here. vLLM's engine ends by it, since whatever else could be
            done in a worker would be an answer without the prompt.
    """
    for request in requests:
        told = getattr(request.sampling_params, "extra_args", None) or {}
        for server in held.keys() & told.keys():
            rows_PD = held[server].get(told[server])
            length = len(request.prompt_token_ids or ())
            if rows_PD is None or request.prompt_embeds is not None or length <= len(rows_PD):
                raise RuntimeError(
                    f"softprompt: the vectors of prompt {told[server]:.12} are not to be put into a request of {length} "
                    f"tokens (held here: {rows_PD is not None})"
                )
            embeds_SD = rows_PD.new_zeros(length, rows_PD.shape[1])
            embeds_SD[: len(rows_PD)] = rows_PD
            request.prompt_embeds = embeds_SD
            request.prompt_is_token_ids = [False] * len(rows_PD) + [True] * (length - len(rows_PD))
