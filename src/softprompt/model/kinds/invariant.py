"""Causal models whose rows are run so that no bit of one's results depends on the rows beside it.

What a matrix product makes of a row depends, in its last bits, on the shape of the whole: kernels block, split and round
by it. So shapes must not depend on company. Passes over many tokens (prompts, inputs, labels) hold one row each, without
padding. A step of generation, which is one token a row, would be slow so: it runs in *tiles* of a fixed number of rows over
a fixed number of columns, filled up with copies. Then a row's bits could still depend on its place in the tile and on its
neighbours' values, which no kernel met so far lets happen; this is checked for each shape before it is used, and where it
fails a tile holds one row.

It holds on one machine with one number of threads: other kernels, or other splits among threads, give other bits.

Shapes: K prompts, P virtual tokens, B rows of a tile, C columns, N results of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache

from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.causal import Causal
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import FixedLayer, Prefix
from softprompt.model.splice import Stack, stack_prompts

TILE = 16
"""Rows of a tile: as many as a tile of AMX has. More would be run in vain where few are there."""
_COLUMNS = 64
"""Columns of the smallest tile."""


def tile_columns(length: int) -> int:
    """Columns of the tile that a row of so many tokens, virtual ones among them, is run in: a power of two, so that rows
    of similar length share a tile. One column at least is free: where all are seen, attention may go without a mask."""
    return max(_COLUMNS, 1 << length.bit_length())


class Invariant(Causal):
    """An :class:`~softprompt.model.architecture.Architecture`."""

    def __init__(self, base: FrozenBase) -> None:
        super().__init__(base)
        self._tiles: dict[int, int] = {}

    def embed(self, inputs: Sequence[Ids], prompts: Sequence[Tensor] | None = None) -> Tensor:
        own = [None] * len(inputs) if prompts is None else [[prompt_PD] for prompt_PD in prompts]
        return torch.cat([super(Invariant, self).embed([ids], one) for ids, one in zip(inputs, own, strict=True)])

    def compute_prefix(self, stack: Stack) -> Prefix:
        alone = [super(Invariant, self).compute_prefix(prompt).layers for prompt in _prompts(stack)]

        def padded(states_1HPd: Tensor) -> Tensor:
            return F.pad(states_1HPd, (0, 0, stack.columns - states_1HPd.shape[2], 0))

        return Prefix(
            [
                (torch.cat([padded(keys) for keys, _ in layer]), torch.cat([padded(values) for _, values in layer]))
                for layer in zip(*alone, strict=True)
            ]
        )

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        prompts = list(_prompts(stack))
        found = []
        for prompt, ids, ends in zip(which, inputs, tails, strict=True):
            own, layers = prompts[prompt], None
            if prefix is not None:
                one, real = slice(prompt, prompt + 1), slice(-own.columns, None)
                layers = Prefix([(keys[one, :, real], values[one, :, real]) for keys, values in prefix.layers])
            found.append(super().logits_behind(own, layers, [0], [ids], [ends]))
        return torch.cat(found)

    def tile(self, columns: int) -> int:
        """Rows of a tile of so many columns."""
        if columns not in self._tiles:
            self._tiles[columns] = TILE if self._tile_agrees(columns) else 1
        return self._tiles[columns]

    @torch.no_grad()
    def _tile_agrees(self, columns: int) -> bool:
        """Whether what a tile makes of a row depends on neither its place nor its neighbours; on made-up rows."""
        base = self.base
        generator = torch.Generator().manual_seed(0)
        one_1D = base.embedding.weight[:1].detach()
        like = super().compute_prefix(stack_prompts([one_1D])).layers
        rows = 2 * TILE

        def noise(states_1H1d: Tensor) -> Tensor:
            _, heads, _, width = states_1H1d.shape
            noise_RHCd = torch.randn(rows, heads, columns - 1, width, generator=generator)
            return noise_RHCd.to(base.device, base.dtype)

        layers = [(noise(keys), noise(values)) for keys, values in like]
        ids_R = torch.randint(0, len(base.embedding.weight), (rows,), generator=generator).to(base.device)
        longest = min(columns - 1, base.context or columns)
        lengths_R = torch.randint(1, longest + 1, (rows,), generator=generator).to(base.device)
        mask_RC = torch.arange(columns, device=base.device) >= columns - lengths_R[:, None]

        def run(places: list[int]) -> Tensor:
            cache = DynamicCache()
            cache.layers.extend(FixedLayer(keys[places], values[places]) for keys, values in layers)
            return self.run_cached(ids_R[places, None], lengths_R[places, None] - 1, cache, mask_RC[places])

        here = list(range(TILE))
        expected_BV = run(here)
        arranged = [here[::-1], here[5:] + here[:5], [*here[: TILE // 2], *range(TILE, TILE + TILE // 2)]]
        arranged += [[place] * TILE for place in here[::5]]
        for places in arranged:
            known = [at for at, place in enumerate(places) if place < TILE]
            if not torch.equal(run(places)[known], expected_BV[[places[at] for at in known]]):
                return False
        return True


def _prompts(stack: Stack) -> Iterator[Stack]:
    """The prompts of a stack, each in one of its own."""
    for k, length in enumerate(stack.lengths_K.tolist()):
        one, real = slice(k, k + 1), slice(-max(1, length), None)
        yield Stack(stack.vectors_KPD[one, real], stack.mask_KP[one, real], stack.lengths_K[one])
