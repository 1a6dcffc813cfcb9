"""Methods that train weights: LoRA and IA3 by PEFT, and full fine-tuning; on bases with a head, that beside them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.behaviour import answering_layer
from softprompt.compare.fit import fit, settings_of
from softprompt.compare.method import Settings, Trained
from softprompt.compare.trainer import without_future_warnings
from softprompt.errors import ConfigError
from softprompt.progress import Progress
from softprompt.tasks.task import Task


class Lora:
    """LoRA on the projections of queries and values, or where PEFT puts it by default on such a model."""

    searched = True
    rate, rank, alpha = 1e-3, 8, 16

    def check(self, task: Task, base: FrozenBase) -> None:
        refuse_few_bits(base, "lora")
        _copy_with(base, self._config(base), "lora")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return settings_of(base, self.rate) | {"r": self.rank, "lora_alpha": self.alpha}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        return _train(task, base, self._config(base), "lora", self.rate, factor, progress)

    def _config(self, base: FrozenBase) -> Any:
        import peft

        return peft.LoraConfig(task_type=_task_type(base), r=self.rank, lora_alpha=self.alpha)


class Ia3:
    """IA3: a factor for each key, value and hidden unit (Liu et al. 2022), where PEFT puts them."""

    searched = True
    rate = 1e-2
    """Three times that of its paper, whose trainings are seven times as long; the search has that among its rates."""

    def check(self, task: Task, base: FrozenBase) -> None:
        refuse_few_bits(base, "ia3")
        _copy_with(base, self._config(base), "ia3")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return settings_of(base, self.rate)

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        return _train(task, base, self._config(base), "ia3", self.rate, factor, progress)

    def _config(self, base: FrozenBase) -> Any:
        import peft

        turned = any(isinstance(part, transformers.pytorch_utils.Conv1D) for part in base.model.modules())  # GPT-2's
        return peft.IA3Config(task_type=_task_type(base), fan_in_fan_out=turned)


class Full:
    """Full fine-tuning: every weight of a copy of the base."""

    searched = True

    def __init__(self, rate: float = 5e-5) -> None:
        self.rate = rate

    def check(self, task: Task, base: FrozenBase) -> None:
        refuse_few_bits(base, "full")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return settings_of(base, self.rate)

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        tuned = replace(base, model=copy.deepcopy(base.model))
        tuned.model.requires_grad_(True)
        layer = answering_layer(tuned.model) if base.task_type == "SEQ_CLS" else None
        if layer is not None:  # in whose place the head stands
            layer[1].requires_grad_(False)
        trained = [one for one in tuned.model.parameters() if one.requires_grad]
        kept = sum(one.nbytes for one in trained)
        return fit(tuned, trained, task, self.rate, progress, factor=factor, size=kept)


def refuse_few_bits(base: FrozenBase, method: str) -> None:
    """Refuse a base whose weights are quantised.

    Raises:
        ConfigError: it is one.
    """
    if base.quantization is not None:
        kind = base.quantization
        raise ConfigError(f"the method {method!r} trains weights, and those of {base.name} are {kind}; load it without")


def _task_type(base: FrozenBase) -> str | None:
    """What PEFT is told: nothing where a head stands beside the model, for PEFT would train one of its own."""
    return base.task_type if base.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM") else None


def _copy_with(base: FrozenBase, config: Any, method: str, model: Any = None) -> Any:
    """PEFT's model around a model; by default around the base's without its numbers, to see whether it can be made."""
    import peft

    try:
        with without_future_warnings():
            return peft.get_peft_model(_hollow(base.model) if model is None else model, config)
    except ValueError as error:
        raise ConfigError(f"PEFT knows no place for {method} on {base.name} ({error}); leave out {method}") from None


def _hollow(model: Any) -> Any:
    """A copy of a model without its numbers."""
    memo: dict[int, Any] = {id(one): one.to("meta") for one in model.buffers()}
    memo |= {id(one): torch.nn.Parameter(one.to("meta"), requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, memo)


def _train(
    task: Task, base: FrozenBase, config: Any, method: str, rate: float, factor: float, progress: Progress
) -> Trained:
    import peft

    torch.manual_seed(task.config.seed)  # for the adapter's start
    model = _copy_with(base, config, method, copy.deepcopy(base.model))
    kept = peft.get_peft_model_state_dict(model)
    trained = [one for one in model.parameters() if one.requires_grad]
    tuned = replace(base, model=model.get_base_model())  # the adapter's layers are in its place
    return fit(tuned, trained, task, rate, progress, factor=factor, size=sum(one.nbytes for one in kept.values()))
