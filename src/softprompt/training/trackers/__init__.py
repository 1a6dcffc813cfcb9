"""Trackers: what programs of others keep of a training, as it happens: TensorBoard and MLflow, each loaded when asked for.

They hear of each validation, of the test and of the baselines, and of nothing between: a step costs as much as without.
Open `tensorboard.py` first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from softprompt.errors import ConfigError, nearest, reason_of
from softprompt.training.events import Event, Failed, Judged, Noted, Prepared, Published, Stepped
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


def report(events: Iterable[Event], trackers: Sequence[Tracker]) -> Iterator[Event]:
    """Pass events on, and tell trackers of them. One that fails is told of once, and nothing more is told to it."""
    live, seen = list(trackers), dict[tuple[str, Member], int]()
    try:
        for event in events:
            for tracker in list(live):
                try:
                    _tell(tracker, event, seen)
                except Exception as error:
                    live.remove(tracker)
                    said = f"{tracker.name} fails, and hears no more of this training: {reason_of(error)}"
                    yield Noted(said, warning=True)
            yield event
    finally:
        for tracker in live:
            with contextlib.suppress(Exception):
                for name, member in list(seen):
                    if name == tracker.name:
                        tracker.end(member, KILLED, {})
                tracker.close()


def _tell(tracker: Tracker, event: Event, seen: dict[tuple[str, Member], int]) -> None:
    """`seen` are the validations that it was told of, of each member that it began with."""
    if isinstance(event, Prepared):
        member = event.member
        known = tracker.start(member)
        seen[tracker.name, member] = len(member.run.history) if known else 0
        if not known:
            tracker.log(member, 0, {f"baseline/{name}": value for name, value in (member.baselines or {}).items()})
    elif isinstance(event, Stepped):
        for member in event.members:
            _tell_validations(tracker, member, seen)
    elif isinstance(event, Judged):
        _tell_validations(tracker, event.member, seen)
        values = {f"test/{event.report.metric}": event.report.value, "test/rows": float(event.report.rows)}
        tracker.log(event.member, event.member.run.step, values)
    elif isinstance(event, Published):
        card, version = event.tuned.prompt.card, event.tuned.version
        said = {"version": card.task if version is None else f"{card.task}@{version}", "digest": event.tuned.prompt.digest}
        tracker.end(event.member, FINISHED, said)
        seen.pop((tracker.name, event.member), None)
    elif isinstance(event, Failed) and (tracker.name, event.member) in seen:
        tracker.end(event.member, FAILED, {"error": reason_of(event.error)})
        del seen[tracker.name, event.member]


def _tell_validations(tracker: Tracker, member: Member, seen: dict[tuple[str, Member], int]) -> None:
    history, told = member.run.history, seen.get((tracker.name, member))
    if told is None or told == len(history):
        return
    for row in history[told:]:
        values = {name: row[column] for column, name in _NAMES.items() if math.isfinite(row.get(column, math.nan))}
        tracker.log(member, int(row["step"]), values)
    seen[tracker.name, member] = len(history)


_NAMES = {
    "learning_rate": "train/learning_rate",
    "loss": "train/loss",
    "value": "validation/value",
    "validation_loss": "validation/loss",
}
"""What the columns of a history are called."""
