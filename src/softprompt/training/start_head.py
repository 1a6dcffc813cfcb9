"""Where a head starts, beside a prompt on a base that answers through one; and what such a base is trained for.

Shapes: C labels, B rows, F features, H rows of the head, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.head import pack
from softprompt.errors import ConfigError
from softprompt.model.headed_encoder import HeadedEncoder
from softprompt.model.label_scores import Labels
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.config import ObjectiveName, TaskConfig
from softprompt.tasks.task import Examples, Task

SHARPNESS = 4.0
"""How far apart the logits of a label and of what is as unlike as can be start."""

LOOKED_AT = 64
"""Training rows that tell how large features are."""


def objective_of(config: TaskConfig, base: FrozenBase) -> ObjectiveName:
    """The objective, chosen where a file is silent: a head scores labels, and models no language."""
    if config.objective is None and base.task_type == "SEQ_CLS":
        return "label_scoring"
    return config.objective_name


def check_headed(task: Task, base: FrozenBase) -> None:
    """Refuse a task that cannot be tuned with a head.

    Raises:
        ConfigError: with the key, and what to do.
    """
    objective = objective_of(task.config, base)
    if objective != "label_scoring":
        raise ConfigError(
            f"task {task.name!r}: objective: {objective} is of bases that answer in words, and {base.shown} answers through "
            "a head; use label_scoring, or leave it out"
        )


def start_head(
    architecture: HeadedEncoder, task: Task, labels: Labels, train: Examples, parents: Sequence[SoftPrompt]
) -> tuple[Tensor, float]:
    """The rows of a head at its start, H x D, and its learning rate in units of the vectors'."""
    base, step = architecture.base, -(-len(train) // LOOKED_AT)
    inputs_BF = architecture.features(train.inputs[::step])
    size = float(inputs_BF.abs().sum(1).mean())
    weight_CF, bias_C = torch.zeros(len(labels), inputs_BF.shape[1]), torch.zeros(len(labels))
    if not task.form.is_set:
        words_CF = architecture.features(task.form.label_words(base))
        apart_CF = words_CF - words_CF.mean(0)
        mean_F = inputs_BF.mean(0)
        spread = float((inputs_BF - mean_F).norm(dim=1).mean())
        weight_CF = SHARPNESS * torch.nn.functional.normalize(apart_CF, dim=1) / max(spread, 1e-6)
        bias_C = -weight_CF @ mean_F
    return pack(weight_CF, bias_C, base.width), 1.0 / max(base.spread * size, 1e-6)
