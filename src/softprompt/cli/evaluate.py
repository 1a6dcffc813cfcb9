"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, warn

COLUMNS = ("task", "version", "metric", "value", "rows", "loss")


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
    from softprompt.library.binding import check_base
    from softprompt.progress import Bars

    library = where.open()
    if base.source is not None:
        check_options(base)
    if data is not None:  # what is wrong with names and bases is told before torch is loaded
        for ref in refs:
            named = f"{ref}@{version}" if version and "@" not in ref else ref
            if (note := check_base(library.registry.resolve(named), base)) is not None:
                warn(note)
    progress = Bars()
    with progress.loading("torch and the library"):
        from softprompt.evaluation.evaluate import evaluate as judge

    evaluations = judge(refs, library=library, data=data, version=version, base=base, progress=progress)
    emit([evaluation.row() for evaluation in evaluations], as_json, "Evaluation", COLUMNS)
