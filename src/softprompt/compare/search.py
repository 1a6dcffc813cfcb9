"""The search for a method's learning rate within its budget.

Each method that trains is tried at the same number of rates around its usual one, each for the same share of its steps, and
judged on validation rows; the best rate gets the whole of them. What is searched for one method is searched for all.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.compare.budget import Budget
from softprompt.compare.method import Method
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import TrainingError
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.progress import Advance, Mute, Progress
from softprompt.rows.sources import Row
from softprompt.tasks.config.schedule import total_steps
from softprompt.tasks.task import Task

SHARE = 0.25
"""Of a method's steps, those that each rate is tried for."""
PROBE = 5
"""Steps whose time says how many fit into seconds."""


@dataclass(frozen=True)
class Found:
    """What a search, or a look at the clock, came to."""

    task: Task
    """The task with the steps that are to be taken."""
    factor: float = 1.0
    """Of the usual rate."""
    tried: tuple[dict[str, Any], ...] = ()
    """A row for each rate: `rate`, `steps`, and on the validation rows `value` and `loss`, or `error`."""
    seconds: float = 0.0
    """Of all that."""

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest, so that a better one may lie beyond."""
        rates = [row["rate"] for row in self.tried if row.get("chosen")]
        known = [row["rate"] for row in self.tried if "rate" in row]
        return len(known) > 2 and bool(rates) and rates[0] in (min(known), max(known))


def find(method: Method, task: Task, base: FrozenBase, budget: Budget, progress: Progress) -> Found:
    """The steps that a method takes, and the rate that does best in a share of them.

    Raises:
        TrainingError: it could be trained at no rate.
    """
    began, pace = time.perf_counter(), None
    total = total_steps(task.config, len(task.train))
    if budget.max_seconds is not None:
        with progress.stage("probe", 1) as advance:
            pace = _pace_of(method, task, base)
            advance(1, "")
        total = pace.steps_in(budget.max_seconds)
    if budget.rates == 1 or not method.searched:
        return Found(ranged(task, max_steps=total), seconds=time.perf_counter() - began)
    own = _apart(task, max(1, round(SHARE * total)))
    rows, reports, spent = list[dict[str, Any]](), list[Report | None](), list[float]()
    steps = own.config.max_steps or 1
    with progress.stage("rates", budget.rates * steps) as advance:
        for factor in budget.factors:
            started, heard = time.perf_counter(), _Steps(lambda: advance(1, ""))
            row: dict[str, Any] = {"steps": steps}
            try:
                trained = method.train(own, base, heard, factor)
                spent.append(time.perf_counter() - started)
                engine = OfflineEngine(trained.architecture)
                (report,) = result_of(judge(engine, [Trial(own.form, trained.vectors_PD, trained.test)]))
            except TrainingError as error:
                rows.append(row | {"error": str(error)})
                reports.append(None)
            else:
                loss = report.loss if report.loss == report.loss else None
                rows.append({"rate": trained.rate} | row | {"value": report.value, "loss": loss, "rows": report.rows})
                reports.append(report)
            advance(steps - heard.count, f"rate {rows[-1].get('rate', 'failed')}")
    best = _best(reports)
    if best is None:
        raise TrainingError(f"task {task.name!r}: {rows[-1]['error']}; none of {budget.rates} rates came through")
    rows[best]["chosen"] = True
    if pace is not None and budget.max_seconds is not None:
        total = pace.slowed(statistics.median(spent), steps).steps_in(budget.max_seconds)
    return Found(ranged(task, max_steps=total), budget.factors[best], tuple(rows), time.perf_counter() - began)


def _best(reports: list[Report | None]) -> int | None:
    """The place of the best report, by the metric, then by the loss; the first of equal ones."""
    best: int | None = None
    for place, report in enumerate(reports):
        held = None if best is None else reports[best]
        if report is not None and (held is None or not held.better_than(report)):
            best = place
    return best


def ranged(task: Task, **changes: Any) -> Task:
    """A task with other keys, and the range of numbers that its own training rows have."""
    other = task.variant(**changes) if changes else task
    other.form = other.form.within([other.form.answer(row, "a training row") for row in other.train])
    return other


def _apart(task: Task, steps: int) -> Task:
    """The task whose validation rows are its test rows, for so many steps: what is held out, or where rows are too few for
    that, a fold of the training rows."""
    train, held = list[Row](task.train), list[Row](task.validation)
    if task.folds:
        places = set(task.folds[0])
        held = [row for place, row in enumerate(train) if place in places]
        train = [row for place, row in enumerate(train) if place not in places]
    return ranged(task, data={"train": train, "validation": held, "test": held}, max_steps=steps)


@dataclass(frozen=True)
class _Pace:
    """How long a training takes."""

    fixed: float
    """Seconds beside its steps."""
    step: float
    """Seconds of a step."""

    def steps_in(self, seconds: float) -> int:
        """How many steps are over within so many seconds; one at least."""
        return max(1, int((seconds - self.fixed) / max(self.step, 1e-9)))

    def slowed(self, seconds: float, steps: int) -> _Pace:
        """The pace by a longer training, where that is slower: validations are among its steps."""
        return _Pace(self.fixed, max(self.step, (seconds - self.fixed) / steps))


def _pace_of(method: Method, task: Task, base: FrozenBase) -> _Pace:
    times = list[float]()
    began = time.perf_counter()
    method.train(ranged(task, max_steps=PROBE), base, _Steps(lambda: times.append(time.perf_counter())))
    taken = time.perf_counter() - began
    gaps = [after - before for before, after in itertools.pairwise(times)]
    step = statistics.median(gaps) if gaps else 0.0
    return _Pace(max(0.0, taken - PROBE * step), step)


class _Steps(Mute):
    """Hears of each step of a training, and says nothing."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__()
        self._heard, self.count = heard, 0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, text: str) -> None:
            for _ in range(steps if name == "train" else 0):
                self.count += 1
                self._heard()

        yield advance
