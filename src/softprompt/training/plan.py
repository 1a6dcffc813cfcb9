"""A plan: what a training is going to do, and the time and memory that it takes, from one measured step and a few judged
rows. Nothing is trained, published or written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, base_of
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, NotFound
from softprompt.evaluation.baselines import baseline_trials
from softprompt.evaluation.trials import judge, result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.meter import Meter
from softprompt.progress import Advance, Progress, Silent
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.tasks.task import Examples, Task
from softprompt.training.events import Advanced
from softprompt.training.prepare import Preparer
from softprompt.training.remarks import remarks_on, unwanted_tokens
from softprompt.training.steps.bank import Banks
from softprompt.training.steps.loop import Stepper, processes_started
from softprompt.training.steps.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

JUDGED = 32
"""Test rows of each task that are judged to see how long one takes; and rows for which the base is asked, where the
objective needs that."""


def plan(
    tasks: TaskLike | Sequence[TaskLike],
    *,
    base: BaseLike = None,
    library: Library | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What :func:`softprompt.train` would do with these tasks, and how long that takes here: by one step of all of them,
    measured behind one that is not, and by a few test rows of each; and by a few rows for which the base is asked, where the
    objective needs what it says. Nothing is trained, published or written.

    Args:
        tasks, base: as for :func:`softprompt.train`.
        library: where prompts to start from are; by default the one in the current home, if there is one.
        progress: where to report to.

    Returns a row for each task: its `steps`, the rows and tokens of one (`rows_per_step`, `tokens_per_step`), what was
    chosen (`objective`, `learning_rate`, `prompt_tuning_init`), the rows of each split, `validations` and `baseline_rows`;
    its share of a step's time (`step_seconds`); the seconds of all its steps, of baselines, validations and the final test,
    and of asking the base before the first step (`ask_seconds`), and their sum, `seconds`; where the prompt's own answers
    are looked at, `unwanted_tokens` and `unwanted_seconds` at most; and `peak_mb`, the base and what a step of all tasks
    takes beside it. A task that stops early takes less.

    Raises:
        ConfigError, DataError: a task is wrong, as for :func:`softprompt.train`; or a launcher started several processes.
        BaseModelError: the base cannot be used.
    """
    loaded = load_tasks(tasks)
    with ExitStack() as stack:
        if library is None:
            from softprompt.library.library import library_or_current

            with suppress(NotFound):
                library = stack.enter_context(library_or_current(None))
        return plan_tasks(loaded, base, library, progress or Silent())


def plan_tasks(tasks: Sequence[Task], base: BaseLike, library: Library | None, progress: Progress) -> list[dict[str, Any]]:
    """The rows of :func:`plan`; without a library there are no prompts to start from."""
    if (processes := processes_started()) > 1:
        raise ConfigError(f"a plan is made in one process, and {processes} were started; start it without the launcher")
    architecture = architecture_of(base_of(base, one_base(tasks), progress))
    prepared = list[tuple[Run, Examples, float]]()
    preparer = Preparer(architecture.base, architecture, progress.warn, most=JUDGED)
    for task in tasks:
        run, test, asking = _prepare(preparer, task, library)
        for message, warning in remarks_on(architecture.base, run):
            (progress.warn if warning else progress.note)(message)
        prepared.append((run, test, asking))
    engine = OfflineEngine(architecture, warn=progress.warn)
    with progress.stage("measure", 2 + len(tasks)) as advance:
        seconds, peak_mb = _measure_step(architecture, [run for run, _, _ in prepared], progress, advance)
        rows = []
        for run, test, asking in prepared:
            rows.append(_row(engine, run, test, seconds, asking, progress) | {"peak_mb": round(peak_mb, 1)})
            advance(1, run.task.name)
    return rows


def _prepare(preparer: Preparer, task: Task, library: Library | None) -> tuple[Run, Examples, float]:
    """A run, the rows that will judge it, and the seconds in which its training asks the base for what its objective needs:
    by the chunks of rows behind the first one, which has the instruction to run too, where there are such."""
    preparing, reached, total = preparer.preparing(task, library), list[tuple[int, float]](), 0
    try:
        while True:
            event = next(preparing)
            if isinstance(event, Advanced):
                reached.append((event.done, time.perf_counter()))
                total = event.total
    except StopIteration as end:
        run, test = end.value
    if not reached:
        return run, test, 0.0
    (_, began), (first, behind), (done, ended) = reached[0], reached[1], reached[-1]
    seconds = (ended - behind) / (done - first) if done > first else (behind - began) / first
    return run, test, behind - began + seconds * (total - first)


def _measure_step(
    architecture: Architecture, planned: Sequence[Run], progress: Progress, advance: Advance
) -> tuple[float, float]:
    """Seconds for each token of a step of all runs, and the MiB that it takes at most."""
    runs = [one for run in planned for one in (run, *run.folds)]
    bank = Banks([run.start_PD for run in runs], [run.rule for run in runs], architecture.base.device)
    stepper = Stepper(architecture, warn=progress.warn)
    tokens = sum(run.tokens_of(run.batch(0)) for run in runs)
    advance(0, "a first step")
    stepper.take(bank, runs)  # which takes longer than those behind it
    advance(1, "a second step")
    for run in runs:
        run.step, run.failure = 0, None  # the same rows again, also where there is no second step
    with Meter(architecture.base) as meter:
        stepper.take(bank, runs)
        meter.lap()
    advance(1, "answers")
    for run in planned:
        if run.failure is not None:
            progress.warn(f"{run.task.name}: {run.failure}; lower learning_rate or use float32")
    return meter.seconds / tokens, meter.peak_mb


def _row(
    engine: OfflineEngine, run: Run, test: Examples, seconds: float, asking: float, progress: Progress
) -> dict[str, Any]:
    """The plan of a run.

    Args:
        seconds: of each token of a step.
        asking: seconds in which the base is asked before the first one.
    """
    task, config, base = run.task, run.config, engine.architecture.base
    trials, warning = baseline_trials(base, task, run.start_PD, test)
    if warning is not None:
        progress.warn(warning)
    output = task.form.output_length(base)

    def tokens(*judged: Examples) -> int:
        return sum(len(ids) + output for examples in judged for ids in examples.inputs)

    some = replace(trials[-1], examples=trials[-1].examples.part(0, JUDGED))
    result_of(judge(engine, [replace(some, examples=some.examples.part(0, 1))]))
    began = time.perf_counter()
    result_of(judge(engine, [some]))
    judging = (time.perf_counter() - began) / tokens(some.examples)
    step = seconds * sum(one.tokens for one in (run, *run.folds))
    parts = {
        "ask_seconds": asking,
        "train_seconds": run.total * step,
        "baseline_seconds": judging * tokens(*(trial.examples for trial in trials)),
        "validation_seconds": judging * tokens(run.validation) * run.validations,
        "test_seconds": judging * tokens(test),
    }
    sampled = unwanted_tokens(run) * (1 + len(run.folds))
    if sampled:
        began = time.perf_counter()
        found = result_of(run.own_answers.sample(engine, run.start_PD, run.coming, 0))
        parts["unwanted_seconds"] = sampled * (time.perf_counter() - began) / max(1, found["tokens"])
    return {
        "task": task.name,
        "base": base.name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": str(base.device),
        "steps": run.total,
        "rows_per_step": min(config.per_device_train_batch_size, len(run.train)),
        "tokens_per_step": round(run.tokens),
        "num_virtual_tokens": config.num_virtual_tokens,
        "objective": config.objective_name,
        "learning_rate": config.learning_rate,
        "prompt_tuning_init": config.initializer,
        "train_rows": len(run.train),
        "validation_rows": 0 if run.folds else len(run.validation),
        "folds": len(run.folds),
        "validations": run.validations,
        "baseline_rows": len(trials[-1].examples),
        "test_rows": len(test),
        "step_seconds": round(step, 4),
        **{name: round(part, 2) for name, part in parts.items()},
        **({"unwanted_tokens": sampled} if sampled else {}),
        "seconds": round(sum(parts.values()), 2),
    }
