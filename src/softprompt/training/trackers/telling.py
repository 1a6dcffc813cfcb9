"""Telling trackers of a training, event by event."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

from softprompt.errors import reason_of
from softprompt.training.events import Event, Failed, Judged, Noted, Prepared, Published, Stepped
from softprompt.training.member import Member
from softprompt.training.trackers import FAILED, FINISHED, KILLED, Tracker


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
