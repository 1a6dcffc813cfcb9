"""Corrections on their way into a prompt: what is trained on beside them, and which vectors are kept."""

from __future__ import annotations

import itertools
import math
import random
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import TrainingError, TrainingStopped
from softprompt.evaluation.trials import Report, Trial, answer, judge, report_of, report_tuned, result_of
from softprompt.lifecycle.personalize import few_steps
from softprompt.model.architecture import Architecture
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.progress import Progress
from softprompt.prompts.card import BASELINE_ROWS, BASELINES, Card, goodness
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Version
from softprompt.registry.traffic.feedback import Correction
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import digest_rows
from softprompt.tasks.form import HOW_ASKED, Form
from softprompt.tasks.splits import Source
from softprompt.tasks.task import Task
from softprompt.training.heads import start_head
from softprompt.training.member import Member
from softprompt.training.prepare import chosen, head_rate_of
from softprompt.training.publish import make_prompt, publish
from softprompt.training.steps.bank import Banks
from softprompt.training.steps.loop import Stepper
from softprompt.training.steps.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

EVERY = 4
"""Steps between two looks at the corrections: it ends when all are right."""
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


@dataclass(frozen=True, eq=False)
class Look:
    """What some vectors have right."""

    good: bool
    """Whether more corrections are right than by the start, and the validation rows are about as right."""
    fixed: float
    """The share of the corrections."""
    some: Report
    """Of the validation rows."""
    rows_PD: torch.Tensor
    step: int

    def better_than(self, other: Look) -> bool:
        """What is good goes before what is not, then what has more corrections right; then by the validation rows."""
        mine, theirs = (self.good, self.fixed), (other.good, other.fixed)
        return mine > theirs or (mine == theirs and self.some.better_than(other.some))


class Learning:
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
        for split, part in (("corrections", self.wrong), ("test", self.test)):
            for remark in part.remarks(f"{task.name}, {split}"):
                progress.warn(remark)
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
        self.start: Look | None = None
        self.start = self.best = self.look(self.run.start_PD, 0)

    def _encode(self, base: FrozenBase, rows: Sequence[dict[str, Any]], split: str) -> Any:
        """Rows of a split, with their passages where some are found for them."""
        finder = self.task.form.retriever
        found = (
            PlacedRows(rows, lambda place: f"row {place + 1} of the {split}") if not isinstance(rows, PlacedRows) else rows
        )
        found = found if finder is None else finder.fill_all(found)
        return self.task.encode(base, found, self.prompt.columns, split=split, unanswered=split == "test")

    def look(self, rows_PD: torch.Tensor, step: int) -> Look:
        """What is right by these vectors."""
        form, dtype = self.task.form, self.architecture.base.dtype
        trials = [Trial(form, rows_PD.to(dtype), rows, keeps_chances=rows is self.some) for rows in (self.wrong, self.some)]
        given, others = result_of(answer(self.engine, trials))
        wrong, some = report_of(trials[0], given), report_tuned(trials[1], others, fixed=True)
        first = self.start.some if self.start is not None else some
        slack = 0.0 if math.isnan(first.stderr) else first.stderr
        keeps = goodness(some.metric, some.value) >= goodness(first.metric, first.value) - slack
        fixed = _right(form, wrong, self.wrong.answers)
        gained = self.start is None or fixed > self.start.fixed
        return Look(keeps and gained, fixed, some, rows_PD.clone(), step)

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

    def _take(self, look: Look) -> None:
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
        member.recipe |= {key: old.card.recipe[key] for key in HOW_ASKED if key in old.card.recipe}
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
    """The share of answers that are just as they should be, blanks around them apart; of ordered labels those that are
    nearer to the right one than to any other."""
    said, right = form.judged(report.predictions, answers)
    if form.values:
        said = [repr(form.values[form.nearest(float(number))]) for number in said]
    return sum(one.strip() == other.strip() for one, other in zip(said, right, strict=True)) / len(answers)


def _baselines(card: Card, today: Card) -> dict[str, float] | None:
    """What a card knows of baselines, where they are of the same test rows."""
    if card.recipe.get("test_digest") != today.recipe.get("test_digest"):
        return None
    names = (BASELINE_ROWS, *BASELINES, *(f"{name}_stderr" for name in BASELINES))
    return {name: card.metrics[name] for name in names if name in card.metrics}
