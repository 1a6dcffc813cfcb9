"""`softprompt train`: task files to tuned prompts in the library."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options, read_pairs
from softprompt.cli.output import emit, say, scored, with_errors
from softprompt.errors import TrainingStopped
from softprompt.signals import handling
from softprompt.text import plural

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
    files: Annotated[list[Path], typer.Argument(metavar="TASK.yaml...", help="Task files, trained at once on one base.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the files; may be repeated."),
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Tune a soft prompt for each task and publish it as a new version."""
    from softprompt.progress import Bars
    from softprompt.tasks.load import check_before_loading, load_tasks

    changed = read_pairs(changes or (), "sets nothing; write --set KEY=VALUE, such as --set max_steps=100")
    progress = Bars()
    with stopping() as stop:
        with progress.loading("the rows"):
            tasks = [task.variant(**changed) for task in load_tasks(list(files))]
            check_before_loading(tasks, base)
            library = where.open(make=True)
            library.registry.database.check_writable()
        with progress.loading("torch"):
            from softprompt.training.train import train as tune
        tuned = tune(tasks, base=base, library=library, progress=progress, stop=stop)
    if not tuned:  # the first process of several speaks for all
        return
    rows = [one.row() for one in tuned]
    emit_tuned(
        rows, as_json, f"{counted_prompts([row['trainable'] for row in rows])} on {tuned[0].frozen:,} frozen ones", COLUMNS
    )


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
        for name, other in (("live until now", row["live"]), ("production", row["production"])):
            if other is not None and (name == "production" or other != row["production"]):
                score = scored(other["value"], other["stderr"]) or "no score"
                on = f" on {plural(other['rows'], 'row')}" if other["rows"] else ""
                say(f"{name}: {row['task']}@{other['version']}, {score}{on}; {named} is {other['comparison']}")
        if row["baseline_rows"] < row["rows"]:
            there = f"{row['metric']} {row['value_on_baseline_rows']:.3f}"
            say(f"{named}: baselines are of {row['baseline_rows']} of its {row['rows']} test rows, where it has {there}")
        for remark in row["warnings"]:
            say(f"{named}: {remark}")
