"""Ours: a soft prompt, or a prefix, by the task's own recipe."""

from __future__ import annotations

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.compare.method import Settings, Trained
from softprompt.errors import TrainingError
from softprompt.model.architecture import architecture_of
from softprompt.model.prefix import layout_for
from softprompt.progress import Progress
from softprompt.tasks.config.config import PromptType
from softprompt.tasks.task import Task
from softprompt.training.events import Failed, draw
from softprompt.training.prepare import chosen
from softprompt.training.publish import make_prompt
from softprompt.training.session import Session


class Ours:
    """A prompt of one kind, trained as `softprompt train` trains it, with nothing published."""

    searched = True

    def __init__(self, prompt_type: PromptType = "soft") -> None:
        self._prompt_type = prompt_type

    def check(self, task: Task, base: FrozenBase) -> None:
        of_kind(task, self._prompt_type)
        if self._prompt_type == "prefix":
            layout_for(base, architecture_of(base).layout)

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        config = chosen(of_kind(task, self._prompt_type).config, base)
        recipe = config.recipe() | {"num_virtual_tokens": config.num_virtual_tokens}
        return {key: value for key, value in recipe.items() if key not in ("seed", "max_steps")}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        session = Session(architecture_of(base))
        member = session.add(paced(of_kind(task, self._prompt_type), factor), publishes=False)
        for event in draw(session.run(), progress):
            if isinstance(event, Failed):
                raise event.error
        run = member.run
        if run.best is None or run.best_PD is None:
            raise TrainingError(f"task {task.name!r}: {run.failure or 'no validation was passed'}; lower learning_rate")
        prompt = make_prompt(session.architecture, member, run.best)
        rows_PD = prompt.rows_PD.to(base.device, base.dtype)
        size, trained = len(prompt.to_bytes()), sum(map(Tensor.numel, (prompt.vectors_PD, *(prompt.classifier or ()))))
        return Trained(session.architecture, rows_PD, member.test, trained, size, run.step, run.config.learning_rate)


def of_kind(task: Task, prompt_type: PromptType) -> Task:
    """A task for prompts of a kind. A learning rate that it names for the other kind is none of this one's."""
    if task.config.prompt_type == prompt_type:
        return task
    without = {} if task.config.learning_rate is None else {"learning_rate": None}
    return task.variant(peft_type="PROMPT_TUNING", prompt_type=prompt_type, **without)


def paced(task: Task, factor: float) -> Task:
    """A task whose learning rate, or else the multiplier of the default one, is times a factor."""
    if factor == 1:
        return task
    config = task.config
    if config.learning_rate is not None:
        return task.variant(learning_rate=float(f"{config.learning_rate * factor:.3g}"))
    return task.variant(learning_rate_multiplier=config.learning_rate_multiplier * factor)
