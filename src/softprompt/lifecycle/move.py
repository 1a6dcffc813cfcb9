"""A task on its way to another base, and what became of it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softprompt.prompts.card import Card
from softprompt.registry.gate import figures_of
from softprompt.registry.records import Record, Version
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Upgraded(Record):
    """What became of a task on its way to another base."""

    task: str
    old_version: int
    new_version: int | None
    """None where nothing was trained."""
    metric: str
    old: float | None
    """Of the old version on its base."""
    recycled: float | None
    """Of the vectors that were carried over, before they are trained, on the same rows; None where none could be."""
    value: float | None
    """Of the new version on the new base, on the same rows."""
    promoted: bool
    reason: str
    start: str | None
    """What the new version was trained from: `map` or `nearest`, the vectors carried over that way, or the initialiser of
    the task, where that was ahead on validation rows after half of the steps."""
    rows: int | None
    """Test rows that all three values stand on."""
    steps: int | None
    best_step: int | None
    """Which step the new version is of; 0 where no step was better on validation rows than where it started."""
    base: str
    """The new one."""


@dataclass(eq=False)
class Move:
    """A task on its way."""

    old: Version
    remarks: list[str] = field(default_factory=list)
    task: Task | None = None
    card: Card | None = None
    """The old version's, judged anew where its test rows have changed."""
    carried: dict[str, Tensor] = field(default_factory=dict)
    begins: Tensor | None = None
    start: str | None = None
    recycled: float | None = None
    new: Version | None = None
    promoted: bool = False
    failed: bool = False

    def fail(self, reason: object) -> None:
        """It goes no further."""
        self.remarks.append(str(reason))
        self.failed = True

    def row(self, base: str) -> Upgraded:
        old, new = figures_of(self.card or self.old.card), figures_of(self.new.card) if self.new is not None else None
        return Upgraded(
            task=self.old.task,
            old_version=self.old.number,
            new_version=None if self.new is None else self.new.number,
            metric=self.old.card.metric,
            old=None if old is None else old.value,
            recycled=self.recycled,
            value=None if new is None else new.value,
            promoted=self.promoted,
            reason="; ".join(self.remarks),
            start=self.start,
            rows=None if new is None else new.rows,
            steps=None if self.new is None else self.new.card.recipe.get("steps"),
            best_step=None if self.new is None else self.new.card.recipe.get("best_step"),
            base=base,
        )
