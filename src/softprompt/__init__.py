"""softprompt: tune, keep, judge and serve soft prompts on one frozen language model.

The names below are the public interface. They are imported when first used, so that `import softprompt` is quick and no
torch is loaded before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.base import FrozenBase
    from softprompt.card import Card
    from softprompt.config import TaskConfig
    from softprompt.errors import SoftPromptError
    from softprompt.library import Library
    from softprompt.prompt import SoftPrompt
    from softprompt.serving.service import Prediction, Service, predict
    from softprompt.task import Task
    from softprompt.training.tune import Tuned, train

__all__ = [
    "Card",
    "FrozenBase",
    "Library",
    "Prediction",
    "Service",
    "SoftPrompt",
    "SoftPromptError",
    "Task",
    "TaskConfig",
    "Tuned",
    "predict",
    "train",
]

_HOMES = {
    "Card": "card",
    "FrozenBase": "base",
    "Library": "library",
    "Prediction": "serving.service",
    "Service": "serving.service",
    "SoftPrompt": "prompt",
    "SoftPromptError": "errors",
    "Task": "task",
    "TaskConfig": "config",
    "Tuned": "training.tune",
    "predict": "serving.service",
    "train": "training.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"softprompt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
