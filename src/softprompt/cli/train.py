"""`softprompt train`: task files to tuned prompts in the library."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Changes, Json, Location, base_options, library_options, read_changes
from softprompt.cli.output import emit, say, scored, with_errors
from softprompt.errors import NotFound, TrainingStopped
from softprompt.signals import handling
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.tasks.task import Task

COLUMNS = ("task", "version", "metric", "value", "rows", "majority", "zero_shot", "untrained", "seconds")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, for a training to end by behind its present step; a second signal ends the
    process at once.

    Raises:
        TrainingStopped: it ended so; the signal is in its message, and in the exit status.
    """
    stop, received = threading.Event(), 0

    def handle(number: int, _: object) -> None:
        nonlocal received
        if stop.is_set():
            raise KeyboardInterrupt
        received = number
        stop.set()

    try:
        with handling(handle, signal.SIGTERM, signal.SIGINT):
            yield stop
    except TrainingStopped as error:
        if not received:
            raise
        stopped = TrainingStopped(f"stopped by {signal.Signals(received).name}{str(error).removeprefix('stopped')}")
        stopped.number = received
        raise stopped from None


@library_options
@base_options
def train(
    files: Annotated[list[Path], typer.Argument(metavar="TASK.yaml", help="Task files, trained at once on one base.")],
    changes: Changes = None,
    subsets: Annotated[
        int | None, typer.Option(min=2, help="Train so many prompts of each task on parts of its rows, and combine them.")
    ] = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", help="Who hears of it as it happens: tensorboard, mlflow; may be repeated."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what it takes: steps, time and memory, from one measured step.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Train on Ray: banks of tasks over workers.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray that runs, or `auto`; by default one is started on this machine.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Banks that are trained at the same time; by default 2.", show_default=False)
    ] = None,
    bank_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tasks of a bank; by default in equal parts for the workers, 16 at most.", show_default=False
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Of each worker, which share the rows of every step; by default 1.", show_default=False),
    ] = None,
    worker_cpus: Annotated[
        float | None, typer.Option(min=0.1, help="CPUs of each process; by default 1.", show_default=False)
    ] = None,
    worker_gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of each process; by default 0.", show_default=False)
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Tune a soft prompt for each task and publish it as a new version."""
    from softprompt.progress import Bars

    changed = read_changes(changes)
    progress = Bars()
    of_ray: dict[str, Any] = {
        "address": address, "workers": workers, "bank_size": bank_size, "processes": processes, "cpus": worker_cpus,
        "gpus": worker_gpus,
    }  # fmt: skip
    of_ray = {name: value for name, value in of_ray.items() if value is not None}
    _check_ray(ray, of_ray, {"--plan": plan, "--subsets": subsets, "--report-to": report_to})
    if plan and subsets is not None:
        raise typer.BadParameter("--plan tells of one prompt for each task; leave --subsets out")
    if plan and report_to:
        raise typer.BadParameter("--plan trains nothing; leave --report-to out")
    if plan:
        with progress.loading("the rows"):
            tasks = read_tasks(files, changed, base)
            library = library_there(where, tasks)
            check_starts(library, tasks)
        with progress.loading("torch"):
            from softprompt.training.plan import plan_tasks
        emit_plan(plan_tasks(tasks, base, library, progress), as_json)
        return
    with stopping() as stop:
        with progress.loading("the rows"):
            from softprompt.training.trackers import check_trackers

            tasks = read_tasks(files, changed, base)
            for task in tasks if subsets is not None else ():
                task.subsets(subsets or 0)
            check_trackers(report_to or ())
            library = library_to_fill(where, tasks)
        with progress.loading("torch"):
            from softprompt.training.train import train as tune
        if ray:
            from softprompt.training.workers.train import train_on_ray

            with redirect_stdout(sys.stderr):  # Ray prints there what happens to its processes
                tuned = train_on_ray(tasks, base=base, library=library, progress=progress, stop=stop, **of_ray)
        else:
            tuned = tune(
                tasks, base=base, library=library, progress=progress, stop=stop, subsets=subsets, report_to=report_to or ()
            )
    if not tuned:  # the first process of several speaks for all
        return
    rows = [one.row() for one in tuned]
    emit_tuned(
        rows, as_json, f"{counted_prompts([row['trainable'] for row in rows])} on {tuned[0].frozen:,} frozen ones", COLUMNS
    )


_FLAGS = {"cpus": "--worker-cpus", "gpus": "--worker-gpus", "bank_size": "--bank-size"}
"""Options of Ray that have another name in Python."""


def _check_ray(ray: bool, given: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Refuse options that say something of Ray without it, and those that go without it alone; and Ray that is not there.

    Raises:
        BadParameter, ConfigError: with what to do.
    """
    if not ray:
        if given:
            flags = ", ".join(_FLAGS.get(name, f"--{name}") for name in given)
            raise typer.BadParameter(f"{flags}: of training on Ray; add --ray, or leave it out")
        return
    for flag, value in others.items():
        if value:
            raise typer.BadParameter(f"{flag} needs the base in this process, and with --ray workers have it; leave one out")
    from softprompt.cluster import check_ray

    check_ray()


def read_tasks(files: Sequence[Path], changes: Mapping[str, Any], base: BaseOptions) -> list[Task]:
    """The tasks of files with some keys changed, and all of them checked that can be without their base."""
    from softprompt.tasks.load import check_before_loading, load_tasks

    tasks = [task.variant(**changes) for task in load_tasks(list(files))]
    check_before_loading(tasks, base)
    return tasks


def library_there(where: Location, tasks: Sequence[Task]) -> Library | None:
    """The library, where there is one: a plan makes none.

    Raises:
        NotFound: there is none, and a task starts from a prompt of it.
    """
    try:
        return where.open()
    except NotFound:
        if any(task.config.initializer == "PROMPT" for task in tasks):
            raise
        return None


def check_starts(library: Library | None, tasks: Sequence[Task]) -> None:
    """Raises `NotFound` where a prompt that a task starts from is not in the library."""
    if library is not None:
        for ref in (ref for task in tasks for ref in task.config.prompt_tuning_init_prompt):
            library.registry.resolve(ref)


def library_to_fill(where: Location, tasks: Sequence[Task]) -> Library:
    """The library that tasks are published in, made where there is none.

    Raises:
        NotFound: a prompt that one starts from is not there.
        LibraryError: it cannot be opened, made or written to.
    """
    library = where.open(make=True)
    library.registry.database.check_writable()
    check_starts(library, tasks)
    return library


def emit_plan(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print what trainings take; for people times in their own units, and what all of them take together."""
    total, first = duration(sum(row["seconds"] for row in rows)), rows[0]
    title = (
        f"{plural(len(rows), 'prompt')} on {first['base']} ({first['dtype']}, {first['device']}): about {total}, and "
        f"{first['peak_mb']:,.0f} MB for the base and a step; nothing was trained"
    )
    parts = {"train": "train", "validate": "validation", "baselines": "baseline", "test": "test"}
    if any(row["ask_seconds"] for row in rows):
        parts = {"ask": "ask"} | parts
    told = [
        {
            "task": row["task"],
            "steps": row["steps"],
            "rows": row["rows_per_step"],
            "tokens": row["tokens_per_step"],
            **{name: duration(row[f"{part}_seconds"]) for name, part in parts.items()},
            "total": duration(row["seconds"]),
        }
        for row in rows
    ]
    emit(rows if as_json else told, as_json, title)


def duration(seconds: float) -> str:
    """A time, to two digits or so."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def counted_prompts(sizes: Sequence[int]) -> str:
    """How many prompts, and of how many numbers."""
    if len(sizes) == 1:
        return f"1 prompt of {sizes[0]:,} numbers"
    least, most = min(sizes), max(sizes)
    numbers = f"{least:,} numbers each" if least == most else f"{least:,} to {most:,} numbers"
    return f"{len(sizes)} prompts of {numbers}"


def emit_tuned(rows: Sequence[Mapping[str, Any]], as_json: bool, title: str, columns: Sequence[str]) -> None:
    """Print the rows of tuned prompts; for people also what was live and in production, and what the scores give to say."""
    emit(rows if as_json else with_errors(rows), as_json, title, columns)
    if as_json:
        return
    for row in rows:
        named = f"{row['task']}@{row['version']}" if row["version"] is not None else row["task"]
        told = set[str]()
        for name, other in (("live until now", row["live"]), ("production", row["production"])):
            if other is not None and (name == "production" or other != row["production"]):
                score = scored(other["value"], other["stderr"]) or "no score"
                on = f" on {plural(other['rows'], 'row')}" if other["rows"] else ""
                say(f"{name}: {row['task']}@{other['version']}, {score}{on}; {named} is {other['comparison']}")
                told.add(f"{other['comparison']} (version {other['version']}, which was live)")
        if row["baseline_rows"] < row["rows"]:
            there = f"{row['metric']} {row['value_on_baseline_rows']:.3f}"
            say(f"{named}: baselines are of {row['baseline_rows']} of its {row['rows']} test rows, where it has {there}")
        for remark in (one for one in row["warnings"] if one not in told):
            say(f"{named}: {remark}")
