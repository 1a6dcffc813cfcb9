"""What a causal base runs for jobs: inputs behind their prompts, a step of all rows, labels.

Shapes: B rows, T tokens, S columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.kv_buffer import KVBuffer
from softprompt.engines.prefix_cache import PrefixCache, stack_prefixes
from softprompt.engines.protocol import GenerateJob, ScoreJob, Vectors
from softprompt.model.label_scores import label_contexts, plan_labels
from softprompt.model.prefix import lays_lines, logits_at
from softprompt.model.splice import row_size, stack_prompts


class Rows(Protocol):
    """The rows that generate, as one kind of base runs them."""

    def __len__(self) -> int: ...

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        """Take rows in behind those there are; logits (B x V) of what follows each input. Where it fails, none is in."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Run the token that each row chose; logits (B x V) of what follows. Where it fails, clear before anything else."""

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        """Take rows out; for each row that is left, which one it was. `broken`: their logits were no numbers."""

    def clear(self) -> None:
        """Take every row out."""


class CachedRows:
    """Rows with their keys and values in one buffer."""

    def __init__(self, base: FrozenBase, prefixes: PrefixCache) -> None:
        self.base = base
        self.prefixes = prefixes
        self.columns = KVBuffer(prefixes.nothing)
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        prompts = self.prefixes.fetch([job.prompt for job in jobs])
        counts = [len(job.input) for job in jobs]
        width = max(counts)
        device = self.base.device
        ids_BT = torch.tensor([[0] * (width - len(job.input)) + list(job.input) for job in jobs], device=device)
        padding_B1 = torch.tensor([[width - count] for count in counts], device=device)
        offsets_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device) - padding_B1
        column_T = torch.arange(width, device=device)
        real_BT = None if min(counts) == width else column_T[None, :] >= padding_B1
        here = len(self)
        try:
            cache, mask_BS = self.columns.enter(prompts, counts, real_BT)
            logits_BV = self._run(ids_BT, (column_T[None, :] + offsets_B1).clamp_min(0), cache, mask_BS)
        except BaseException:
            self.columns.leave(range(here, len(self.columns)), broken=True)
            raise
        self._lengths += [len(prompt) + count for prompt, count in zip(prompts, counts, strict=True)]
        return logits_BV

    def step(self, tokens: Sequence[int]) -> Tensor:
        device = self.base.device
        positions_B1 = torch.tensor(self._lengths, device=device)[:, None]
        cache, mask_BS = self.columns.step()
        logits_BV = self._run(torch.tensor(tokens, device=device)[:, None], positions_B1, cache, mask_BS)
        self._lengths = [length + 1 for length in self._lengths]
        return logits_BV

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        order = self.columns.leave(rows, broken=broken)
        self._lengths = [self._lengths[row] for row in order]
        return order

    def clear(self) -> None:
        # A fresh buffer: what a pass left behind that failed may not be numbers.
        self.columns, self._lengths = KVBuffer(self.prefixes.nothing), []

    def _run(self, ids_BT: Tensor, positions_BT: Tensor, cache: object, mask_BS: Tensor) -> Tensor:
        base = self.base
        output = base.model(
            inputs_embeds=base.embed(ids_BT),
            attention_mask=mask_BS,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": 1} if base.slices_logits else {}),
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV


class SplicedRows:
    """Rows that are run again whole for each token: for bases on which a prompt's keys and values cannot be shared."""

    def __init__(self, base: FrozenBase) -> None:
        self.base = base
        self._rows: list[tuple[Vectors, list[int]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        new = [(job.prompt, list(job.input)) for job in jobs]
        logits_BV = self._run(new)
        self._rows += new
        return logits_BV

    def step(self, tokens: Sequence[int]) -> Tensor:
        self._rows = [(prompt, [*ids, token]) for (prompt, ids), token in zip(self._rows, tokens, strict=True)]
        return self._run(self._rows)

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        order = [row for row in range(len(self)) if row not in set(rows)]
        self._rows = [self._rows[row] for row in order]
        return order

    def clear(self) -> None:
        self._rows = []

    def _run(self, rows: Sequence[tuple[Vectors, list[int]]]) -> Tensor:
        stack = stack_prompts([_vectors(prompt, self.base) for prompt, _ in rows])
        keep = [[len(ids) - 1] for _, ids in rows]
        return logits_at(self.base, stack, None, range(len(rows)), [ids for _, ids in rows], keep)


def scores_in_lines(base: FrozenBase, job: ScoreJob) -> bool:
    """Whether a job's row is short enough for lines, on a base that allows them."""
    return lays_lines(base, len(job.prompt) + len(job.input) + max(map(len, label_contexts(job.labels))))


def score_size(job: ScoreJob, in_lines: bool) -> tuple[int, int]:
    """Tokens of the longest row, and the number of rows, that a job takes of a pass."""
    return row_size(len(job.input), label_contexts(job.labels), in_lines)


def score_labels(base: FrozenBase, prefixes: PrefixCache | None, jobs: Sequence[ScoreJob]) -> list[list[float]]:
    """Summed log-probability of each label of each job, in one pass."""
    distinct = {job.prompt.digest: job.prompt for job in jobs}
    which = {digest: number for number, digest in enumerate(distinct)}
    prompts = list(distinct.values())
    if prefixes is None:
        stack, prefix = stack_prompts([_vectors(prompt, base) for prompt in prompts]), None
    else:
        stack, prefix = stack_prefixes(prompts, prefixes.fetch(prompts), base)
    plan = plan_labels([job.input for job in jobs], [job.labels for job in jobs])
    owners = [which[job.prompt.digest] for job in jobs]
    logits_NV = logits_at(base, stack, prefix, owners, plan.rows, plan.keep, plan.tails)
    return [scores.tolist() for scores in plan.scores(logits_NV)]


def _vectors(prompt: Vectors, base: FrozenBase) -> Tensor:
    vectors_PD = base.embedding.weight[:0].detach() if prompt.vectors_PD is None else prompt.vectors_PD
    return vectors_PD.to(base.device, base.dtype)
