"""Rows of encoder-decoders that generate, each group behind what its encoder made and the decoder's own keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.engines.protocol import GenerateJob
from softprompt.model.kinds.encoder_decoder import Decoding, EncoderDecoder
from softprompt.model.splice import stack_prompts


@dataclass(eq=False)
class _Group:
    decoding: Decoding
    rows: int


class DecodedRows:
    """Rows in groups that came in together, so that all of a group are behind equally many tokens, as decoders want that
    count positions themselves. A step is one pass for each group."""

    def __init__(self, architecture: EncoderDecoder) -> None:
        self.architecture = architecture
        self._groups: list[_Group] = []

    def __len__(self) -> int:
        return sum(group.rows for group in self._groups)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        base = self.architecture.base
        # Apart where no bit of a row may depend on others.
        groups = [[job] for job in jobs] if base.batch_invariant else [list(jobs)]
        begun, logits = [], []
        for group in groups:
            stack = stack_prompts([job.prompt.on(base) for job in group])
            decoding, logits_BV = self.architecture.begin(stack, range(len(group)), [job.input for job in group])
            begun.append(_Group(decoding, len(group)))
            logits.append(logits_BV)
        self._groups += begun
        return torch.cat(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        ids_B1 = torch.tensor(tokens, device=self.architecture.base.device)[:, None]
        parts = torch.split(ids_B1, [group.rows for group in self._groups])
        return torch.cat([group.decoding.step(part_B1) for group, part_B1 in zip(self._groups, parts, strict=True)])

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        gone, first = set(rows), 0
        order: list[int] = []
        left: list[_Group] = []
        for group in self._groups:
            kept = [row for row in range(first, first + group.rows) if row not in gone]
            if kept and len(kept) < group.rows:
                group.decoding.keep([row - first for row in kept])
            first += group.rows
            group.rows = len(kept)
            order += kept
            left += [group] * bool(kept)
        self._groups = left
        return order

    def clear(self) -> None:
        self._groups = []
