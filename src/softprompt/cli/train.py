"""`softprompt train`: task files to tuned prompts in the library."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library

Dtype = Annotated[str, typer.Option(help="Of the base: auto (as stored where that is quick), float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:0, ...; by default the first GPU, else the CPU.")]
Quantization = Annotated[str | None, typer.Option(help="Of the base's linear layers: int8, or on a GPU 4bit.")]

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


def train(
    files: Annotated[list[Path], typer.Argument(metavar="TASK.yaml...", help="Task files, trained at once on one base.")],
    dtype: Dtype = "auto",
    device: Device = None,
    quantization: Quantization = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Tune a soft prompt for each task and publish it as a new version."""
    from softprompt.progress import Bars

    progress = Bars()
    with stopping_cleanly():
        with progress.loading("torch and the library"):
            from softprompt.training.tune import train as tune

            library = open_library(home, registry, store, tenant)
        tuned = tune(list(files), library=library, dtype=dtype, device=device, quantization=quantization, progress=progress)
    if not tuned:  # the first process of several speaks for all
        return
    title = f"{len(tuned)} prompt{'s' if len(tuned) > 1 else ''} of {tuned[0].row()['trainable']:,} numbers"
    emit([one.row() for one in tuned], as_json, f"{title} each on {tuned[0].total:,} frozen ones", COLUMNS)
