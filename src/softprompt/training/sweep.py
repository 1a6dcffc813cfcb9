"""Sweeps: many candidates of one task in one bank, the losers dropped on the way.

All candidates share the base's forward pass of a step; what differs is anything that a task file can say: rate, initialiser,
length, template, seed. Successive halving (Jamieson and Talwalkar, 2016): at each rung the worse half by validation stops.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, TrainingError
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.training.checkpoint import Keeper
from softprompt.training.loop import train_bank
from softprompt.training.parallel import processes_started
from softprompt.training.prepare import TaskLike, load_tasks, one_base, prepare
from softprompt.training.run import Run
from softprompt.training.tune import Tuned, finish, judge_runs, make_prompt, measure_baselines

if TYPE_CHECKING:
    from softprompt.library.library import Library

RUNGS = (0.25, 0.5)
"""Shares of a candidate's steps at which the worse half is dropped."""


@dataclass(frozen=True)
class Swept:
    """What came of a sweep."""

    tuned: Tuned
    """The survivor, judged on the test split."""
    candidates: list[dict[str, Any]]
    """A row for each candidate, the best first: its changes, steps, validation score, and whether it was dropped."""
    histories: list[list[dict[str, float]]]
    """The validations of each candidate, in the same order."""


def make_grid(choices: Mapping[str, Sequence[Any]], samples: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Every combination of the choices, or so many drawn at random without repetition.

    Raises:
        ConfigError: no choices, a key with none, or no samples.
    """
    if not choices or not all(choices.values()):
        raise ConfigError("a sweep needs choices, such as learning_rate=0.03,0.1,0.3")
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


def sweep(
    task: TaskLike,
    choices: Mapping[str, Sequence[Any]],
    *,
    samples: int | None = None,
    rungs: Sequence[float] = RUNGS,
    base: FrozenBase | None = None,
    library: Library | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quantization: str | None = None,
    progress: Progress | None = None,
) -> Swept:
    """Train candidates of one task at once, drop the losers early, and publish the survivor.

    Args:
        task: the task, whose keys the candidates change.
        choices: for keys of a task file, the values to try.
        samples: draw so many combinations at random instead of trying all.
        rungs: shares of the steps at which the worse half is dropped; empty to keep all to the end.

    Raises:
        ConfigError: a candidate is wrong, or a launcher has started several processes; nothing was trained.
        NameRefused: a candidate has a name that the library would refuse.
        TrainingError: no candidate came through.
    """
    progress = progress or Silent()
    started = time.perf_counter()
    if (processes := processes_started()) > 1:
        raise ConfigError(f"a sweep runs in one process, and {processes} were started; start it without the launcher")
    (original,) = load_tasks(task)
    grid = make_grid(choices, samples, original.config.seed)
    tasks = [load_tasks(original.variant(**changes))[0] for changes in grid]
    if base is None:
        base = FrozenBase.load(one_base(tasks), dtype=dtype, device=device, quantization=quantization)
    architecture = architecture_of(base)
    runs = prepare(tasks, base, library, progress)
    tests = [one.encode(base, one.test, one.config.num_virtual_tokens, split="test") for one in tasks]
    halving = _Halving(runs, rungs)
    with progress.stage("sweep", sum(run.total for run in runs)) as advance:
        counted = 0

        def on_step(took: Sequence[Run]) -> None:
            nonlocal counted
            if took:
                halving.drop()
            else:
                halving.skip_passed()
            done = sum(run.total if run.dropped else run.step for run in runs)
            advance(done - counted, f"{len(halving.alive())} candidates, best {_best_value(runs):.3f}")
            counted = done

        keeper = Keeper(library.runs, base, runs, progress, rungs=rungs) if library is not None else None
        train_bank(architecture, runs, on_step, keeper, progress)
    ranked = sorted(range(len(runs)), key=lambda index: _rank(runs[index]), reverse=True)
    winner = runs[ranked[0]]
    if winner.best is None or winner.failure is not None:
        reasons = "; ".join(sorted({run.failure for run in runs if run.failure}))
        raise TrainingError(f"no candidate of task {original.name!r} came through: {reasons}; lower the rates")
    rows = [_row(runs[index], grid[index]) for index in ranked]
    test = tests[ranked[0]]
    (baselines,) = measure_baselines(architecture, [winner], [test], progress)
    (report,) = judge_runs(architecture, [winner], [test], progress)
    prompt = make_prompt(architecture, winner, report, baselines, {"sweep": rows})
    (tuned,) = finish(base, [winner], [test], [prompt], [report], library, started, progress)
    if keeper is not None:
        keeper.discard()
    return Swept(tuned, rows, [runs[index].history for index in ranked])


class _Halving:
    """Drops the worse half of the living runs when all of them have passed a rung, or ended before it."""

    def __init__(self, runs: Sequence[Run], rungs: Sequence[float]) -> None:
        self._runs = runs
        self._rungs = sorted(rungs)

    def alive(self) -> list[Run]:
        return [run for run in self._runs if not run.dropped and run.failure is None]

    def _passed(self) -> bool:
        if not self._rungs:
            return False
        rung = self._rungs[0]
        return all(run.best is not None and (run.step >= rung * run.total or not run.running) for run in self.alive())

    def skip_passed(self) -> None:
        """Forget the rungs that were passed, and acted on, before a checkpoint."""
        while self._passed():
            self._rungs = self._rungs[1:]

    def drop(self) -> None:
        """Drop the worse half at each rung that is passed: at once, so that a checkpoint has none that was not acted on."""
        while self._passed():
            self._rungs = self._rungs[1:]
            ranked = sorted(self.alive(), key=_rank, reverse=True)
            for run in ranked[(len(ranked) + 1) // 2 :]:
                run.dropped = True


def _rank(run: Run) -> tuple[bool, bool, float, float]:
    """By which runs compare: those that live, then the metric, then the loss."""
    if run.best is None:
        return (False, False, 0.0, 0.0)
    loss = run.best.loss if run.best.loss == run.best.loss else 0.0
    return (run.failure is None, not run.dropped, run.best.value, -loss)


def _best_value(runs: Sequence[Run]) -> float:
    return max((run.best.value for run in runs if run.best is not None), default=0.0)


def _row(run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **changes,
        "steps": run.step,
        "validation": run.best.value if run.best is not None else None,
        "dropped": run.dropped or run.failure is not None,
    }
