"""Tuning prompts from tasks to versions in the library, in one call: what `softprompt.train` and the command do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, base_of
from softprompt.errors import ConfigError, TrainingError, TrainingStopped
from softprompt.evaluation.combination import combine
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute, Progress, Silent
from softprompt.prompts.combine import Operation
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.gate import rival
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.training.events import Failed, Stopped, draw
from softprompt.training.member import Member, Tuned
from softprompt.training.session import Session
from softprompt.training.steps.loop import Group
from softprompt.training.trackers import check_trackers, open_trackers
from softprompt.training.trackers.telling import report

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.tasks.task import Task


def train(
    tasks: TaskLike | Sequence[TaskLike],
    *,
    base: BaseLike = None,
    library: Library | None = None,
    publish: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    subsets: int | None = None,
    report_to: str | Sequence[str] = (),
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
        subsets: train so many prompts of each task, on parts of its rows, each a version of its own, and publish one that is
            combined of them (an ensemble where there are labels, else their mean), which is what is returned; by default as
            `data.subsets` of each task says.
        report_to: `tensorboard`, `mlflow` or both: who hears of the training as it happens, each a package of its own; see
            :mod:`softprompt.training.trackers`. It changes nothing of what is trained.

    Raises:
        ConfigError, DataError: a task is wrong; nothing was trained.
        BaseModelError: the base cannot be used.
        TrainingError: some prompt could not be trained. Those that could be are published.
        TrainingStopped: training was stopped; likewise.
    """
    group = Group.current()
    check_trackers(report_to)
    loaded = load_tasks(tasks)
    shown = (progress or Silent()) if group.leads else Mute()
    with library_for(library, publish) as kept:
        architecture = architecture_of(base_of(base, one_base(loaded), shown))
        session = Session(architecture, library=kept, group=group, stop=stop)
        members: list[tuple[Task, list[Member]]] = []
        for task in loaded:
            count = _subsets_of(task, subsets, session.base, publish=publish)
            members.append((task, [session.add(one) for one in (task.subsets(count) if count else [task])]))
        trackers = open_trackers(report_to, kept.histories if kept is not None else None) if group.leads else []
        for event in draw(report(session.run(), trackers), shown):
            if isinstance(event, Failed) and not event.trained:
                raise event.error
            if isinstance(event, Stopped):
                raise TrainingStopped(f"stopped; {published(session.members)}call the same command again to go on")
        if not group.leads:
            return []
        _check(session.members)
        found: list[Tuned] = []
        for task, own in members:
            tuned = [member.tuned for member in own if member.tuned is not None]
            found += tuned if kept is None or len(own) < 2 else [_combined(task, tuned, kept, architecture.base, shown)]
        return found


def _subsets_of(task: Task, given: int | None, base: FrozenBase, *, publish: bool) -> int | None:
    """How many prompts a task is trained as; None for one.

    Raises:
        ConfigError: nothing is published, it is no number of subsets, or prompts of this kind are not combined.
    """
    count = given if given is not None else task.config.data.subsets if task.config.data is not None else None
    if count is None:
        return None
    if count < 2:
        raise ConfigError(f"{count} is no number of subsets; give 2 or more, or leave it out")
    if task.config.prompt_type == "prefix":
        raise ConfigError(
            f"task {task.name!r}: subsets are combined, and prefixes cannot be; leave subsets out, or take prompt_type: soft"
        )
    if base.task_type == "SEQ_CLS":
        raise ConfigError(
            f"task {task.name!r}: subsets are combined as an ensemble, which prompts with heads (those on {base.name}) are "
            "not; leave subsets out"
        )
    if any(map(task.form.lacks_answer, task.test)):
        raise ConfigError(
            f"task {task.name!r}: what is combined of subsets is judged on test rows, and some of them have no answer; "
            "answer them, or leave subsets out"
        )
    if not publish:
        raise ConfigError(
            f"task {task.name!r}: subsets are combined in a library, and publish is False; leave one of them out"
        )
    return count


def _check(members: Sequence[Member]) -> None:
    """Raises the error of members that failed, where there are any."""
    failed = [member for member in members if member.error is not None]
    if len(failed) == 1 and failed[0].error is not None and not failed[0].run.failure:
        raise failed[0].error
    if failed:
        causes = "; ".join(f"task {member.task.name!r}: {member.error}" for member in failed)
        mend = "lower learning_rate or use float32" if any(member.run.failure for member in failed) else "mend that"
        raise TrainingError(f"{causes}; {mend}; {published(members)}".removesuffix("; ")) from failed[0].error


def _combined(task: Task, parts: Sequence[Tuned], library: Library, base: FrozenBase, progress: Progress) -> Tuned:
    """The prompts of a task's subsets as one version, judged on the task's test rows as they were."""
    operation: Operation = "ensemble" if task.form.labels else "average"
    refs = [f"{task.name}@{one.version}" for one in parts]
    made = combine(refs, operation, library=library, data=task.test, base=base, progress=progress)
    prompt, report = SoftPrompt.from_bytes(library.read(f"{task.name}@{made.version}")), made.report
    assert report is not None
    each = ", ".join(f"{ref} {value:.3f}" for ref, value in zip(refs, made.parent_values, strict=True))
    progress.note(f"{task.name}@{made.version} is the {operation} of {each}")
    first = min(parts, key=lambda one: one.version or 0)  # before which nothing of this training was there
    before = [
        other and rival(library.registry.resolve(f"{task.name}@{other.version}"), prompt.card)
        for other in (first.live, first.production)
    ]
    return replace(
        first,
        prompt=prompt,
        report=report,
        version=made.version,
        seconds=max(one.seconds for one in parts),
        truncated=sum(one.truncated for one in parts),
        answers_cut=sum(one.answers_cut for one in parts),
        rows=(len(task.train), *first.rows[1:]),
        history=[],
        live=before[0],
        production=before[1],
    )


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
