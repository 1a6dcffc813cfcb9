"""What happens in a training, as it happens: the terminal draws it, jobs store it, callers read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from softprompt.evaluation.evaluate import Report
from softprompt.progress import Advance, Progress
from softprompt.training.publish import Tuned
from softprompt.training.run import Member


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


def draw(events: Iterable[Event], progress: Progress) -> Iterator[Event]:
    """Pass events on, and show people the stages, notes and warnings among them."""
    open_stages: dict[str, tuple[Advance, int]] = {}
    with ExitStack() as stack:
        for event in events:
            if isinstance(event, Noted):
                (progress.warn if event.warning else progress.note)(event.message)
            elif isinstance(event, Advanced):
                if event.stage not in open_stages:
                    open_stages[event.stage] = (stack.enter_context(progress.stage(event.stage, event.total)), 0)
                advance, before = open_stages[event.stage]
                advance(event.done - before, event.text)
                open_stages[event.stage] = (advance, event.done)
            yield event
