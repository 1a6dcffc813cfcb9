"""TensorBoard: a folder of events for each run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils import tensorboard

from softprompt.training.member import Member

FOLDER = "TENSORBOARD_LOGGING_DIR"
"""The environment variable that says where; as transformers has it."""


class TensorBoard:
    """Numbers of runs in `$TENSORBOARD_LOGGING_DIR`, by default `tensorboard` in the library's folder of curves."""

    name = "tensorboard"

    def __init__(self, runs: Path | None) -> None:
        self._folder = Path(os.environ.get(FOLDER) or (runs or Path("runs")) / "tensorboard")
        self._writers: dict[Member, Any] = {}

    def start(self, member: Member) -> bool:
        folder = self._folder / f"{member.task.name}-{member.id[:8]}"
        known = folder.is_dir()
        # What was written behind the checkpoint that it goes on from comes again.
        purge = member.run.step + 1 if known else None
        self._writers[member] = tensorboard.SummaryWriter(str(folder), purge_step=purge, flush_secs=5)
        return known

    def log(self, member: Member, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writers[member].add_scalar(name, value, step)

    def end(self, member: Member, status: str, said: Mapping[str, str]) -> None:
        writer = self._writers.pop(member)
        if said:
            writer.add_text("run", "  \n".join(f"{name}: {value}" for name, value in said.items()), member.run.step)
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
