"""Several processes that train one bank: each runs a share of every step's rows, and only the prompts' gradient crosses the
wire, `K*P*D + K` numbers a step. Started by `accelerate launch` (or torchrun); alone, everything here does nothing.

All processes hold the same bank and take the same steps, because they add the same sums. The first process alone judges,
keeps checkpoints, publishes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

PATIENCE = timedelta(days=1)
"""How long processes wait for each other. The first one judges alone, which can take longer than the ten minutes that NCCL
waits by itself; a process that dies is noticed by the launcher."""

Item = TypeVar("Item")
Value = TypeVar("Value")


def processes_started() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Group:
    """The processes of one training."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        """Process `rank` of `world`; where there are several, their process group is up."""
        self.rank = rank
        self.world = world
        self.sent = 0
        """Bytes that this process has put into sums, over all steps."""

    @classmethod
    def current(cls) -> Group:
        """The group this process was started in: by a launcher that sets WORLD_SIZE, or alone."""
        if processes_started() < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items; together the parts are all of them."""
        return items[self.rank :: self.world]

    def add(self, losses_K: Tensor, gradient_KPD: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over all processes, in one message."""
        if self.world == 1:
            return losses_K, gradient_KPD
        flat = torch.cat([losses_K, gradient_KPD.flatten()])
        torch.distributed.all_reduce(flat)
        self.sent += flat.numel() * flat.element_size()
        return flat[: len(losses_K)], flat[len(losses_K) :].view_as(gradient_KPD)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """A value that the first process makes and all get."""
        if self.world == 1:
            return make()
        box = [make() if self.leads else None]
        torch.distributed.broadcast_object_list(box, src=0)
        value: Value = box[0]  # type: ignore[assignment]
        return value
