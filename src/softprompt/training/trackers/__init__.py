"""Trackers: what programs of others keep of a training, as it happens: TensorBoard and MLflow, each loaded when asked for.

They hear of each validation, of the test and of the baselines, and of nothing between: a step costs as much as without.
Open `tensorboard.py` first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from softprompt.errors import ConfigError, nearest

if TYPE_CHECKING:
    from softprompt.training.member import Member

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
"""How a run ends; one that was killed goes on when the same training is called again."""

_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""The package that each tracker needs, and the extra of the same name installs."""


class Tracker(Protocol):
    """What keeps the numbers of runs. Each method may raise; the training then goes on without it."""

    name: str

    def start(self, member: Member) -> bool:
        """Begin with a member, or go on with it; whether its earlier validations are known already."""
        ...

    def log(self, member: Member, step: int, values: Mapping[str, float]) -> None:
        """Keep numbers of a member at a step."""
        ...

    def end(self, member: Member, status: str, said: Mapping[str, str]) -> None:
        """The member's run is over; what is said of it at last."""
        ...

    def close(self) -> None:
        """Nothing comes any more."""
        ...


def check_trackers(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of trackers, each once, all of them known and installed; no torch is loaded.

    Raises:
        ConfigError: one is not.
    """
    asked = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in asked:
        if name not in _NEEDS:
            raise ConfigError(f"report_to: there is no tracker {name!r}{nearest(name, _NEEDS)}; name one, or leave it out")
        if importlib.util.find_spec(_NEEDS[name]) is None:
            raise ConfigError(f"report_to: {name} is not installed; pip install 'softprompt[{name}]'")
    return asked


def open_trackers(names: str | Sequence[str], runs: Path | None) -> list[Tracker]:
    """Trackers by their names.

    Args:
        runs: the library's folder of curves, where there is a library.

    Raises:
        ConfigError: one is not known, not installed, or cannot be used.
    """
    found: list[Tracker] = []
    for name in check_trackers(names):
        if name == "tensorboard":
            from softprompt.training.trackers.tensorboard import TensorBoard

            found.append(TensorBoard(runs))
        else:
            from softprompt.training.trackers.mlflow import MLflow

            found.append(MLflow())
    return found
