"""Keys and values of prompts, computed once for each digest and kept within a bound of bytes. Prefixes are keys and values
already: what is given of them are views of their own numbers, so nothing is computed, or held a second time.

Shapes: K prompts, H heads of keys, P virtual tokens, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cachetools import LRUCache
from torch import Tensor

from softprompt.engines.kv_buffer import KeysValues
from softprompt.engines.protocol import Vectors
from softprompt.model.architecture import Architecture
from softprompt.model.prefix import Prefix, layout_for
from softprompt.model.splice import Stack, chunk_by_length, stack_padded, stack_prompts


class PrefixCache:
    """Prefixes of one base, the least recently used dropped first.

    What a call to :meth:`fetch` returns is the caller's to keep: dropping an entry here takes nothing away from rows in use.
    """

    def __init__(self, architecture: Architecture, max_bytes: int, *, token_budget: int = 4096) -> None:
        """
        Args:
            max_bytes: bound on the keys and values kept. What one call fetches may pass it, until the call is over.
            token_budget: padded virtual tokens of a pass that computes what is missing.
        """
        self.architecture = architecture
        self.token_budget = token_budget
        self.hits = 0
        """Prompts asked for that were there."""
        self.misses = 0
        """Prompts that had to be computed."""
        self._entries: LRUCache[str, KeysValues] = LRUCache(max_bytes, getsizeof=lambda entry: entry.bytes)
        self._nothing: KeysValues | None = None

    @property
    def bytes(self) -> int:
        """Held now."""
        return int(self._entries.currsize)

    @property
    def nothing(self) -> KeysValues:
        """Those of no prompt: of length 0, in the shape that the base has."""
        if self._nothing is None:
            one_1D = self.architecture.base.embedding.weight[:1].detach()
            self._nothing = next(iter(self._entries.values()), None) or self._compute([one_1D])[0]
            self._nothing = self._nothing.cut(0)
        return self._nothing

    @torch.no_grad()
    def fetch(self, prompts: Sequence[Vectors]) -> list[KeysValues]:
        """Keys and values of each prompt; those missing are computed together."""
        base = self.architecture.base
        found: dict[str, KeysValues] = {}
        missing: dict[str, Vectors] = {}
        for prompt in filter(len, prompts):
            if prompt.is_prefix(base):
                found[prompt.digest] = self._view(prompt.on(base))
                continue
            entry = self._entries.get(prompt.digest)
            if entry is None and prompt.digest not in missing:
                missing[prompt.digest] = prompt
                self.misses += 1
                continue
            self.hits += 1
            if entry is not None:
                found[prompt.digest] = entry
        computed = self._compute([prompt.on(base) for prompt in missing.values()])
        for digest, entry in zip(missing, computed, strict=True):
            found[digest] = entry
            if entry.bytes <= self._entries.maxsize:
                self._entries[digest] = entry
        return [found[prompt.digest] if len(prompt) else self.nothing for prompt in prompts]

    def _view(self, matrix_PW: Tensor) -> KeysValues:
        layout = layout_for(self.architecture.base, self.architecture.layout, matrix_PW.shape[1])
        return KeysValues(tuple(stack[0] for stack in layout.stacks(matrix_PW[None])), layout.places)

    def _compute(self, prompts: Sequence[Tensor]) -> list[KeysValues]:
        computed: dict[int, KeysValues] = {}
        for group in chunk_by_length([len(prompt_PD) for prompt_PD in prompts], self.token_budget):
            prefix = self.architecture.compute_prefix(stack_prompts([prompts[i] for i in group]))
            for place, index in enumerate(group):
                real = slice(-len(prompts[index]), None)
                # Copied out, or each entry would keep the whole group's memory.
                computed[index] = KeysValues.pack(
                    [(keys[place, :, real], values[place, :, real]) for keys, values in prefix.layers]
                )
        return [computed[index] for index in range(len(prompts))]


def stack_prefixes(
    prompts: Sequence[Vectors], entries: Sequence[KeysValues], architecture: Architecture
) -> tuple[Stack, Prefix]:
    """Prompts of either kind and their keys and values as the shared prefix takes them: padded on the left to the longest.
    The stack has no vectors, as nothing needs them where the keys and values are known."""
    base, lengths = architecture.base, [len(prompt) for prompt in prompts]
    nothing_KP0 = torch.zeros(len(prompts), max(1, *lengths), 0, dtype=base.dtype, device=base.device)
    stack = stack_padded(nothing_KP0, lengths)
    layers = [
        (
            torch.stack([_padded(keys, stack.columns) for keys, _ in layer]),
            torch.stack([_padded(values, stack.columns) for _, values in layer]),
        )
        for layer in zip(*(entry.layers for entry in entries), strict=True)
    ]
    return stack, Prefix(layers)


def ready(architecture: Architecture, prompts: Sequence[Tensor], token_budget: int) -> tuple[Stack, Prefix | None]:
    """Prompts of either kind, in the base's dtype and on its device, as rows behind them take them; where the base shares no
    keys and values without those, and of one kind.

    Raises:
        BaseModelError: a prefix is among them, which the base does not take, or of another layout.
    """
    soft = all(prompt_PD.shape[1] == architecture.base.width for prompt_PD in prompts)
    if not soft:
        layout_for(architecture.base, architecture.layout)
    if soft or not architecture.shares_prefix:
        stack = stack_prompts(prompts)
        return stack, architecture.compute_prefix(stack) if architecture.shares_prefix else None
    vectors = [Vectors(str(number), prompt) for number, prompt in enumerate(prompts)]
    return stack_prefixes(vectors, PrefixCache(architecture, 0, token_budget=token_budget).fetch(vectors), architecture)


def _padded(states_HPd: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(states_HPd, (0, 0, columns - states_HPd.shape[1], 0))
