"""A method: a way to fit a base to a task, or to ask it as it is.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.model.architecture import Architecture
from softprompt.progress import Progress
from softprompt.tasks.task import Examples, Task

Settings = dict[str, Any]
"""What a method is told beside rows, steps and seed, in the types of JSON."""


@dataclass(frozen=True)
class Trained:
    """What a method made of a task's training rows, ready to answer its test rows."""

    architecture: Architecture
    """What answers: the base as it was, or as the method left a copy of it."""
    vectors_PD: Tensor
    """What stands before each input, P x D; 0 x D for nothing; behind it a head, on bases that answer through one."""
    test: Examples
    """The test rows as it is asked them."""
    trainable: int = 0
    """Numbers that were trained."""
    bytes: int = 0
    """Of what must be kept beside the base."""
    steps: int = 0
    """Steps taken."""
    rate: float | None = None
    """The learning rate; None where nothing is trained."""
    shots: int | None = None
    """Examples in its text; None where it has no such."""


class Method(Protocol):
    """A way to fit a base to a task. The task says the rows, and by its config how many steps and which seed."""

    searched: bool
    """Whether its learning rate may be searched for."""

    def check(self, task: Task, base: FrozenBase) -> None:
        """Do nothing where it works: asked before anything is trained.

        Raises:
            ConfigError, BaseModelError: it does not work on such a base, or with such a task.
        """

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        """What it is told beside that. Equal settings, rows, steps and seeds on one base give equal results."""

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        """Fit the base to the task's training rows. The base's own weights stay as they are.

        Args:
            factor: of the method's usual learning rate.

        Raises:
            ConfigError: the method turns out not to work on such a base.
            DataError: a row is wrong.
        """
