"""`softprompt compare`: other methods beside ours on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, base_options
from softprompt.cli.output import emit, with_errors
from softprompt.compare.names import NAMES, check_methods

COLUMNS = ("method", "value", "trainable", "seconds", "peak_mb", "latency_ms")
"""Of a table that fits 80 columns; JSON has them all."""


@base_options
def compare(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task, for its rows, templates and recipe.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="METHOD", hidden=True)] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help=f"Which, in which order, with commas or spaces between; by default {' '.join(NAMES)}."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Of each that trains; by default as the task says.")] = None,
    *,
    base: BaseOptions,
    as_json: Json = False,
) -> None:
    """Fit the base to a task by several methods, each on the same rows within the same steps, and judge them alike."""
    from softprompt.progress import Bars
    from softprompt.tasks.load import check_before_loading, load_tasks

    named = [name for word in (*(methods or ()), *(more or ())) for name in word.split(",") if name] or list(NAMES)
    check_methods(named)
    progress = Bars()
    with progress.loading("the rows"):
        (task,) = load_tasks(file)
        check_before_loading([task], base)
    with progress.loading("torch"):
        from softprompt.compare.compare import compare_task
    rows = compare_task(task, named, max_steps, base, progress)
    emit(rows if as_json else with_errors(rows), as_json, f"{task.name}: {task.form.metric} on test rows", COLUMNS)
