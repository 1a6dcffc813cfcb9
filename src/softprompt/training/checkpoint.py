"""Checkpoints: all that a killed training needs to end as if it had never been killed.

A session's checkpoint is one file with a state for each run, by the run's key: what it is trained from (task, rows, recipe,
start, base, dtype, quantisation). So the same command finds it again and goes on, and another never takes a state by
mistake. It is written whole beside the old one and renamed, so a kill or a full disk leaves the last good one as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.rows.sources import digest_rows
from softprompt.training.steps.run import Run

FORMAT = 5
EVERY_SECONDS = 30.0


class Checkpoint:
    """The checkpoint of one session in a folder."""

    def __init__(self, folder: Path, name: str, warn: Callable[[str], None], every: float = EVERY_SECONDS) -> None:
        """Nothing is read or written yet; `warn` hears of files that cannot be used or written."""
        self.file = folder / f"{name}.checkpoint"
        self._warn = warn
        self._every = every
        self._saved = time.monotonic()
        self.others: dict[str, Any] = {}
        """States of runs that the session does not have, kept for those who come for them."""

    def load(self) -> dict[str, Any]:
        """The states that are there, by key; none where there is no file, or none that can be used."""
        try:
            state: Any = torch.load(self.file, weights_only=True, map_location="cpu")
        except FileNotFoundError:
            return {}
        except Exception as error:  # a damaged file fails in many ways; all of them mean to start anew
            self._warn(f"the checkpoint {self.file} cannot be read ({type(error).__name__}); training starts anew")
            return {}
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            self._warn(f"the checkpoint {self.file} is of another version; training starts anew")
            return {}
        self.others = dict(state["runs"])
        return self.others

    @property
    def due(self) -> bool:
        """Whether the last save is long ago."""
        return time.monotonic() - self._saved >= self._every

    def save(self, states: Mapping[str, Any]) -> bool:
        """Write the states, whole or not at all; whether they are written. A disk that is full costs the checkpoint, not the
        training."""
        self._saved = time.monotonic()
        partial = self.file.with_suffix(f".{os.getpid()}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as handle:
                torch.save({"format": FORMAT, "runs": {**self.others, **states}}, handle)
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self._warn(f"the checkpoint cannot be written ({error}); training goes on from the last good one")
            return False
        return True

    def forget(self, keys: Iterable[str]) -> None:
        """Let go of states that nobody will come for, with the next save."""
        gone = set(keys)
        self.others = {key: state for key, state in self.others.items() if key not in gone}

    def discard(self, keys: Iterable[str], states: Mapping[str, Any]) -> None:
        """Forget runs that are over; `states` are those that are not. The last one takes the file along."""
        self.forget(keys)
        if states or self.others:
            self.save(states)
            return
        for left in self.file.parent.glob(f"{self.file.stem}.*"):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


_OF_NO_STEP = {"serving", "max_eval_samples", "max_baseline_samples"}
"""Keys that no step depends on; which rows it is validated on, a run's key says by themselves."""


def key_of(base: FrozenBase, run: Run) -> str:
    """What a run is trained from, as 16 hex digits."""
    known = [
        base.fingerprint,
        str(base.dtype),
        base.quantization,
        run.config.model_dump(mode="json", exclude=_OF_NO_STEP),
        run.task.data_digest,
        digest_rows(run.task.validation),
        hashlib.sha256(run.start_PD.numpy().tobytes()).hexdigest(),
    ]
    return _digest(known + ["batch invariant"] * base.batch_invariant)


def name_of(keys: Iterable[str], salt: str) -> str:
    """The name of the checkpoint of a session that begins with these runs; `salt` is what else decides their fate."""
    return _digest([sorted(keys), salt])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
