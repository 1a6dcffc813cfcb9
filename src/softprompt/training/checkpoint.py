"""Checkpoints of a bank: all that a killed training needs to end as if it had never been killed.

A checkpoint is named by what is trained: tasks, rows, recipe, base, dtype, quantisation, and a sweep's rungs. So the same
command finds it again and goes on, and another never takes it by mistake. It is written whole beside the old one and
renamed, so a kill or a full disk leaves the last good one as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.evaluation.evaluate import Report
from softprompt.progress import Progress
from softprompt.tasks.rows import digest_rows
from softprompt.training.bank import Bank
from softprompt.training.parallel import Group
from softprompt.training.run import Run

FORMAT = 2
EVERY_SECONDS = 30.0


class Keeper:
    """Keeps the checkpoint of one training in a folder."""

    def __init__(
        self,
        folder: Path,
        base: FrozenBase,
        runs: Sequence[Run],
        progress: Progress,
        every: float = EVERY_SECONDS,
        *,
        rungs: Sequence[float] = (),
    ) -> None:
        """Nothing is read or written yet. `rungs` are those at which a sweep drops runs."""
        self.file = folder / f"{_name(base, runs, rungs)}.checkpoint"
        self._progress = progress
        self._every = every
        self._saved = time.monotonic()

    def restore(self, bank: Bank, runs: Sequence[Run], group: Group) -> bool:
        """Go on from the checkpoint, if the first process has one."""
        state = group.from_first(self._load)
        if state is None:
            return False
        bank.load_state(state["bank"])
        for run, saved in zip(runs, state["runs"], strict=True):
            _restore_run(run, saved)
        self._progress.note(f"going on from step {max(run.step for run in runs)} of a training that was stopped")
        return True

    def _load(self) -> dict[str, Any] | None:
        try:
            state: Any = torch.load(self.file, weights_only=True, map_location="cpu")
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file fails in many ways; all of them mean to start anew
            self._progress.warn(f"the checkpoint {self.file} cannot be read ({type(error).__name__}); training starts anew")
            return None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            self._progress.warn(f"the checkpoint {self.file} is of another version; training starts anew")
            return None
        return state

    def save_if_due(self, bank: Bank, runs: Sequence[Run]) -> None:
        """Save when the last time is long ago."""
        if time.monotonic() - self._saved >= self._every:
            self.save(bank, runs)

    def save(self, bank: Bank, runs: Sequence[Run]) -> None:
        """Write the checkpoint, whole or not at all. A disk that is full costs the checkpoint, not the training."""
        self._saved = time.monotonic()
        state = {"format": FORMAT, "bank": bank.state(), "runs": [_run_state(run) for run in runs]}
        partial = self.file.with_suffix(f".{os.getpid()}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as handle:
                torch.save(state, handle)
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self._progress.warn(f"the checkpoint cannot be written ({error}); training goes on from the last good one")

    def discard(self) -> None:
        """The training is over and published; its checkpoint is of no more use."""
        for left in self.file.parent.glob(f"{self.file.stem}.*"):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _name(base: FrozenBase, runs: Sequence[Run], rungs: Sequence[float]) -> str:
    told = [
        {
            "config": run.config.model_dump(mode="json", exclude={"serving"}),
            "rows": run.task.data_digest,
            "validation": digest_rows(run.task.validation),
            "start": hashlib.sha256(run.start_PD.numpy().tobytes()).hexdigest(),
        }
        for run in runs
    ]
    text = json.dumps([base.fingerprint, str(base.dtype), base.quantization, told, sorted(rungs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_PLAIN = ("step", "loss", "best_step", "failure", "dropped", "history", "_losses", "_worse")


def _run_state(run: Run) -> dict[str, Any]:
    best = None
    if run.best is not None:
        best = {"metric": run.best.metric, "value": run.best.value, "rows": run.best.rows, "loss": run.best.loss}
    return {name: getattr(run, name) for name in _PLAIN} | {"best": best, "best_PD": run.best_PD}


def _restore_run(run: Run, saved: dict[str, Any]) -> None:
    for name in _PLAIN:
        setattr(run, name, saved[name])
    run.best_PD = saved["best_PD"]
    run.best = Report(**saved["best"], predictions=[]) if saved["best"] is not None else None
