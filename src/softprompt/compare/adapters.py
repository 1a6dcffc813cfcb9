"""Bottleneck adapters: behind the feed-forward part of each block a layer down to a few numbers and one up again.

`h + up(relu(down(h)))`, where h is what the feed-forward part gives, before the residual is added and whatever norm comes
then: one adapter a block (Pfeiffer et al. 2021), of those that Houlsby et al. (2019) put in two places. `up` starts at
nothing, so that training starts at the base. PEFT has none.

Shapes: B rows, T tokens, W width of the hidden states, A width of the adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from softprompt.bases.base import FrozenBase
from softprompt.compare.fit import fit, settings_of
from softprompt.compare.method import Settings, Trained
from softprompt.compare.weights import refuse_few_bits
from softprompt.errors import ConfigError
from softprompt.progress import Progress
from softprompt.tasks.task import Task

REDUCTION, LEAST = 16, 4
"""By how much an adapter is narrower than the hidden states, and how wide it is at least."""


class Adapter(nn.Module):
    """One of them, in float32 whatever the base is in."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.normal_(self.down.weight, std=0.02)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, states_BTW: Tensor) -> Tensor:
        inner_BTA = F.relu(self.down(states_BTW.to(self.down.weight.dtype)))
        added: Tensor = self.up(inner_BTA)
        return states_BTW + added.to(states_BTW.dtype)


class Adapters:
    """An adapter in every block."""

    searched = True
    rate = 1e-3

    def check(self, task: Task, base: FrozenBase) -> None:
        refuse_few_bits(base, "adapters")
        places_in(base)

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return settings_of(base, self.rate) | {"reduction_factor": REDUCTION, "non_linearity": "relu"}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        torch.manual_seed(task.config.seed)
        tuned = replace(base, model=copy.deepcopy(base.model))
        trained = [one for adapter in put_in(tuned) for one in adapter.parameters()]
        size = sum(one.nbytes for one in trained)
        return fit(tuned, trained, task, self.rate, progress, factor=factor, size=size)


def put_in(base: FrozenBase) -> list[Adapter]:
    """Put an adapter into every block of a model, in place."""
    made = []
    for place in places_in(base):
        width = _width(place)
        adapter = Adapter(width, max(LEAST, width // REDUCTION)).to(base.device)
        place.add_module("adapter", adapter)
        place.register_forward_hook(lambda module, given, output: module.adapter(output))
        made.append(adapter)
    return made


def places_in(base: FrozenBase) -> list[Any]:
    """The last linear layer of each block, which is where its feed-forward part ends.

    Raises:
        ConfigError: there are no blocks, or one does not end in hidden states, as mixtures of experts do not.
    """
    width = base.model.config.get_text_config().hidden_size
    places = []
    for block in _blocks(base.model):
        linear = [part for part in block.modules() if isinstance(part, nn.Linear | Conv1D)]
        if not linear or _width(linear[-1]) != width:
            raise ConfigError(
                f"the method 'adapters' puts one behind each block's feed-forward part, and a {type(block).__name__} of "
                f"{base.name} ends in no linear layer of {width} outputs; leave out adapters"
            )
        places.append(linear[-1])
    if not places:
        raise ConfigError(f"the method 'adapters' finds no blocks in {base.name}; leave out adapters")
    return places


def _blocks(part: Any) -> Iterator[Any]:
    """The blocks of a model: what its outermost lists of modules hold."""
    for child in part.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _width(linear: Any) -> int:
    """Outputs of a linear layer."""
    return int(linear.nf if isinstance(linear, Conv1D) else linear.out_features)
