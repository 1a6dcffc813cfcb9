"""What a suite says of a harness. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from softprompt.errors import ConfigError
from softprompt.tasks.config.blocks import Strict

Runner = Literal["lm-eval", "inspect"]


class HarnessConfig(Strict):
    """A task of a harness."""

    runner: Runner
    """`lm-eval`, or `inspect` for inspect-ai."""
    task: str = Field(min_length=1)
    """Of lm-eval its name; of inspect a file beside the suite (`kind.py`, `kind.py@name`), or `package/task`."""
    folder: str | None = None
    """For lm-eval: a folder of tasks (.yaml), beside the suite."""
    metrics: tuple[str, ...] = ()
    """Of the harness; by default all that are means over rows."""
    limit: int | None = Field(default=None, ge=1)
    """The first so many rows alone."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> HarnessConfig:
        if self.folder is not None and self.runner != "lm-eval":
            raise ValueError("folder: only lm-eval reads tasks from a folder; name the file as `task`")
        if self.task.startswith("-") or "," in self.task:
            raise ValueError(f"task: {self.task!r} is not the name of one task; name one")
        return self

    def check(self, beside: Path) -> None:
        """Refuse what is not there.

        Raises:
            ConfigError: the folder or the file is missing.
        """
        if self.folder is not None and not (beside / self.folder).is_dir():
            raise ConfigError(f"harness.folder: there is no folder {str(beside / self.folder)!r}; mend the path")
        file = self.task.partition("@")[0]
        if self.runner == "inspect" and file.endswith(".py") and not (beside / file).is_file():
            raise ConfigError(f"harness.task: there is no file {str(beside / file)!r}; mend the path")
