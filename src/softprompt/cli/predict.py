"""`softprompt predict`: texts to answers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit, warn


@library_options
@base_options
def predict(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task, TASK@N or TASK@ALIAS.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Inputs; without any, one per line of stdin.")
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Answer texts with a tuned prompt."""
    from softprompt.errors import ConfigError, DataError

    given = list(texts or [])
    if not given:
        if sys.stdin.isatty():
            raise ConfigError("no text was given; put texts behind the task, or pipe them in, one a line")
        try:
            given = [line.rstrip("\n") for line in sys.stdin if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"stdin is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    library = where.open()
    library.registry.resolve(task)  # a wrong name is refused before torch is loaded
    from softprompt.serving.offline import Service

    service = Service(library, base=base)
    predictions = service.predict(given, task)
    rows = [vars(prediction).copy() for prediction in predictions]
    cut = sum(row.pop("truncated") for row in rows)
    if not as_json:
        for row in rows:
            row["score"] = max(row["scores"].values()) if row["scores"] else None
    if cut:
        warn(f"{cut} of {len(predictions)} inputs were cut to fit the context")
    for remark in service.remarks:
        warn(remark)
    columns = ("text", "output", "score") if predictions and predictions[0].scores else ("text", "output")
    emit(rows, as_json, f"{predictions[0].task}@{predictions[0].version}" if predictions else task, columns)
