"""Heads in training, on bases that answer through one: what for, where they start, and how fast they learn.

Shapes: C labels, B rows, F features, H rows of the head, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.architectures import ENCODERS
from softprompt.bases.base import FrozenBase
from softprompt.bases.head import pack
from softprompt.errors import ConfigError
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.label_scores import Labels
from softprompt.prompts.combine import mean_of
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.config.config import ObjectiveName
from softprompt.tasks.task import Examples, Task

SHARPNESS = 4.0
"""The logit at the start of a label whose words an input is just like, where the input is as far from the mean of all as
inputs are in the mean."""

LOOKED_AT = 64
"""Training rows that tell where inputs lie, and how large features are."""


def objective_on(task: Task, base: FrozenBase) -> ObjectiveName:
    """The objective of a task, chosen where its file is silent: encoders score labels. A head models no language, and what
    stands at one mask says nothing of labels that have two.

    Raises:
        ConfigError: it is one of words, and the base answers through a head.
    """
    asked = task.config.objective
    if base.task_type not in ENCODERS or asked == "label_scoring":
        return task.config.objective_name
    if base.task_type == "MASKED_LM":
        return asked or "label_scoring"
    if asked is not None:
        raise ConfigError(
            f"task {task.name!r}: objective: {asked} is of bases that answer in words, and {base.shown} answers through a "
            "head; use label_scoring, or leave it out"
        )
    return "label_scoring"


def start_head(
    architecture: HeadedEncoder, task: Task, labels: Labels, train: Examples, parents: Sequence[SoftPrompt], width: int
) -> tuple[Tensor, float]:
    """The rows of a head at its start, so wide, and how little a number of it must move to move a logit by one.

    A head starts as that of the prompts that the vectors start from, where those have the same labels; else it gives an
    input the label whose own words are most like it. Of sets it starts at nothing.
    """
    base, step = architecture.base, -(-len(train) // LOOKED_AT)
    inputs_BF = architecture.features(train.inputs[::step])
    gain = 1.0 / max(float(inputs_BF.abs().sum(1).mean()), 1e-6)
    heads = [prompt.classifier for prompt in parents if prompt.classifier and prompt.card.labels == task.form.labels]
    if heads and len(heads) == len(parents):
        weight_CF, bias_C = (mean_of(each, None) for each in zip(*heads, strict=True))
        if len(bias_C) == len(labels):
            return pack(weight_CF, bias_C, width), gain
    weight_CF, bias_C = torch.zeros(len(labels), inputs_BF.shape[1]), torch.zeros(len(labels))
    if not task.form.is_set:
        words_CF, mean_F = architecture.features(task.form.label_words(base)), inputs_BF.mean(0)
        usual = float((inputs_BF - mean_F).norm(dim=1).mean())
        directions_CF = torch.nn.functional.normalize(words_CF - words_CF.mean(0), dim=1)
        weight_CF = directions_CF * (SHARPNESS / max(usual, 1e-6))
        bias_C = -weight_CF @ mean_F
    return pack(weight_CF, bias_C, width), gain
