"""Keys and values of prompts, computed once for each digest and kept within a bound of bytes.

Shapes: K prompts, H heads of keys, P virtual tokens, D width, d width of a head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.kv_buffer import KeysValues
from softprompt.engines.protocol import Vectors
from softprompt.model.prefix import Prefix, compute_prefix
from softprompt.model.splice import Stack, chunk_by_length, stack_prompts


class PrefixCache:
    """Prefixes of one base, the least recently used dropped first.

    What a call to :meth:`fetch` returns is the caller's to keep: dropping an entry here takes nothing away from rows in use.
    """

    def __init__(self, base: FrozenBase, max_bytes: int, *, token_budget: int = 4096) -> None:
        """
        Args:
            max_bytes: bound on the keys and values kept. What one call fetches may pass it, until the call is over.
            token_budget: padded virtual tokens of a pass that computes what is missing.
        """
        self.base = base
        self.max_bytes = max_bytes
        self.token_budget = token_budget
        self.bytes = 0
        """Held now."""
        self.hits = 0
        """Prompts asked for that were there."""
        self.misses = 0
        """Prompts that had to be computed."""
        self._entries: OrderedDict[str, KeysValues] = OrderedDict()
        self._nothing: KeysValues | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nothing(self) -> KeysValues:
        """Those of no prompt: of length 0, in the shape that the base has."""
        if self._nothing is None:
            (one,) = self._compute([self.base.embedding.weight[:1].detach()])
            self._nothing = one.cut(0)
        return self._nothing

    @torch.no_grad()
    def fetch(self, prompts: Sequence[Vectors]) -> list[KeysValues]:
        """Keys and values of each prompt; those missing are computed together."""
        found: dict[str, KeysValues] = {}
        missing: dict[str, Tensor] = {}
        for prompt in prompts:
            if prompt.vectors_PD is None or not len(prompt):
                found[prompt.digest] = self.nothing
            elif prompt.digest in self._entries:
                self._entries.move_to_end(prompt.digest)
                found[prompt.digest] = self._entries[prompt.digest]
                self.hits += 1
            elif prompt.digest in missing:
                self.hits += 1
            else:
                missing[prompt.digest] = prompt.vectors_PD
                self.misses += 1
        if missing:
            computed = self._compute(list(missing.values()))
            for digest, entry in zip(missing, computed, strict=True):
                found[digest] = self._entries[digest] = entry
                self.bytes += entry.bytes
            while self.bytes > self.max_bytes and self._entries:
                self.bytes -= self._entries.popitem(last=False)[1].bytes
        return [found[prompt.digest] for prompt in prompts]

    def _compute(self, prompts: Sequence[Tensor]) -> list[KeysValues]:
        base = self.base
        computed: list[KeysValues | None] = [None] * len(prompts)
        for group in chunk_by_length([len(prompt_PD) for prompt_PD in prompts], self.token_budget):
            prefix = compute_prefix(base, stack_prompts([prompts[i].to(base.device, base.dtype) for i in group]))
            for place, index in enumerate(group):
                real = slice(-len(prompts[index]), None)
                # Copied out, or each entry would keep the whole group's memory.
                layers = [(keys[place, :, real], values[place, :, real]) for keys, values in prefix.layers]
                computed[index] = KeysValues.pack(layers)
        return [entry for entry in computed if entry is not None]


def stack_prefixes(prompts: Sequence[Vectors], entries: Sequence[KeysValues], base: FrozenBase) -> tuple[Stack, Prefix]:
    """Prompts and their keys and values as the shared prefix takes them: padded on the left to the longest."""
    empty_0D = base.embedding.weight[:0].detach()
    vectors = [empty_0D if prompt.vectors_PD is None else prompt.vectors_PD for prompt in prompts]
    stack = stack_prompts([prompt_PD.to(base.device, base.dtype) for prompt_PD in vectors])
    layers = [
        (
            torch.stack([_padded(keys, stack.columns) for keys, _ in layer]),
            torch.stack([_padded(values, stack.columns) for _, values in layer]),
        )
        for layer in zip(*(entry.layers for entry in entries), strict=True)
    ]
    return stack, Prefix(layers)


def _padded(states_HPd: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(states_HPd, (0, 0, columns - states_HPd.shape[1], 0))
