"""Tuning prompts from tasks to versions in the library, in one call: what `softprompt.train` and the command do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, base_of
from softprompt.errors import ConfigError, TrainingError, TrainingStopped
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute, Progress, Silent, loading
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.training.events import Failed, Stopped, draw
from softprompt.training.loop import Group
from softprompt.training.member import Member, Tuned
from softprompt.training.session import Session

if TYPE_CHECKING:
    from softprompt.library.library import Library


def train(
    tasks: TaskLike | Sequence[TaskLike],
    *,
    base: BaseLike = None,
    library: Library | None = None,
    publish: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> list[Tuned]:
    """Tune a soft prompt for each task, all at once on one frozen base.

    Where `accelerate launch` has started several processes, each runs its share of every step's rows; the first one
    judges, publishes and returns the prompts, the others return none.

    Args:
        tasks: task files, dictionaries (their `data` may be rows in memory), configs or :class:`Task` objects, with distinct
            names and one base.
        base: a base that is loaded already, or how to load one; where nothing is said, as the tasks name it.
        library: where the prompts are published, each as a new version, once it is judged; by default the one in the current
            home, which :func:`softprompt.predict` reads too.
        publish: False to keep nothing: no version, no checkpoint.
        progress: where to report to.
        stop: training stops once it is set; the same call goes on from there.

    Raises:
        ConfigError, DataError: a task is wrong; nothing was trained.
        BaseModelError: the base cannot be used.
        TrainingError: some prompt could not be trained. Those that could be are published.
        TrainingStopped: training was stopped; likewise.
    """
    group = Group.current()
    loaded = load_tasks(tasks)
    shown = (progress or Silent()) if group.leads else Mute()
    with library_for(library, publish) as kept:
        with loading(shown, (options := one_base(loaded)).shown):
            architecture = architecture_of(base_of(base, options))
        session = Session(architecture, library=kept, group=group, stop=stop)
        for task in loaded:
            session.add(task)
        for event in draw(session.run(), shown):
            if isinstance(event, Failed) and not event.trained:
                raise event.error
            if isinstance(event, Stopped):
                raise TrainingStopped(f"stopped; {published(session.members)}call the same command again to go on")
    if not group.leads:
        return []
    failed = [member for member in session.members if member.error is not None]
    if len(failed) == 1 and failed[0].error is not None and not failed[0].run.failure:
        raise failed[0].error
    if failed:
        causes = "; ".join(f"task {member.task.name!r}: {member.error}" for member in failed)
        mend = "lower learning_rate or use float32" if any(member.run.failure for member in failed) else "mend that"
        raise TrainingError(f"{causes}; {mend}; {published(session.members)}".removesuffix("; ")) from failed[0].error
    return [member.tuned for member in session.members if member.tuned is not None]


@contextmanager
def library_for(library: Library | None, publish: bool) -> Iterator[Library | None]:
    """The library to publish to: the one that is given, else that of the current home; None where nothing is kept.

    Raises:
        ConfigError: a library is given, and nothing is to be kept.
        LibraryError: the home's library cannot be opened, or the library may only be read.
    """
    from softprompt.library.library import library_or_current

    if library is not None and not publish:
        raise ConfigError("a library is given, and publish is False; leave one of them out")
    if publish:
        with library_or_current(library, create=True) as opened:
            opened.registry.database.check_writable()
            yield opened
    else:
        yield None


def published(members: Sequence[Member]) -> str:
    """Which members went well, for the end of a message; nothing where none did."""
    names = [member.task.name for member in members if member.tuned is not None]
    return f"{', '.join(names)} went well; " if names else ""
