"""What causal models make of prompts: keys and values, which rows attend to.

Shapes: K prompts, P virtual tokens, H heads of keys, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True)
class Prefix:
    """Keys and values of K prompts, layer by layer, each K x H x P x d."""

    layers: list[tuple[Tensor, Tensor]]

    def detached(self) -> Prefix:
        """The same values as leaves of their own, so that several backward passes add up in their `.grad`."""
        return Prefix([(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in self.layers])

    def tensors(self) -> list[Tensor]:
        """All keys and values in one flat list."""
        return [tensor for layer in self.layers for tensor in layer]


class FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values that are read and never grow, so that a layer can be run again on the way back.

    Every layer is such a one, also where the model has sliding windows: the mask does the sliding, and a cache that drops
    keys would drop those of the prompt.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What is attended to: these and the new ones."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def fixed_cache(prefix: Prefix, which: Tensor) -> Any:
    """A transformers cache of the prefixes of chosen prompts, one for each row of a batch."""
    cache = DynamicCache()
    cache.layers.extend(FixedLayer(keys[which], values[which]) for keys, values in prefix.layers)
    return cache
