"""What causal models make of prompts: keys and values, which rows attend to; and how trained ones lie in a matrix.

Shapes: K prompts, P virtual tokens, N tensors of one shape, H heads of keys, d width of a head, W numbers of a token.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.text import told_layers


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


Place = tuple[int, int]
"""Where a tensor is among stacks of equal shape: the stack, and its number in it."""


def arrange(shapes: Sequence[tuple[int, int]]) -> tuple[dict[tuple[int, int], int], tuple[Place, ...]]:
    """Put tensors of one shape (H, d) together, in their order: how many there are of each, and the place of each tensor."""
    counts: dict[tuple[int, int], int] = {}
    places = []
    for shape in shapes:
        places.append((shape, counts.get(shape, 0)))
        counts[shape] = counts.get(shape, 0) + 1
    numbers = {shape: number for number, shape in enumerate(counts)}
    return counts, tuple((numbers[shape], at) for shape, at in places)


@dataclass(frozen=True)
class Layout:
    """How a token's keys and values on all layers lie in one row of W numbers: those of one shape together, layer by layer,
    keys before values. Where all layers have one shape that is the order in which PEFT keeps them."""

    layers: tuple[tuple[int, int, int], ...]
    """Of each layer: heads of keys, width of a key, width of a value."""

    @classmethod
    def of(cls, prefix: Prefix) -> Layout:
        """The layout that fits a base by what it made of any prompts."""
        return cls(tuple((k.shape[1], k.shape[3], v.shape[3]) for k, v in prefix.layers))

    def __str__(self) -> str:
        return told_layers(self.layers)

    @cached_property
    def width(self) -> int:
        """W."""
        return sum(heads * (key + value) for heads, key, value in self.layers)

    @cached_property
    def _arranged(self) -> tuple[dict[tuple[int, int], int], tuple[Place, ...]]:
        return arrange([(heads, width) for heads, key, value in self.layers for width in (key, value)])

    @property
    def places(self) -> tuple[Place, ...]:
        """Of each layer's keys, then its values, among the stacks."""
        return self._arranged[1]

    def stacks(self, matrix_KPW: Tensor) -> list[Tensor]:
        """Views of matrices, one for each shape: K x N x H x P x d."""
        counts = self._arranged[0]
        parts = torch.split(matrix_KPW, [count * heads * width for (heads, width), count in counts.items()], dim=-1)
        return [
            part.view(*part.shape[:2], count, heads, width).permute(0, 2, 3, 1, 4)
            for part, ((heads, width), count) in zip(parts, counts.items(), strict=True)
        ]

    def unfold(self, matrix_KPW: Tensor) -> Prefix:
        """The keys and values that matrices hold, as views."""
        stacks = [stack.unbind(1) for stack in self.stacks(matrix_KPW)]
        tensors = [stacks[stack][number] for stack, number in self.places]
        return Prefix(list(zip(tensors[::2], tensors[1::2], strict=True)))

    def fold(self, prefix: Prefix) -> Tensor:
        """Keys and values as matrices, K x P x W; the inverse of :meth:`unfold`."""
        found = sorted(zip(self.places, prefix.tensors(), strict=True), key=lambda one: one[0])
        return torch.cat([tensor.transpose(1, 2).flatten(2) for _, tensor in found], dim=-1)


def layout_for(base: FrozenBase, layout: Layout | None, width: int | None = None) -> Layout:
    """The layout of prefixes on a base, where it has one.

    Args:
        width: numbers of a virtual token that must fit it.

    Raises:
        BaseModelError: it takes no prefixes, or these are of another layout.
    """
    if layout is None:
        raise BaseModelError(
            f"{base.name} ({base.architecture}) takes no prefix, as its inputs cannot stand behind keys and values alone; "
            "use a soft prompt (prompt_type: soft)"
        )
    if width is not None and width != layout.width:
        raise BaseModelError(
            f"a prefix of {width} numbers a virtual token was made for other layers: {base.name} has {layout}, which take "
            f"{layout.width}; use the base that it was tuned on"
        )
    return layout


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


def cache_argument(model: nn.Module) -> str:
    """What the forward pass of a model calls the keys and values of before: `cache` from transformers 5.24 on."""
    inner: nn.Module = getattr(model, "base_model", model)
    return _cache_argument(type(model).forward, type(inner).forward)


@functools.cache
def _cache_argument(*passes: Callable[..., Any]) -> str:
    new = any("cache" in inspect.signature(one).parameters for one in passes)
    return "cache" if new else "past_key_values"
