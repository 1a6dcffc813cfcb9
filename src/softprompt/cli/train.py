"""`softprompt train`: task files to tuned prompts in the library."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit

COLUMNS = ("task", "version", "metric", "value", "majority", "zero_shot", "untrained", "seconds")


class _Stopped(BaseException):
    """A signal came. No `Exception`, so that nothing on the way takes it for a fault of its own and goes on."""


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Turn the signals that end a training into an error that says what became of the library. It ends before the rows are
    printed: by then all is published, and the error would say otherwise.

    Raises:
        TrainingError: SIGTERM or SIGINT came.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Stopped as stopped:
        from softprompt.errors import TrainingError

        raise TrainingError(f"stopped by {stopped}; nothing was published; call the same command again to go on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@library_options
@base_options
def train(
    files: Annotated[list[Path], typer.Argument(metavar="TASK.yaml...", help="Task files, trained at once on one base.")],
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Tune a soft prompt for each task and publish it as a new version."""
    from softprompt.progress import Bars

    progress = Bars()
    with stopping_cleanly():
        with progress.loading("torch and the library"):
            from softprompt.training.tune import train as tune

            library = where.open()
        tuned = tune(list(files), base=base, library=library, progress=progress)
    if not tuned:  # the first process of several speaks for all
        return
    title = f"{len(tuned)} prompt{'s' if len(tuned) > 1 else ''} of {tuned[0].row()['trainable']:,} numbers"
    emit([one.row() for one in tuned], as_json, f"{title} each on {tuned[0].total:,} frozen ones", COLUMNS)
