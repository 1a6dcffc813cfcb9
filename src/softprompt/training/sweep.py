"""Sweeps: many candidates of one task in one session, the losers dropped on the way.

All candidates share the base's forward pass of a step; what differs is anything that a task file can say: rate, initialiser,
length, template, seed. Successive halving (Jamieson and Talwalkar, 2016): at each rung the worse half by validation stops.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, base_of
from softprompt.errors import ConfigError, TrainingError, TrainingStopped
from softprompt.evaluation.trials import Report
from softprompt.files import write_whole
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.card import goodness
from softprompt.rows.sources import digest_rows
from softprompt.rows.values import short
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.tasks.task import Task
from softprompt.training.events import Advanced, Event, Failed, Resumed, Stepped, Stopped, Trained, draw
from softprompt.training.member import Member, Tuned
from softprompt.training.session import Session
from softprompt.training.steps.loop import processes_started
from softprompt.training.steps.run import Run
from softprompt.training.train import library_for

if TYPE_CHECKING:
    from softprompt.library.library import Library

EARLIEST = 4
"""Rungs at most: the first of four is a sixteenth of the steps, and before that a prompt has hardly begun to learn."""


@dataclass(frozen=True)
class Swept:
    """What came of a sweep."""

    tuned: Tuned
    """The survivor, judged on the test split."""
    candidates: list[dict[str, Any]]
    """A row for each candidate, the best first: its changes, steps, validation score with its standard error and rows, and
    whether it was dropped."""
    histories: list[list[dict[str, float]]]
    """The validations of each candidate, in the same order."""

    def __repr__(self) -> str:
        return f"Swept({self.tuned!r}, the best of {len(self.candidates)})"


def make_grid(choices: Mapping[str, Sequence[Any]], samples: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Every combination of the choices, or so many drawn at random without repetition.

    Raises:
        ConfigError: no choices, a key with none or with no list of them, or no samples.
    """
    for key, values in choices.items():
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise ConfigError(f"the choices of {key!r} are {short(values, 60)}; give a list of values, such as [{values!r}]")
    if not choices or not all(choices.values()):
        raise ConfigError("there is nothing to sweep over; give choices, such as learning_rate=0.03,0.1,0.3")
    if samples is not None and samples < 1:
        raise ConfigError(f"{samples} samples are none; draw at least one")
    size = math.prod(len(values) for values in choices.values())
    drawn = range(size) if samples is None or samples >= size else random.Random(seed).sample(range(size), samples)
    return [_combination(choices, index) for index in drawn]


def _combination(choices: Mapping[str, Sequence[Any]], index: int) -> dict[str, Any]:
    """A combination by its number; the last key changes fastest."""
    picked: dict[str, Any] = {}
    for key in reversed(list(choices)):
        index, place = divmod(index, len(choices[key]))
        picked[key] = choices[key][place]
    return {key: picked[key] for key in choices}


def rungs_for(candidates: int) -> tuple[float, ...]:
    """Shares of a candidate's steps at which the worse half is dropped: half and a quarter, and for each doubling beyond
    eight candidates one more before these, so that twice as many cost one whole run more. 8 candidates cost 4 whole runs, 32
    cost 6."""
    return tuple(0.5**rung for rung in range(min(EARLIEST, max(2, math.ceil(math.log2(candidates)) - 1)), 0, -1))


def sweep(
    task: TaskLike,
    choices: Mapping[str, Sequence[Any]],
    *,
    samples: int | None = None,
    rungs: Sequence[float] | None = None,
    base: BaseLike = None,
    library: Library | None = None,
    publish: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Swept:
    """Train candidates of one task at once, drop the losers early, and publish the survivor.

    Args:
        task: the task, whose keys the candidates change.
        choices: for keys of a task file, the values to try.
        samples: draw so many combinations at random instead of trying all.
        rungs: shares of the steps at which the worse half is dropped, by the best validation until then or one at that
            step, whichever is more, of which a candidate's own training knows nothing; by default by how many candidates
            there are: half and a quarter, from 9 on an eighth too and from 17 a sixteenth; empty to keep all to the end.
        base: a base that is loaded already, or how to load one; where nothing is said, as the task names it.
        library: where the survivor is published; by default the library of the current home.
        publish: False to keep nothing.
        stop: the sweep stops once it is set; the same call goes on from there.

    Raises:
        ConfigError: a candidate is wrong, or a launcher has started several processes; nothing was trained.
        NameRefused: a candidate has a name that the library would refuse.
        TrainingError: no candidate came through.
        TrainingStopped: the sweep was stopped.
    """
    if (processes := processes_started()) > 1:
        raise ConfigError(f"a sweep runs in one process, and {processes} were started; start it without the launcher")
    (original,) = load_tasks(task)
    grid = make_grid(choices, samples, original.config.seed)
    with library_for(library, publish) as kept:
        return _sweep(
            original, grid, rungs_for(len(grid)) if rungs is None else rungs, base, kept, progress or Silent(), stop
        )


def _sweep(
    original: Task,
    grid: Sequence[Mapping[str, Any]],
    rungs: Sequence[float],
    base: BaseLike,
    library: Library | None,
    progress: Progress,
    stop: threading.Event | None,
) -> Swept:
    tasks = [load_tasks(original.variant(**changes))[0] for changes in grid]
    _check_comparable(tasks)
    architecture = architecture_of(base_of(base, one_base(tasks), progress))
    session = Session(architecture, library=library, salt=salt_of(rungs), stop=stop)
    candidates = [session.add(candidate, publishes=False) for candidate in tasks]
    halving = Halving(session, candidates, rungs)
    ranked: list[int] = []
    for event in draw(_with_candidates(session.run(), candidates), progress):
        if isinstance(event, Failed) and not event.trained:
            raise event.error
        if isinstance(event, Stopped):
            raise TrainingStopped("stopped; call the same command again to go on")
        halving.heed(event)
        if isinstance(event, Trained) and not ranked:
            ranked = sorted(range(len(candidates)), key=lambda index: _rank(candidates[index].run), reverse=True)
            winner = candidates[ranked[0]]
            if winner.run.best is not None and winner.run.failure is None:
                winner.recipe["sweep"] = [_row(candidates[index].run, grid[index]) for index in ranked]
                winner.publishes = True
    winner = candidates[ranked[0]]
    if winner.tuned is None:
        if winner.run.failure is None and winner.error is not None:
            raise winner.error
        reasons = "; ".join(sorted({member.run.failure for member in candidates if member.run.failure}))
        raise TrainingError(f"no candidate of task {original.name!r} came through: {reasons}; lower the rates")
    return Swept(winner.tuned, winner.recipe["sweep"], [candidates[index].run.history for index in ranked])


def _check_comparable(tasks: Sequence[Task]) -> None:
    """Refuse candidates whose scores would not be of one metric on the same rows."""
    if len(metrics := {task.form.metric for task in tasks}) > 1:
        raise ConfigError(
            f"a sweep compares its candidates by one metric, and these have {', '.join(sorted(metrics))}; give `metric` one"
        )
    if len({(str(task.config.data), task.config.max_eval_samples) for task in tasks}) > 1 and (
        len({digest_rows(task.validation) for task in tasks}) > 1
    ):
        raise ConfigError(
            "a sweep compares its candidates on the same validation rows, and these have others; "
            "give `data.validation` a file, and `max_eval_samples` one value"
        )


def salt_of(rungs: Sequence[float]) -> str:
    """What gives a sweep of other rungs a checkpoint of its own."""
    return f"rungs {sorted(rungs)}"


def _alive(candidates: Sequence[Member]) -> list[Member]:
    living = [member for member in candidates if member.error is None]
    return [member for member in living if not member.run.dropped and member.run.failure is None]


def _with_candidates(events: Iterator[Event], candidates: Sequence[Member]) -> Iterator[Event]:
    """Events whose stage of training says how many candidates are left."""
    for event in events:
        if isinstance(event, Advanced) and event.stage == "train":
            alive = [member.run for member in _alive(candidates)]
            values = [run.best.value for run in alive if run.best is not None]
            metric = candidates[0].task.form.metric
            best = f", best {max(values, key=lambda value: goodness(metric, value)):.3f}" if values else ""
            event = replace(event, stage="sweep", text=f"{len(alive)} candidate{'s'[: len(alive) > 1]}{best}")
        yield event


class Halving:
    """Drops the worse half of the living candidates when all of them have come to a rung, or ended before it. They are
    judged there, whether a validation of theirs is due or not: where epochs are long, theirs come far behind early rungs."""

    def __init__(self, session: Session, candidates: Sequence[Member], rungs: Sequence[float]) -> None:
        self._session, self.candidates = session, candidates
        self._rungs = sorted(rungs)

    @property
    def alive(self) -> list[Member]:
        """Candidates that are neither dropped nor failed, the best first by their own validations; all of them must be
        prepared."""
        return sorted(_alive(self.candidates), key=lambda member: _rank(member.run), reverse=True)

    def _passed(self) -> bool:
        runs = [member.run for member in _alive(self.candidates)]
        return bool(self._rungs) and all(not run.running or run.step >= self._rungs[0] * run.total for run in runs)

    def heed(self, event: Event) -> None:
        """Drop the worse half at each rung that a step has come to: at once, so that a checkpoint has none that was not
        acted on; and forget those that were passed before the checkpoint that a session goes on from."""
        judged = False
        while isinstance(event, Resumed | Stepped) and self._passed():
            self._rungs = self._rungs[1:]
            if isinstance(event, Resumed):
                continue
            living = _alive(self.candidates)
            if not judged:
                self._judge(living)
                judged = True
            ranked = sorted(living, key=lambda member: _standing(member.run.rung), reverse=True)
            for member in ranked[(len(ranked) + 1) // 2 :]:
                self._session.drop(member)

    def _judge(self, living: Sequence[Member]) -> None:
        """Let candidates know what they are compared by."""
        due = [one for one in living if one.run.running and not _judged_now(one.run)]
        now = {id(member): report for member, report in zip(due, self._session.judge(due), strict=True)}
        for member in living:
            report, best = now.get(id(member)), member.run.best
            member.run.rung = best if report is None or (best is not None and best.better_than(report)) else report


def _judged_now(run: Run) -> bool:
    return bool(run.history) and run.history[-1]["step"] == run.step


def _rank(run: Run) -> tuple[bool, bool, float, float]:
    """By which runs compare at the end: those that live, by their best validation, before those that were dropped."""
    return (run.failure is None, not run.dropped, *_standing(_told_of(run)))


def _standing(report: Report | None) -> tuple[float, float]:
    """By the metric, then the loss; the least for what has no report."""
    return (-math.inf, -math.inf) if report is None else (goodness(report.metric, report.value), -report.loss)


def _told_of(run: Run) -> Report | None:
    """What is said of a candidate: its best validation, of one that was dropped what it was dropped by."""
    return run.rung if run.dropped and run.rung is not None else run.best


OUTCOME = ("steps", "validation", "validation_stderr", "rows", "dropped")
"""What a candidate's row says beside its changes."""


def _row(run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
    told = _told_of(run)
    return {
        **changes,
        "steps": run.step,
        "validation": told.value if told is not None else None,
        "validation_stderr": told.stderr if told is not None else None,
        "rows": len(run.validation),
        "dropped": run.dropped or run.failure is not None,
    }


def write_page(
    file: Path, task: str, candidates: Sequence[Mapping[str, Any]], histories: Sequence[Sequence[Mapping[str, float]]]
) -> Path:
    """Write validation score and training loss against steps, a line for each candidate."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, subplot_titles=("validation score", "training loss"))
    palette = [f"hsl({360 * index // max(1, len(candidates))},60%,45%)" for index in range(len(candidates))]
    for candidate, history, colour in zip(candidates, histories, palette, strict=True):
        changes = {k: v for k, v in candidate.items() if k not in OUTCOME}
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) + (" (dropped)" if candidate["dropped"] else "")
        steps = [row["step"] for row in history]
        for place, key in ((1, "value"), (2, "loss")):
            figure.add_trace(
                go.Scatter(
                    x=steps,
                    y=[row[key] for row in history],
                    name=name,
                    legendgroup=name,
                    showlegend=place == 1,
                    mode="lines+markers",
                    line={"color": colour, "dash": "dot" if candidate["dropped"] else "solid"},
                ),
                row=place,
                col=1,
            )
    figure.update_layout(title=f"Sweep of {task}: {len(candidates)} candidates", height=760, template="plotly_white")
    figure.update_xaxes(title_text="step", row=2, col=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, figure.to_html(include_plotlyjs=True).encode())
    return file
