"""Tuning a large library of prompts on a Ray cluster, in one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.bases.options import BaseOptions
from softprompt.cluster import Place, cluster
from softprompt.errors import ConfigError, TrainingError, TrainingStopped
from softprompt.progress import Progress, Silent
from softprompt.tasks.load import TaskLike, check_before_loading, load_tasks, one_base
from softprompt.training.checkpoint import EVERY_SECONDS
from softprompt.training.events import draw
from softprompt.training.member import Tuned
from softprompt.training.train import library_for
from softprompt.training.workers.driver import Driver, Outcome
from softprompt.training.workers.on_ray import RayLauncher
from softprompt.training.workers.work import cut

if TYPE_CHECKING:
    from softprompt.library.library import Library


def train_on_ray(
    tasks: TaskLike | Sequence[TaskLike],
    *,
    base: BaseOptions | str | None = None,
    library: Library | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    address: str | None = None,
    workers: int = 2,
    processes: int = 1,
    bank_size: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    every: float = EVERY_SECONDS,
) -> list[Tuned]:
    """Tune a soft prompt for each task as :func:`softprompt.train` does, in banks that workers on Ray train. A lost worker's
    bank goes on elsewhere from its last checkpoint. Prompts are published here alone, in the order of tasks, each once.

    A prompt is bit for bit the one of a training of its bank's tasks on one machine of this kind, with as many threads. On a
    base that is batch invariant it is so whatever the banks are; otherwise other banks change what rounding changes, as do
    `processes`.

    Args:
        tasks: see :func:`softprompt.train`.
        base: how to load the base, on every machine; where nothing is said, as the tasks name it.
        library: where the prompts are published; by default the one in the current home. Workers do not see it.
        progress: where to report to.
        stop: training stops once it is set; the same call goes on from there.
        address: of the Ray that runs, or `auto`; None starts one on this machine.
        workers: how many banks are trained at the same time.
        processes: of each worker, which share the rows of every step of its bank.
        bank_size: tasks of a bank; by default in equal parts for the workers, 16 at most.
        cpus: of its machine that each process takes.
        gpus: likewise.
        every: seconds between checkpoints.

    Raises:
        ConfigError: a task is wrong, there is no Ray, or no room on it; nothing was trained.
        BaseModelError: a worker cannot load the base, or has another one than the others.
        TrainingError: some prompt could not be trained, or no worker is left. Those that could be are published.
        TrainingStopped: training was stopped; likewise.
    """
    for name, value in (("workers", workers), ("processes", processes), ("bank_size", bank_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; give 1 or more")
    shown, options = progress or Silent(), BaseOptions.of(base)
    loaded = load_tasks(tasks)
    check_before_loading(loaded, options)
    for task in loaded:
        if task.config.data is not None and task.config.data.subsets:
            raise ConfigError(
                f"task {task.name!r}: subsets are combined with the base at hand, which workers alone have; leave them "
                "out, or train this task without Ray"
            )
    options = options.over(one_base(loaded))
    if options.batch_invariant and processes > 1:
        raise ConfigError(
            f"{processes} processes add up their shares of a step in an order of their own, and the last bits go with it; "
            "leave out --batch-invariant, or --processes"
        )
    with library_for(library, True) as kept:
        assert kept is not None
        works = cut(loaded, workers, bank_size, base=options, library=kept, every=every)
        place, most = Place(cpus=cpus, gpus=gpus), min(workers, len(works)) * processes
        with cluster(address, place, most, name="worker", option="--workers or --processes") as here:
            launcher = RayLauncher(options, place, processes, here=here)
            driver = Driver(launcher, works, kept, workers=workers, stop=stop)
            for _ in draw(driver.run(), shown):
                pass
        if driver.stopped:
            raise TrainingStopped(f"stopped; {_well(driver.outcomes)}call the same command again to go on")
        _check(driver.outcomes)
        return [one.tuned for one in driver.outcomes if one.tuned is not None]


def _check(outcomes: Sequence[Outcome]) -> None:
    """Raises the error of tasks that failed, where there are any."""
    failed = [(one.task, one.wrong) for one in outcomes if one.wrong is not None]
    if not failed:
        return
    if len(failed) == 1 and not failed[0][1].diverged:
        raise failed[0][1].error
    causes = "; ".join(f"task {task!r}: {wrong.error}" for task, wrong in failed)
    mend = "lower learning_rate or use float32" if any(wrong.diverged for _, wrong in failed) else "mend that"
    raise TrainingError(f"{causes}; {mend}; {_well(outcomes)}".removesuffix("; "))


def _well(outcomes: Sequence[Outcome]) -> str:
    names = [one.task for one in outcomes if one.tuned is not None]
    return f"{', '.join(names)} went well; " if names else ""
