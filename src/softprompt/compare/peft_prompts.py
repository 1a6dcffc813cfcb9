"""PEFT's prompt tuning, prefix tuning and P-tuning. What they train is judged by our evaluation, whose logits are PEFT's.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.compare.fit import fit, settings_of
from softprompt.compare.method import Settings, Trained
from softprompt.compare.soft_prompt import of_kind
from softprompt.compare.trainer import DEFAULTS, fit_peft, without_future_warnings
from softprompt.errors import ConfigError
from softprompt.model.architecture import architecture_of
from softprompt.model.prefix import Prefix, layout_for
from softprompt.progress import Progress
from softprompt.tasks.task import Task
from softprompt.training.prepare import chosen

LENGTH = 20
"""Virtual tokens where a task file names none: PEFT has no default, and its examples have 8 to 20."""
PREFIX_ROWS = 32
"""Rows of a step of prefix tuning where a task file names none."""
PREFIX_RATE = 5e-3
"""The best of PEFT's own comparison of methods, which starts from the keys and values of a text."""


class PeftPromptTuning:
    """Prompt tuning as it comes: a start by chance, and the Trainer's own rate, batch and schedule."""

    searched: bool = False
    """It is what comes of PEFT's and the Trainer's defaults, the rate among them."""

    def check(self, task: Task, base: FrozenBase) -> None:
        _check(task, base)

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return {"num_virtual_tokens": given(task, "num_virtual_tokens", LENGTH), "prompt_tuning_init": "RANDOM", **DEFAULTS}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        import peft
        import transformers

        settings = _paced(self.settings(task, base), factor)
        start = {key: settings.pop(key) for key in list(settings) if key not in _ARGUMENTS}
        transformers.set_seed(task.config.seed)
        with tempfile.TemporaryDirectory() as folder, without_future_warnings():
            if "prompt_tuning_init_text" in start:  # PEFT reads a tokenizer of its own, for which a base may have no folder
                base.tokenizer.save_pretrained(folder)
                start["tokenizer_name_or_path"] = folder
            config = peft.PromptTuningConfig(task_type="CAUSAL_LM", **start)
            model = peft.get_peft_model(copy.deepcopy(base.model), config)
        steps = fit_peft(model, task, base, settings, progress)
        vectors_PD = model.get_prompt_embedding_to_save("default").detach().to(base.device, base.dtype)
        test = task.encode(base, task.test, len(vectors_PD), split="test")
        trainable, size = _size(model)
        return Trained(architecture_of(base), vectors_PD, test, trainable, size, steps, settings["learning_rate"])


class PeftPromptTuningOurs(PeftPromptTuning):
    """Prompt tuning with our rate, batch and schedule, started from the text prompt of the task."""

    searched = True

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        start = {"num_virtual_tokens": task.config.num_virtual_tokens, "prompt_tuning_init": "TEXT"}
        return (
            start
            | {"prompt_tuning_init_text": _text(task)}
            | our_arguments(task, chosen(of_kind(task, "soft").config, base).learning_rate)
        )


class PeftPrefixTuning:
    """Prefix tuning with our batch and schedule, started from the keys and values of the task's text prompt."""

    searched = True

    def check(self, task: Task, base: FrozenBase) -> None:
        _check(task, base)
        layout_for(base, architecture_of(base).layout)

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        start = {"num_virtual_tokens": given(task, "num_virtual_tokens", LENGTH), "text": _text(task)}
        rows = given(task, "per_device_train_batch_size", PREFIX_ROWS)
        return start | our_arguments(task, PREFIX_RATE) | {"per_device_train_batch_size": rows}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        import peft
        import transformers

        architecture = architecture_of(base)
        layout = layout_for(base, architecture.layout)
        settings = _paced(self.settings(task, base), factor)
        length, text = settings.pop("num_virtual_tokens"), settings.pop("text")
        while len(base.tokenizer(text)["input_ids"]) < length:
            text = f"{text} {text}"
        transformers.set_seed(task.config.seed)
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
        with without_future_warnings():
            model = peft.get_peft_model(copy.deepcopy(base.model), config)
        peft.initialize_kv_prefix_from_text(model, base.tokenizer, text=text, use_chat_template=False)
        steps = fit_peft(model, task, base, settings, progress)
        test = task.encode(base, task.test, length, split="test")
        trainable, size = _size(model)
        matrix_PW = layout.fold(prefix_of(model))[0].to(base.device, base.dtype)
        return Trained(architecture, matrix_PW, test, trainable, size, steps, settings["learning_rate"])


class PTuning:
    """P-tuning (Liu et al. 2021): the vectors are what a small network makes of trained ones. The network is PEFT's; the
    vectors alone are kept, as PEFT keeps them."""

    searched = True
    rate = 1e-3

    def check(self, task: Task, base: FrozenBase) -> None:
        """It works everywhere."""

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        network = {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": base.width}
        return settings_of(base, self.rate) | {"num_virtual_tokens": given(task, "num_virtual_tokens", LENGTH)} | network

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        import peft

        settings = self.settings(task, base)
        length, hidden = settings["num_virtual_tokens"], settings["encoder_hidden_size"]
        torch.manual_seed(task.config.seed)
        config = peft.PromptEncoderConfig(
            num_virtual_tokens=length, token_dim=base.width, num_transformer_submodules=1, encoder_hidden_size=hidden
        )
        network: torch.nn.Module = peft.PromptEncoder(config).to(base.device)  # type: ignore[no-untyped-call]
        places_P = torch.arange(length, device=base.device)
        return fit(
            base,
            list(network.parameters()),
            task,
            self.rate,
            progress,
            factor=factor,
            size=4 * length * base.width,
            vectors=lambda: network(places_P),
            length=length,
        )


def _paced(settings: Settings, factor: float) -> Settings:
    """Settings with the learning rate times a factor."""
    return settings | {"learning_rate": float(f"{settings['learning_rate'] * factor:.3g}")}


def _check(task: Task, base: FrozenBase) -> None:
    if base.task_type != "CAUSAL_LM":
        raise ConfigError(
            f"PEFT's prompts are compared on causal models alone, and {base.name} is {base.task_type}; take a causal base"
        )
    if task.form.is_placed:
        raise ConfigError(
            f"task {task.name!r} says where its prompt stands ({{soft_prompt}}), and PEFT puts prompts before "
            "everything; take it out"
        )


def given(task: Task, key: str, default: int) -> int:
    """What the task file says, or else the peer's own; our default is none of its."""
    value: int = getattr(task.config, key)
    return value if key in task.config.model_fields_set else default


def prefix_of(model: Any) -> Prefix:
    """The keys and values of a PEFT model's prefix."""
    with torch.no_grad():
        cache = model.get_prompt(batch_size=1)
    return Prefix([(layer.keys, layer.values) for layer in cache.layers])


def our_arguments(task: Task, rate: float | None) -> Settings:
    """Our batch and schedule in the Trainer's words."""
    config = task.config
    return {
        "learning_rate": rate,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "warmup_steps": config.warmup_ratio if config.warmup_steps is None else config.warmup_steps,
        "weight_decay": config.weight_decay,
        "lr_scheduler_type": config.lr_scheduler_type,
    }


_ARGUMENTS = {*DEFAULTS, "weight_decay"}


def _text(task: Task) -> str:
    return task.form.zero_shot_text() or " ".join(task.form.labels or ()) or task.name


def _size(model: Any) -> tuple[int, int]:
    """Numbers that are trained, and bytes of what PEFT would save."""
    import peft

    kept = peft.get_peft_model_state_dict(model)
    return sum(one.numel() for one in model.parameters() if one.requires_grad), sum(one.nbytes for one in kept.values())
