"""Answers that were wrong, learnt: a few steps from the version that serves, among rows that it knows already."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, NotFound
from softprompt.library.binding import check_before_loading
from softprompt.library.library import library_or_current
from softprompt.lifecycle.move import Move
from softprompt.lifecycle.remake import named_base, remake
from softprompt.progress import Progress, Silent, loading_torch
from softprompt.registry.gate import figures_of
from softprompt.registry.records import Record
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.sources import canonical, find_file, read_rows
from softprompt.tasks.form import Form
from softprompt.tasks.load import TaskLike, load_tasks
from softprompt.tasks.splits import Source
from softprompt.tasks.task import Task
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import BaseLike
    from softprompt.library.library import Library
    from softprompt.lifecycle.learning import Learning

STEPS = 16
"""Of training at most."""

Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Corrected(Record):
    """A task's new version beside the one that answered wrongly."""

    task: str
    old_version: int
    new_version: int | None
    """None where every correction was right already."""
    corrections: int
    fixed: float
    """The share of the corrections that are right now."""
    fixed_before: float
    """The same of the old version."""
    metric: str
    old: float | None
    """Of the old version, on the test rows of today."""
    value: float | None
    """Of the new one, on the same rows."""
    promoted: bool
    reason: str
    rows: int | None
    """Test rows."""
    replay: int
    """Rows that were trained on beside the corrections."""
    steps: int
    seconds: float


def correct(
    task: str,
    data: Rows | None = None,
    *,
    every: bool = False,
    steps: int = STEPS,
    task_file: TaskLike | None = None,
    library: Library | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Corrected:
    """Train the version that a task's name means a little further, on corrections that no version was made with yet, among a
    sample of its training rows and of earlier corrections. The new version is promoted to `production` where more of the
    corrections are right and it is not clearly worse on the test rows. Until then the old one stays what the name means.

    Args:
        task: of the library: TASK, TASK@N or TASK@ALIAS.
        data: more corrections, a file or rows in the task's form; they are kept with those that clients sent.
        every: also those that a version was made with already, as after the task was trained again without them.
        steps: of training at most, where the corrections are few; of many it takes as many as go through all.
        task_file: the task, for a version that came without.
        library: by default the one in the current home.
        base: a base that is loaded already, or how to load one; by default as the version names it.
        progress: where to report to.
        stop: training stops once it is set, and nothing is published.

    Raises:
        NotFound: there is no such task or version, or no correction.
        ConfigError: the library does not keep its task file, or it is an ensemble.
        DataError: a correction or its rows cannot be read.
        FingerprintMismatch: the base is another one than the version's.
        TrainingError, TrainingStopped: it could not be trained, or was stopped.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps train nothing; give 1 or more")
    shown, began = progress or Silent(), time.perf_counter()
    with library_or_current(library) as opened:
        opened.registry.database.check_writable()
        move = Move(opened.registry.resolve(task))
        (given,) = load_tasks(task_file) if task_file is not None else (None,)
        made, told = remake(opened, move.old, given)
        move.remarks += told
        made.form = replace(Form.of_card(move.old.card), retriever=made.form.retriever)
        more = _read(made, data) if data is not None else {}
        len(made.train)  # what is wrong with the rows, and where the base is, is told before torch is loaded
        check_before_loading(move.old, base, named_base(opened, move.old))
        opened.registry.feedback.add_corrections(move.old.task, move.old.number, more)
        kept = opened.registry.feedback.corrections(move.old.task)
        now = [one for one in kept if every or one.used_by is None or one.row in more.values()]
        now.sort(key=lambda one: one.row in more.values())  # what is said now is the last word
        if not now:
            learnt = f"; add --every to learn again the {len(kept)} there are" if kept else ""
            raise NotFound(
                f"task {move.old.task!r} has no correction that no version was made with{learnt}; send some to "
                "/v1/feedback, or name a file with --data"
            )
        with loading_torch(shown):
            from softprompt.lifecycle.gate import card_on, keep_in_place, promote_if_as_good, refresh_suites
            from softprompt.lifecycle.learning import Learning
            from softprompt.lifecycle.loaded import load_pair
            from softprompt.model.architecture import architecture_of
        loaded, prompt = load_pair(opened, move.old, base, shown)
        learning = Learning(architecture_of(loaded), made, prompt, now, kept, steps, shown)
        before = learning.best.fixed
        if before == 1.0:
            learning.learnt(opened, move.old)
            move.remarks.append("every correction is right already")
            return _row(learning, move, before, time.perf_counter() - began)
        learning.train(shown, stop)
        keep_in_place(opened, move.old, "kept in place while corrections are learnt")
        move.card, move.task = card_on(made, prompt, learning.engine), made
        move.remarks += refresh_suites(opened, move.old, learning.engine, shown, made)
        move.new = learning.publish(opened, move.old, move.card)
        if learning.best.fixed > before:
            promote_if_as_good(opened, move, learning.engine, shown)
        else:
            move.remarks.append("not promoted: no more corrections are right than before")
        learning.learnt(opened, move.new)  # not before: of a call that was cut short they are learnt by the next one
        return _row(learning, move, before, time.perf_counter() - began)


def _read(task: Task, data: Rows) -> dict[str, dict[str, Any]]:
    """Corrections of a file or a program, by names of their own, each with the columns that the task reads."""
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
        rows = read_rows(find_file(name, Path.cwd()), name)
    else:
        rows = rows_in_memory(data, "corrections", "the corrections")
    source = Source.read(task.form.answered, rows, "the corrections", f"task {task.name!r}, ")
    read = [{name: row[name] for name in (*task.form.texts(row, "a row"), task.form.target_field)} for row in source.rows]
    return {f"row-{hashlib.sha256(canonical(row)).hexdigest()[:32]}": row for row in read}


def _row(learning: Learning, move: Move, before: float, seconds: float) -> Corrected:
    """What became of it."""
    old = figures_of(move.card or move.old.card)
    new = figures_of(move.new.card) if move.new is not None else None
    if learning.in_test:
        move.remarks.append(f"{plural(learning.in_test, 'test row')} have the input of a correction")
    return Corrected(
        task=move.old.task,
        old_version=move.old.number,
        new_version=None if move.new is None else move.new.number,
        corrections=learning.corrections,
        fixed=learning.best.fixed,
        fixed_before=before,
        metric=move.old.card.metric,
        old=None if old is None else old.value,
        value=None if new is None else new.value,
        promoted=move.promoted,
        reason="; ".join(move.remarks),
        rows=None if new is None else new.rows,
        replay=learning.replay,
        steps=learning.run.step,
        seconds=round(seconds, 2),
    )
