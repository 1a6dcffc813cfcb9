"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit, with_errors

COLUMNS = ("task", "version", "metric", "value", "rows", "loss", "truncated", "unfinished")


@library_options
@base_options
def evaluate(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="Task files, for their test rows; or, with --data, TASK[@N|@ALIAS]."),
    ],
    data: Annotated[Path | None, typer.Option(help="Rows with answers (.jsonl, .csv, .parquet ...) to judge on.")] = None,
    version: Annotated[str | None, typer.Option(help="Version or alias to judge, where none is named.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Judge tuned prompts on the test rows of their task files, or on rows of your own."""
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("torch and the library"):
        from softprompt.evaluation.evaluate import evaluate as judge

        library = where.open()
    evaluations = judge(refs, library=library, data=data, version=version, base=base, progress=progress)
    rows = [evaluation.row() for evaluation in evaluations]
    emit(rows if as_json else with_errors(rows), as_json, "Evaluation", COLUMNS)
