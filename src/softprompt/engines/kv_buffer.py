"""Keys and values of the rows that generate, in one buffer that is written in place.

All rows end at the same column, so that a step adds one column for all of them. A row is `[nothing][prompt][input][answer]`
without any gap, so distances between columns are distances between positions, as sliding windows need; what is left of a
row's start is masked, and is always finite numbers, because a weight of zero times NaN is NaN.

Shapes: N tensors of one shape, R rows of the buffer, H heads of keys, C columns of the buffer, T columns of a pass, d width
of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from softprompt.model.prefix import Place, arrange

IDLE_BYTES = 1 << 28
"""What the buffer may keep while no row is in it."""


@dataclass(frozen=True)
class KeysValues:
    """Of one sequence, on all layers. Tensors of one shape are one stack, which is copied at once; layers may differ in
    heads and width, and keys from values."""

    stacks: tuple[Tensor, ...]
    """N x H x T x d each."""
    places: tuple[Place, ...]
    """Where each layer's keys, then its values, are."""

    @classmethod
    def pack(cls, layers: Sequence[tuple[Tensor, Tensor]]) -> KeysValues:
        """Copy the keys and values of each layer, H x T x d; at least one layer."""
        tensors = list(chain.from_iterable(layers))
        counts, places = arrange([(states_HTd.shape[0], states_HTd.shape[2]) for states_HTd in tensors])
        stacks: list[list[Tensor]] = [[] for _ in counts]
        for states_HTd, (stack, _) in zip(tensors, places, strict=True):
            stacks[stack].append(states_HTd)
        return cls(tuple(map(torch.stack, stacks)), places)

    def cut(self, length: int) -> KeysValues:
        """A copy of the first columns."""
        return KeysValues(tuple(stack[:, :, :length].clone() for stack in self.stacks), self.places)

    def __len__(self) -> int:
        return int(self.stacks[0].shape[2])

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, H x T x d, as views."""
        return layers_of(self.stacks, self.places)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(stack.nbytes for stack in self.stacks)


def layers_of(stacks: Sequence[Tensor], places: Sequence[Place]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, as views of stacks."""
    tensors = [stacks[stack][number] for stack, number in places]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


class _WindowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's view of a pass: what is new is written into the buffer, what is attended to is a view of it."""

    def __init__(
        self, keys_BHCd: Tensor, values_BHCd: Tensor, left: int, right: int, width: int, real_BT: Tensor | None
    ) -> None:
        super().__init__()
        self.is_initialized = True
        self.dtype, self.device = keys_BHCd.dtype, keys_BHCd.device
        self.keys, self.values = keys_BHCd[:, :, left:right], values_BHCd[:, :, left:right]
        self.width = width
        self.real_B1T1 = None if real_BT is None else real_BT[:, None, :, None]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            place = held[:, :, -self.width :]
            # Where a row is shorter than others its prompt stands in these columns, and stays.
            place.copy_(new if self.real_B1T1 is None else torch.where(self.real_B1T1, new, place))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) - self.width


class _TileLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a pass over chosen rows: what is attended to is a copy of them, whose last column is new."""

    def __init__(self, keys_RHCd: Tensor, values_RHCd: Tensor, rows_B: Tensor, count: int, left: int, right: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.dtype, self.device = keys_RHCd.dtype, keys_RHCd.device
        self.keys, self.values = keys_RHCd[:, :, left:right], values_RHCd[:, :, left:right]
        self.rows_B, self.count = rows_B, count

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        found = []
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            found.append(torch.cat([held[:, :, :-1].index_select(0, self.rows_B), new], dim=2))
            held[self.rows_B[: self.count], :, -1] = new[: self.count, :, 0]
        return found[0], found[1]

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) - 1


class KVBuffer:
    """The buffer. Rows 0 to `len` are in use; each ends at the same column."""

    def __init__(self, like: KeysValues, *, rows: int = 0, columns: int = 0, idle_bytes: int = IDLE_BYTES) -> None:
        """
        Args:
            like: keys and values of any sequence, for their shapes; its length may be 0.
            rows: how many to make room for from the start, each of so many `columns`. It grows where that was too little.
            idle_bytes: a buffer larger than that is given back when the last row leaves.
        """
        self.idle_bytes = idle_bytes
        self._stores = tuple(_empty(stack, rows, columns) for stack in like.stacks)
        """As the stacks, N x R x H x C x d each."""
        self._places = like.places
        self._right = 0
        self._starts: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def bytes(self) -> int:
        """Memory that the buffer takes."""
        return sum(store.nbytes for store in self._stores)

    def enter(self, prompts: Sequence[KeysValues], inputs: Sequence[int], real_BT: Tensor | None) -> tuple[Any, Tensor]:
        """Make room for new rows, right behind the last one, and put their prompts in place.

        Args:
            prompts: of each row; at least one row.
            inputs: tokens of each row's input.
            real_BT: which of the inputs' columns are tokens, as they are padded on the left; None where all are.

        Returns:
            a transformers cache for the pass that runs the inputs, and a mask over its columns.
        """
        lengths = [len(prompt) + count for prompt, count in zip(prompts, inputs, strict=True)]
        first, longest = len(self), max(lengths)
        self._make_room(first + len(prompts), longest, 0)
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True), first):
            start = self._right - length
            self._starts.append(start)
            if len(prompt):
                for store, source in zip(self._stores, prompt.stacks, strict=True):
                    store[:, row, :, start : start + len(prompt)] = source
        return self._window(slice(first, len(self)), self._right - longest, max(inputs), real_BT)

    def step(self) -> tuple[Any, Tensor]:
        """One more column for every row: cache and mask of the pass that fills it."""
        self._make_room(len(self), 0, 1)
        self._right += 1
        return self._window(slice(0, len(self)), min(self._starts), 1, None)

    def widen(self, columns: int) -> None:
        """One more column for every row, with room for :meth:`gather` to look so many back."""
        self._make_room(len(self), columns, 1)
        self._right += 1

    def gather(self, rows: Sequence[int], count: int, columns: int) -> tuple[Any, Tensor]:
        """Cache and mask of a pass over rows in the order given, each the last `columns` columns wide, that fills the column
        made last; in the buffer for the first `count` of them, as the others are there for the shape alone."""
        cache, left = DynamicCache(), self._right - columns
        device = self._stores[0].device
        rows_B = torch.tensor(rows, device=device)
        for keys_RHCd, values_RHCd in layers_of(self._stores, self._places):
            cache.layers.append(_TileLayer(keys_RHCd, values_RHCd, rows_B, count, left, self._right))
        starts_B1 = torch.tensor([self._starts[row] for row in rows], device=device)[:, None]
        return cache, torch.arange(left, self._right, device=device)[None, :] >= starts_B1

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        """Take rows out; the last ones move into their places.

        Args:
            broken: their keys and values may not be numbers.

        Returns:
            for each row that is left, which one it was.
        """
        order = list(range(len(self)))
        for row in sorted(rows, reverse=True):
            last = order.pop()
            left = self._starts.pop()
            last_row = len(order)
            if broken:
                for store in self._stores:
                    store[:, row] = 0
            if row != last_row:
                for store in self._stores:
                    store[:, row, :, left : self._right] = store[:, last_row, :, left : self._right]
                self._starts[row], order[row] = left, last
        if not order and self.bytes > self.idle_bytes:
            self._stores = tuple(_empty(store, 0, 0) for store in self._stores)
        return order

    def _window(self, rows: slice, left: int, width: int, real_BT: Tensor | None) -> tuple[Any, Tensor]:
        cache = DynamicCache()
        for keys_RHCd, values_RHCd in layers_of(self._stores, self._places):
            cache.layers.append(_WindowLayer(keys_RHCd[rows], values_RHCd[rows], left, self._right, width, real_BT))
        device = self._stores[0].device
        starts_B1 = torch.tensor(self._starts[rows], device=device)[:, None]
        return cache, torch.arange(left, self._right, device=device)[None, :] >= starts_B1

    def _make_room(self, rows: int, before: int, after: int) -> None:
        """Room for so many rows, for `before` columns up to where rows end now and `after` behind. Moves what there is to
        the front of the buffer, or into another one; half of the columns are free after that, so that it is rare."""
        if not len(self):
            self._right = before  # nothing is there to be moved
        _, held, _, columns, _ = self._stores[0].shape
        if rows <= held and before <= self._right and self._right + after <= columns:
            return
        used = self._right - min(self._starts, default=self._right)
        right = max(before, used)
        if rows > held or 2 * (right + after) > columns:
            held, columns = min(max(held, rows), 2 * rows) if rows <= held else 2 * rows, 2 * (right + after)
            targets = tuple(_empty(store, held, columns) for store in self._stores)
        else:
            targets = self._stores
        if used:
            for store, target in zip(self._stores, targets, strict=True):
                there = store[:, : len(self), :, self._right - used : self._right]
                # Within one buffer the two places may overlap.
                target[:, : len(self), :, right - used : right] = there.clone() if target is store else there
        self._stores = targets
        self._starts = [start + right - self._right for start in self._starts]
        self._right = right


def _empty(like: Tensor, rows: int, columns: int) -> Tensor:
    """A buffer of zeros, in the shape of a stack or of another buffer."""
    return like.new_zeros(like.shape[0], rows, like.shape[-3], columns, like.shape[-1])
