"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, warn, with_errors

COLUMNS = ("task", "version", "metric", "value", "rows", "loss", "truncated", "unfinished")


@library_options
@moved_base_options
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
    from softprompt.bases.folder import check_options
    from softprompt.evaluation.cases import find_cases
    from softprompt.library.binding import check_base
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("the rows"):
        library = where.open()
        cases = find_cases(refs, library, data, version)
        if base.source is not None:
            check_options(base)
        for case in cases if data is not None else ():
            if (note := check_base(case.version, base)) is not None:
                warn(note)
    with progress.loading("torch"):
        from softprompt.evaluation.evaluate import judge_cases
    rows = [evaluation.row() for evaluation in judge_cases(library, cases, base, progress)]
    emit(rows if as_json else with_errors(rows), as_json, "Evaluation", COLUMNS)
