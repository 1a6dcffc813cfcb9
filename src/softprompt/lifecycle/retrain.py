"""A task trained again on its base, from what the library keeps of the version that serves."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.library.binding import check_before_loading
from softprompt.library.library import library_or_current
from softprompt.lifecycle.move import Move
from softprompt.lifecycle.remake import named_base, remake
from softprompt.progress import Progress, Silent, loading_torch
from softprompt.registry.gate import figures_of
from softprompt.registry.records import Record
from softprompt.tasks.load import TaskLike, load_tasks

if TYPE_CHECKING:
    from softprompt.bases.base import BaseLike
    from softprompt.library.library import Library


@dataclass(frozen=True)
class Retrained(Record):
    """A task's new version beside the one that it was made of."""

    task: str
    old_version: int
    new_version: int
    metric: str
    old: float | None
    """Of the old version, on the test rows of today."""
    value: float
    """Of the new one, on the same rows."""
    promoted: bool
    reason: str
    rows: int
    """Test rows."""
    train_rows: int
    seconds: float


def retrain(
    task: str,
    *,
    data: str | os.PathLike[str] | None = None,
    task_file: TaskLike | None = None,
    library: Library | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Retrained:
    """Train a task again on its base by the recipe that the library keeps with the version that its name means, on the rows
    of today, and promote the new version to `production` where it is not clearly worse on the same test rows. Until then the
    old one stays what the name means.

    Args:
        task: of the library: TASK, TASK@N or TASK@ALIAS.
        data: training rows in the place of those of then. Validation and test rows stay where they have files of their own,
            and are cut from these where they were cut.
        task_file: the task, for a version that came without.
        library: by default the one in the current home.
        base: a base that is loaded already, or how to load one; by default as the version names it.
        progress: where to report to.
        stop: training stops once it is set; the same call goes on from there.

    Raises:
        NotFound: there is no such task or version.
        ConfigError: the library does not keep its task file, or it is an ensemble.
        DataError: its rows cannot be read.
        FingerprintMismatch: the base is another one than the version's.
        TrainingError, TrainingStopped: as for :func:`softprompt.train`.
    """
    shown = progress or Silent()
    with library_or_current(library) as opened:
        opened.registry.database.check_writable()
        move = Move(opened.registry.resolve(task))
        (given,) = load_tasks(task_file) if task_file is not None else (None,)
        made, told = remake(opened, move.old, given, data=Path(data).resolve() if data is not None else None)
        len(made.train)  # what is wrong with the rows, and where the base is, is told before torch is loaded
        check_before_loading(move.old, base, named_base(opened, move.old))
        move.remarks += told
        if not told and data is None:
            move.remarks.append("no row has changed since")
        with loading_torch(shown):
            from softprompt.engines.offline import OfflineEngine
            from softprompt.lifecycle.gate import card_on, keep_in_place, promote_if_as_good, refresh_suites
            from softprompt.lifecycle.loaded import load_pair
            from softprompt.model.architecture import architecture_of
            from softprompt.training.train import train
        loaded, prompt = load_pair(opened, move.old, base, shown)
        keep_in_place(opened, move.old, "kept in place while the task is trained again")
        engine = OfflineEngine(architecture_of(loaded), warn=shown.warn)
        move.card, move.task = card_on(made, prompt, engine), made
        move.remarks += refresh_suites(opened, move.old, engine, shown, made)
        (tuned,) = train(made, base=loaded, library=opened, progress=shown, stop=stop)
        move.new = opened.registry.resolve(f"{move.old.task}@{tuned.version}")
        promote_if_as_good(opened, move, engine, shown)
        old = figures_of(move.card)
        return Retrained(
            task=move.old.task,
            old_version=move.old.number,
            new_version=move.new.number,
            metric=tuned.report.metric,
            old=None if old is None else old.value,
            value=tuned.report.value,
            promoted=move.promoted,
            reason="; ".join(move.remarks),
            rows=tuned.report.rows,
            train_rows=tuned.rows[0],
            seconds=round(tuned.seconds, 2),
        )
