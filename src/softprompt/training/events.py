"""What happens in a training, as it happens: the terminal draws it, jobs store it, callers read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from softprompt.evaluation.trials import Report
from softprompt.progress import Progress
from softprompt.training.member import Member, Tuned
from softprompt.training.steps.run import Run


@dataclass(frozen=True)
class Advanced:
    """A stage got further."""

    stage: str
    """`read`, `baselines`, `train`, `test`, or what a driver of sessions calls its own."""
    done: int
    total: int
    text: str = ""
    """How it stands, in a few words."""


@dataclass(frozen=True)
class Noted:
    """Something worth reading."""

    message: str
    member: Member | None = None
    """Whom it is about; None for all."""
    warning: bool = False
    """Whether it asks for attention."""


@dataclass(frozen=True)
class Prepared:
    """A task's rows are encoded, its vectors stand at their start, and its baselines are known."""

    member: Member


@dataclass(frozen=True)
class Resumed:
    """Training goes on from a checkpoint."""

    step: int
    """The furthest of its runs."""


@dataclass(frozen=True)
class Stepped:
    """A step was taken. What the caller does before it asks for the next event, such as dropping a run, is in the next
    checkpoint."""

    members: tuple[Member, ...]
    """Those that took it."""


@dataclass(frozen=True)
class Judged:
    """A prompt has answered the test rows."""

    member: Member
    report: Report


@dataclass(frozen=True)
class Published:
    """A prompt is in the library, or would be if there were one."""

    member: Member
    tuned: Tuned


@dataclass(frozen=True)
class Failed:
    """A task came to an end of its own; the others go on."""

    member: Member
    error: Exception
    trained: bool
    """Whether it had begun to train."""


@dataclass(frozen=True)
class Trained:
    """No run wants another step. The caller may add tasks now, or let a member publish that did not by itself."""


@dataclass(frozen=True)
class Stopped:
    """The session was told to stop; the same session, opened again, goes on from here. The last event."""


Event = Advanced | Noted | Prepared | Resumed | Stepped | Judged | Published | Failed | Trained | Stopped


def standing(runs: Sequence[Run]) -> str:
    """How runs stand, in a few words."""
    values = [run.best.value for run in runs if run.best is not None]
    losses = [run.loss for run in runs if not math.isnan(run.loss)]
    if values:
        stand = f"{'mean' if len(runs) > 1 else runs[0].task.form.metric} {sum(values) / len(values):.3f}"
    else:
        stand = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
    if len(runs) == 1:
        return stand
    return f"{sum(not run.running for run in runs)} of {len(runs)} done{stand and ', '}{stand}"


def draw(events: Iterable[Event], progress: Progress) -> Iterator[Event]:
    """Pass events on, and show people the stages, notes and warnings among them."""
    stages: dict[str, _Stage] = {}
    noted: set[str] = set()  # candidates of a sweep have the same rows, of which the same is to be said
    try:
        for event in events:
            if isinstance(event, Noted):
                if event.message not in noted:
                    (progress.warn if event.warning else progress.note)(event.message)
                noted.add(event.message)
            elif isinstance(event, Advanced):
                stage = stages.pop(event.stage, None)
                if stage is not None and stage.total != event.total:  # a task has come or gone
                    stage.close()
                    stage = None
                stage = stage or _Stage(progress, event.stage, event.total)
                stage.reach(event)
                if event.done < event.total:
                    stages[event.stage] = stage
                else:
                    stage.close()
            yield event
    finally:
        for stage in stages.values():
            stage.close()


class _Stage(ExitStack):
    """A stage that is being shown, until it is closed."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        super().__init__()
        self.total = total
        self._done = 0
        self._advance = self.enter_context(progress.stage(name, total))

    def reach(self, event: Advanced) -> None:
        self._advance(event.done - self._done, event.text)
        self._done = event.done
