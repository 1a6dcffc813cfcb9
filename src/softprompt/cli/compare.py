"""`softprompt compare`: other methods beside ours on one task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, base_options
from softprompt.cli.output import emit, say, with_errors
from softprompt.cli.places import check_page
from softprompt.compare.names import NAMES, RATES, USUAL, check_methods

COLUMNS = ("method", "value", "trainable", "bytes", "seconds", "peak_mb", "added_latency_ms")
"""Of a table that fits 80 columns; JSON has them all."""


@base_options
def compare(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task, for its rows, templates and recipe.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="METHOD", hidden=True)] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Which, in which order, with commas or spaces between, of {' '.join(NAMES)}; by default one of each kind "
            f"that works there: {' '.join(USUAL)}."
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Of each that trains; by default as the task says.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Instead of steps: train each for about so many seconds.")
    ] = None,
    rates: Annotated[
        int,
        typer.Option(
            min=1, max=9, help="Learning rates to try of each that trains, each for a quarter of its steps; 1 tries none."
        ),
    ] = RATES,
    html: Annotated[Path | None, typer.Option(help="Write a page of charts there, which needs no network.")] = None,
    *,
    base: BaseOptions,
    as_json: Json = False,
) -> None:
    """Fit the base to a task by several methods, each on the same rows within the same budget, judge them alike, and say
    which to take."""
    from softprompt.compare.budget import Budget
    from softprompt.progress import Bars
    from softprompt.tasks.load import check_before_loading, load_tasks

    named = [name for word in (*(methods or ()), *(more or ())) for name in word.split(",") if name] or None
    check_methods(USUAL if named is None else named)
    budget = Budget(max_steps, max_seconds, rates)
    check_page(html, "--html")
    progress = Bars()
    with progress.loading("the rows"):
        (task,) = load_tasks(file)
        check_before_loading([task], base)
    with progress.loading("torch"):
        from softprompt.compare.compare import compare_task
        from softprompt.compare.page import told_rates, write_page
    kept = list[dict[str, Any]]()

    def found() -> Iterator[dict[str, Any]]:
        for row in compare_task(task, named, budget, base, progress):
            kept.append(row)
            yield row

    rows = found()
    emit(rows if as_json else with_errors(rows), as_json, f"{task.name}: {task.form.metric} on test rows", COLUMNS)
    if not as_json:
        say("\n".join(f"{row['method']}: rates {told_rates(row)}" for row in kept if row["rates"]))
        say(kept[-1]["decision"])
    if html is not None:
        progress.note(f"charts: {write_page(html, kept)}")
