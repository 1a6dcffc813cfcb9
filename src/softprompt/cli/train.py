"""`softprompt train`: task files to tuned prompts in the library."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit
from softprompt.errors import ConfigError, TrainingStopped
from softprompt.signals import handling

COLUMNS = ("task", "version", "metric", "value", "majority", "zero_shot", "untrained", "seconds")


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

    changed = _read_changes(changes or ())
    progress = Bars()
    with stopping() as stop:
        with progress.loading("torch and the library"):
            from softprompt.training.prepare import load_tasks
            from softprompt.training.train import train as tune

            library = where.open()
        tasks = [task.variant(**changed) for task in load_tasks(list(files))]
        tuned = tune(tasks, base=base, library=library, progress=progress, stop=stop)
    if not tuned:  # the first process of several speaks for all
        return
    title = f"{len(tuned)} prompt{'s' if len(tuned) > 1 else ''} of {tuned[0].row()['trainable']:,} numbers"
    emit([one.row() for one in tuned], as_json, f"{title} each on {tuned[0].frozen:,} frozen ones", COLUMNS)


def _read_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Keys and their values, read as a task file reads them."""
    import yaml

    found: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals or not value:
            raise ConfigError(f"{change!r} sets nothing; write --set KEY=VALUE, such as --set max_steps=100")
        if key in found:
            raise ConfigError(f"--set names {key!r} twice; leave one of them out")
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(
                f"the value of {change!r} cannot be read; put a text with braces or colons in quotes of its own, such as "
                "--set 'input=\"Question: {text}\"'"
            ) from None
    return found
