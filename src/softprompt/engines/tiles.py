"""Rows that generate in tiles: what a row is answered is the same to the last bit whatever runs beside it.

Shapes: B rows of a tile, C columns of a tile, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from softprompt.engines.kv_buffer import KeysValues, KVBuffer
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import GenerateJob
from softprompt.model.kinds.invariant import Invariant, tile_columns
from softprompt.model.prefix import FixedLayer


class _GrowingLayer(FixedLayer):
    """Keys and values that a pass adds to."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = super().update(key_states, value_states)
        return self.keys, self.values


class TiledRows:
    """Rows with their keys and values in one buffer, of which each step gathers what it runs into tiles.

    An input is run alone. A step is one pass for each tile: of rows whose length asks for as many columns.
    """

    def __init__(self, architecture: Invariant, prefixes: PrefixCache, *, rows: int = 0, columns: int = 0) -> None:
        self.architecture = architecture
        self.prefixes = prefixes
        self.buffer = KVBuffer(prefixes.nothing, rows=rows, columns=max(columns, tile_columns(columns)))
        self._last = (architecture.base.context or 1 << 30) - 1
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        prompts = self.prefixes.fetch([job.prompt for job in jobs])
        begun = [self._begin(job, prompt) for job, prompt in zip(jobs, prompts, strict=True)]
        here = len(self)
        try:
            self.buffer.enter([held for held, _ in begun], [0] * len(begun), None)
        except BaseException:
            self.buffer.leave(range(here, len(self.buffer)), broken=True)
            raise
        self._lengths += [len(held) for held, _ in begun]
        return torch.cat([logits_1V for _, logits_1V in begun])

    def _begin(self, job: GenerateJob, prompt: KeysValues) -> tuple[KeysValues, Tensor]:
        """The keys and values of a prompt and its input, and the logits behind them."""
        device, ahead, count = self.architecture.base.device, len(prompt), len(job.input)
        cache = DynamicCache()
        cache.layers.extend(_GrowingLayer(keys_HPd[None], values_HPd[None]) for keys_HPd, values_HPd in prompt.layers)
        ids_1T = torch.tensor([job.input], device=device)
        positions_1T = torch.arange(ahead, ahead + count, device=device)[None]
        mask_1S = torch.ones(1, ahead + count, dtype=torch.bool, device=device)
        logits_1V = self.architecture.run_cached(ids_1T, positions_1T, cache, mask_1S)
        return KeysValues.pack([(layer.keys[0], layer.values[0]) for layer in cache.layers]), logits_1V

    def step(self, tokens: Sequence[int]) -> Tensor:
        device = self.architecture.base.device
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate(self._lengths):
            rows_of[tile_columns(length + 1)].append(row)
        self.buffer.widen(max(rows_of))
        order: list[int] = []
        found: list[Tensor] = []
        for columns, rows in rows_of.items():
            size = self.architecture.tile(columns)
            for first in range(0, len(rows), size):
                real = rows[first : first + size]
                filled = real + [real[0]] * (size - len(real))
                ids_B1 = torch.tensor([tokens[row] for row in filled], device=device)[:, None]
                positions_B1 = torch.tensor([min(self._lengths[row], self._last) for row in filled], device=device)[:, None]
                cache, mask_BC = self.buffer.gather(filled, len(real), columns)
                found.append(self.architecture.run_cached(ids_B1, positions_B1, cache, mask_BC)[: len(real)])
                order += real
        self._lengths = [length + 1 for length in self._lengths]
        place_B = torch.tensor(order, device=device).argsort()
        return torch.cat(found)[place_B]

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        order = self.buffer.leave(rows, broken=broken)
        self._lengths = [self._lengths[row] for row in order]
        return order

    def clear(self) -> None:
        self.buffer, self._lengths = KVBuffer(self.prefixes.nothing), []
