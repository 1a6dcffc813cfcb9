"""Answers that were wrong, learnt: a few steps from the version that serves, among rows that it knows already."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import random
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, NotFound, TrainingError, TrainingStopped
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.binding import options_for
from softprompt.library.library import library_or_current
from softprompt.lifecycle.gate import card_on, keep_in_place, promote_if_as_good, refresh_suites
from softprompt.lifecycle.move import Move
from softprompt.lifecycle.personalize import few_steps
from softprompt.lifecycle.remake import named_base, remake
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.headed_encoder import HeadedEncoder
from softprompt.progress import Progress, Silent, loading
from softprompt.prompts.card import BASELINE_ROWS, BASELINES, Card, goodness
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.gate import figures_of
from softprompt.registry.records import Record, Version
from softprompt.registry.traffic.feedback import Correction
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import canonical, digest_rows, find_file, read_rows
from softprompt.tasks.form import Form
from softprompt.tasks.load import TaskLike, load_tasks
from softprompt.tasks.splits import Source
from softprompt.tasks.task import Task
from softprompt.text import plural
from softprompt.training.bank import Banks
from softprompt.training.heads import start_head
from softprompt.training.loop import Stepper
from softprompt.training.member import Member
from softprompt.training.prepare import chosen, head_rate_of
from softprompt.training.publish import make_prompt, publish
from softprompt.training.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

STEPS, EVERY = 16, 4
"""Of training, and between two looks at the corrections: it ends when all are right."""
BATCH = 48
RATE = 0.1
"""Of the default learning rate."""
REPLAY = 384
"""Rows beside the corrections, so that what they say is not all that the prompt knows."""
NEAR = 0.5
"""Of these, rows that are most like a correction, whose answers learning it would turn first."""
SHARE = 1 / 4
"""Of the corrections among the rows, where they are fewer: each comes as often as that takes."""
CHOOSING = 64
"""Validation rows that choose between two looks at which as many corrections are right."""

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
        len(made.train)  # what is wrong with the rows is told before a base is loaded
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
        if isinstance(base, FrozenBase):
            loaded = base
        else:
            options = options_for(move.old, BaseOptions.of(base), named_base(opened, move.old))
            with loading(shown, options.shown):
                loaded = base_of(options, options)
        prompt = SoftPrompt.from_bytes(opened.read(move.old), digest=move.old.digest)
        prompt.check_base(loaded)
        learning = _Learning(architecture_of(loaded), made, prompt, now, kept, steps, shown)
        before = learning.best.fixed
        if before == 1.0:
            learning.learnt(opened, move.old)
            move.remarks.append("every correction is right already")
            return learning.row(move, before, time.perf_counter() - began)
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
        return learning.row(move, before, time.perf_counter() - began)


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


@dataclass(frozen=True, eq=False)
class _Look:
    """What some vectors have right."""

    good: bool
    """Whether more corrections are right than by the start, and the validation rows are about as right."""
    fixed: float
    """The share of the corrections."""
    some: Report
    """Of the validation rows."""
    rows_PD: torch.Tensor
    step: int

    def better_than(self, other: _Look) -> bool:
        """What is good goes before what is not, then what has more corrections right; then by the validation rows."""
        mine, theirs = (self.good, self.fixed), (other.good, other.fixed)
        return mine > theirs or (mine == theirs and self.some.better_than(other.some))


class _Learning:
    """Corrections on their way into a prompt."""

    def __init__(
        self,
        architecture: Architecture,
        task: Task,
        prompt: SoftPrompt,
        now: Sequence[Correction],
        kept: Sequence[Correction],
        steps: int,
        progress: Progress,
    ) -> None:
        base, form = architecture.base, task.form
        self.architecture, self.task, self.prompt = architecture, task, prompt
        self.ids = [one.id for one in now]
        self.engine = OfflineEngine(architecture, warn=progress.warn)
        self._warn = progress.warn
        rows = _newest(form, [one.row for one in now])
        self.corrections = len(rows)
        texts = {form.input.fill(row, "a correction") for row in rows}
        earlier = [one.row for one in kept if one.id not in set(self.ids)]
        source = Source.read(form.answered, task.train, "the training rows")
        known = [(row, text) for row, text in zip(source.rows, source.inputs, strict=True) if text not in texts]
        random.Random(f"{task.config.seed} replay").shuffle(known)
        learnt = [row for row in _newest(form, earlier) if form.input.fill(row, "a correction") not in texts][-REPLAY // 2 :]
        replay = list(learnt)
        left = REPLAY - len(replay)
        near = set(_nearest([text for _, text in known], sorted(texts), round(left * NEAR)))
        replay += [row for place, (row, _) in enumerate(known) if place in near]
        replay += [row for place, (row, _) in enumerate(known) if place not in near][: left - len(near)]
        self.replay = len(replay)
        times = max(1, round(self.replay * SHARE / (1 - SHARE) / len(rows)))
        self.in_test = sum(form.input.fill(row, "a test row") in texts for row in task.test)
        encode = partial(self._encode, base)
        self.wrong, self.test = encode(rows, "corrections"), encode(task.test, "test")
        some = task.validation.part(task.draw(task.validation, CHOOSING)) if not task.folds else replay[:CHOOSING]
        self.some = encode([*some, *learnt], "validation")
        train = encode([*rows * times, *replay], "training")
        steps = max(steps, -(-3 * len(train) // (2 * BATCH)) if times == 1 else 0)
        labels = form.encode_labels(base) if form.labels else None
        config = chosen(few_steps(form, prompt, steps, BATCH, RATE), base, prompt.vectors_PD)
        start_PD, head_rate = prompt.vectors_PD, 1.0
        if isinstance(architecture, HeadedEncoder) and labels is not None:
            head, gain = start_head(architecture, task, labels, train, [prompt], start_PD.shape[1])
            head_rate = head_rate_of(gain, config, base, start_PD)
            start_PD = torch.cat([start_PD, head])
        self.run = Run(task, config, start_PD, train, self.some, labels, (prompt.digest,), head_rate)
        self.digest = digest_rows(rows)
        self.start: _Look | None = None
        self.start = self.best = self.look(self.run.start_PD, 0)

    def _encode(self, base: FrozenBase, rows: Sequence[dict[str, Any]], split: str) -> Any:
        """Rows of a split, with their passages where some are found for them."""
        finder = self.task.form.retriever
        found = (
            PlacedRows(rows, lambda place: f"row {place + 1} of the {split}") if not isinstance(rows, PlacedRows) else rows
        )
        found = found if finder is None else finder.fill_all(found)
        return self.task.encode(base, found, self.prompt.columns, split=split, unanswered=split == "test")

    def look(self, rows_PD: torch.Tensor, step: int) -> _Look:
        """What is right by these vectors."""
        form, dtype = self.task.form, self.architecture.base.dtype
        trials = [Trial(form, rows_PD.to(dtype), examples) for examples in (self.wrong, self.some)]
        wrong, some = result_of(judge(self.engine, trials))
        first = self.start.some if self.start is not None else some
        slack = 0.0 if math.isnan(first.stderr) else first.stderr
        keeps = goodness(some.metric, some.value) >= goodness(first.metric, first.value) - slack
        fixed = _right(form, wrong, self.wrong.answers)
        gained = self.start is None or fixed > self.start.fixed
        return _Look(keeps and gained, fixed, some, rows_PD.clone(), step)

    def train(self, progress: Progress, stop: threading.Event | None) -> None:
        """Take steps until every correction is right and the validation rows are as they were, or the steps are over: then
        also try half-way back, where something was forgotten."""
        run, stepper = self.run, Stepper(self.architecture, warn=self._warn)
        bank = Banks([run.start_PD], [run.rule], self.architecture.base.device)
        with progress.stage("correct", run.total) as advance:
            while run.running and not (self.best.good and self.best.fixed == 1):
                if stop is not None and stop.is_set():
                    raise TrainingStopped("stopped; nothing was published, and the corrections are kept")
                stepper.take(bank, [run])
                if run.failure:
                    raise TrainingError(f"task {self.task.name!r}: {run.failure}; use float32")
                if run.step % EVERY == 0 or not run.running:
                    self._take(self.look(bank.prompt(0), run.step))
                advance(1, f"{self.best.fixed:.0%} right")
        if not self.best.good:
            self._take(self.look((run.start_PD + self.best.rows_PD) / 2, self.best.step))
        run.best, run.best_PD, run.best_step = self.best.some, self.best.rows_PD, self.best.step

    def _take(self, look: _Look) -> None:
        """Keep the best but the start, which corrects nothing."""
        if self.best is self.start or look.better_than(self.best):
            self.best = look

    def publish(self, library: Library, old: Version, card: Card) -> Version:
        """Judge the best vectors on the test rows, and make them a version."""
        run = self.run
        assert run.best_PD is not None
        (report,) = result_of(judge(self.engine, [Trial(run.form, run.best_PD.to(self.architecture.base.dtype), self.test)]))
        member = Member(self.task, library, True, None, "")
        member.run, member.test, member.id = run, self.test, secrets.token_hex(16)
        member.baselines = _baselines(old.card, card)
        member.recipe["correct"] = {
            "from": old.ref, "corrections": self.corrections, "replay": self.replay, "digest": self.digest,
        }  # fmt: skip
        version, _, warnings = publish(member, make_prompt(self.architecture, member, report), self.architecture.base)
        for message in warnings:
            self._warn(message)
        assert version is not None
        return version

    def learnt(self, library: Library, version: Version) -> None:
        """Keep which version knows the corrections."""
        with library.registry.database.write() as connection:
            library.registry.feedback.used(connection, self.ids, version.number)

    def row(self, move: Move, before: float, seconds: float) -> Corrected:
        """What became of it."""
        old = figures_of(move.card or move.old.card)
        new = figures_of(move.new.card) if move.new is not None else None
        if self.in_test:
            move.remarks.append(f"{plural(self.in_test, 'test row')} have the input of a correction")
        return Corrected(
            task=move.old.task,
            old_version=move.old.number,
            new_version=None if move.new is None else move.new.number,
            corrections=self.corrections,
            fixed=self.best.fixed,
            fixed_before=before,
            metric=move.old.card.metric,
            old=None if old is None else old.value,
            value=None if new is None else new.value,
            promoted=move.promoted,
            reason="; ".join(move.remarks),
            rows=None if new is None else new.rows,
            replay=self.replay,
            steps=self.run.step,
            seconds=round(seconds, 2),
        )


def _newest(form: Form, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Corrections, of each input the one that came last."""
    by_input: dict[str, dict[str, Any]] = {}
    for row in rows:
        text = form.input.fill(row, "a correction")
        by_input.pop(text, None)
        by_input[text] = row
    return list(by_input.values())


def _nearest(texts: Sequence[str], to: Sequence[str], count: int) -> list[int]:
    """Places of the texts that are most like any of some others, by the words and pairs of words that they share: those that
    what is learnt of the others would be taken over to first."""
    others = [_parts(text) for text in to]
    likes = []
    for place, text in enumerate(texts):
        own = _parts(text)
        likes.append((-max(len(own & other) / len(own | other) for other in others), place))
    return [place for _, place in sorted(likes)[:count]]


def _parts(text: str) -> set[str]:
    words = text.lower().split()
    return {*words, *map(" ".join, itertools.pairwise(words))}


def _right(form: Form, report: Report, answers: Sequence[str]) -> float:
    """The share of answers that are just as they should be."""
    said, right = form.judged(report.predictions, answers)
    return sum(one == other for one, other in zip(said, right, strict=True)) / len(answers)


def _baselines(card: Card, today: Card) -> dict[str, float] | None:
    """What a card knows of baselines, where they are of the same test rows."""
    if card.recipe.get("test_digest") != today.recipe.get("test_digest"):
        return None
    names = (BASELINE_ROWS, *BASELINES, *(f"{name}_stderr" for name in BASELINES))
    return {name: card.metrics[name] for name in names if name in card.metrics}
