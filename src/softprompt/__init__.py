"""softprompt: tune, keep, judge and serve soft prompts on one frozen language model.

The names below are the public interface. They are imported when first used, so that `import softprompt` is quick and no
torch is loaded before it is needed.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.bases.options import BaseOptions
    from softprompt.compare.compare import compare
    from softprompt.errors import SoftPromptError
    from softprompt.evaluation.combination import Combined, combine
    from softprompt.evaluation.evaluate import Evaluation, evaluate
    from softprompt.evaluation.findings import Finding
    from softprompt.evaluation.inside.likeness import Likeness, likenesses
    from softprompt.evaluation.inside.look_inside import Inspected, inspect
    from softprompt.evaluation.suites.report import ReportCard, report
    from softprompt.evaluation.suites.run import run_suites
    from softprompt.library.library import Library
    from softprompt.lifecycle.correct import Corrected, correct
    from softprompt.lifecycle.diagnosis.diagnose import diagnose
    from softprompt.lifecycle.drift.drift import Drifted, drift
    from softprompt.lifecycle.move import Upgraded
    from softprompt.lifecycle.personalize import Personalized, personalize
    from softprompt.lifecycle.retrain import Retrained, retrain
    from softprompt.lifecycle.upgrade import upgrade
    from softprompt.prompts.card import Card
    from softprompt.prompts.prompt import SoftPrompt
    from softprompt.registry.records import Outcome, Version
    from softprompt.serving.offline import Prediction, Service, predict
    from softprompt.tasks.config.config import TaskConfig
    from softprompt.tasks.task import Task
    from softprompt.training.distill import Distilled, distill
    from softprompt.training.member import Tuned
    from softprompt.training.plan import plan
    from softprompt.training.sweep import Swept, sweep
    from softprompt.training.train import train
    from softprompt.training.workers.train import train_on_ray

if "OMP_WAIT_POLICY" not in os.environ:  # before torch reads it
    # Threads that wait for each other look a thousand times before they sleep. The 300,000 times of libgomp take a core from
    # whatever else runs: on a machine with other work two threads then decode forty times slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = [
    "BaseOptions",
    "Card",
    "Combined",
    "Corrected",
    "Distilled",
    "Drifted",
    "Evaluation",
    "Finding",
    "FrozenBase",
    "Inspected",
    "Library",
    "Likeness",
    "Outcome",
    "Personalized",
    "Prediction",
    "ReportCard",
    "Retrained",
    "Service",
    "SoftPrompt",
    "SoftPromptError",
    "Swept",
    "Task",
    "TaskConfig",
    "Tuned",
    "Upgraded",
    "Version",
    "combine",
    "compare",
    "correct",
    "diagnose",
    "distill",
    "drift",
    "evaluate",
    "inspect",
    "likenesses",
    "personalize",
    "plan",
    "predict",
    "report",
    "retrain",
    "run_suites",
    "sweep",
    "train",
    "train_on_ray",
    "upgrade",
]

_HOMES = {
    "BaseOptions": "bases.options",
    "Card": "prompts.card",
    "Combined": "evaluation.combination",
    "Corrected": "lifecycle.correct",
    "Distilled": "training.distill",
    "Drifted": "lifecycle.drift.drift",
    "Evaluation": "evaluation.evaluate",
    "Finding": "evaluation.findings",
    "FrozenBase": "bases.base",
    "Inspected": "evaluation.inside.look_inside",
    "Library": "library.library",
    "Likeness": "evaluation.inside.likeness",
    "Outcome": "registry.records",
    "Personalized": "lifecycle.personalize",
    "Prediction": "serving.offline",
    "ReportCard": "evaluation.suites.report",
    "Retrained": "lifecycle.retrain",
    "Service": "serving.offline",
    "SoftPrompt": "prompts.prompt",
    "SoftPromptError": "errors",
    "Swept": "training.sweep",
    "Task": "tasks.task",
    "TaskConfig": "tasks.config.config",
    "Tuned": "training.member",
    "Upgraded": "lifecycle.move",
    "Version": "registry.records",
    "combine": "evaluation.combination",
    "compare": "compare.compare",
    "correct": "lifecycle.correct",
    "diagnose": "lifecycle.diagnosis.diagnose",
    "distill": "training.distill",
    "drift": "lifecycle.drift.drift",
    "evaluate": "evaluation.evaluate",
    "inspect": "evaluation.inside.look_inside",
    "likenesses": "evaluation.inside.likeness",
    "personalize": "lifecycle.personalize",
    "plan": "training.plan",
    "predict": "serving.offline",
    "report": "evaluation.suites.report",
    "retrain": "lifecycle.retrain",
    "run_suites": "evaluation.suites.run",
    "sweep": "training.sweep",
    "train": "training.train",
    "train_on_ray": "training.workers.train",
    "upgrade": "lifecycle.upgrade",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"softprompt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps the public names: that a room called like one is imported does not put the room in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
