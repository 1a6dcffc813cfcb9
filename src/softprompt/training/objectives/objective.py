"""The protocol of objectives.

Shapes: B rows, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from softprompt.evaluation.trials import Report
from softprompt.model.architecture import Architecture
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Tails
from softprompt.tasks.task import Examples, Task

T = TypeVar("T")

Splits = Mapping[str, Examples]
"""Rows as token ids: those of `training`, `validation` and `test`."""


@dataclass(frozen=True)
class Surroundings:
    """What an objective may ask of, before training, for the rows of a task."""

    task: Task
    architecture: Architecture
    """The base."""
    kept: Path | None
    """Folder for what is worth keeping from training to training; None to keep nothing."""
    warn: Callable[[str], None]
    """Hears of what people should know."""
    most: int | None = None
    """Ask for so many rows at most, let what is said stand in for the others, and keep nothing, as a plan does."""


class Objective(Protocol[T]):
    """How rows with targets of one kind become losses."""

    def complete(self, splits: Splits, around: Surroundings) -> Generator[tuple[int, int], None, Splits]:
        """The splits with what the objective needs of each row beside its answer (:attr:`Examples.beside`). Yields how many
        rows are done, of how many, where the base is asked for it: first of none.

        Raises:
            DataError, ContextError: a row lacks it, or it cannot be had.
        """
        yield from ()
        return splits

    def targets(self, examples: Examples, labels: Labels | None) -> list[T]:
        """What each row of a split is trained for; `labels` are the tokens of all labels of its task."""
        ...

    def tails(self, target: T) -> Tails:
        """What must be run behind the input, each apart from the others; at least one, which may be empty."""
        ...

    def size(self, target: T) -> int:
        """What a row counts in the mean of its prompt's losses."""
        ...

    def losses(self, targets: Sequence[T], logits_NV: Tensor) -> Tensor:
        """The loss of each row (B, float32) by its logits: those behind its input and behind each token of its tails."""
        ...

    def scores(self, task: Task, test: Examples, report: Report) -> dict[str, float]:
        """What its card says of a prompt beside its metric, by its answers to the test rows."""
        return {}
