"""`softprompt retrain`: a task trained again from what the library keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, TaskFile, library_options, moved_base_options
from softprompt.cli.output import emit
from softprompt.cli.train import stopping

COLUMNS = ("task", "old_version", "new_version", "metric", "old", "value", "rows", "promoted", "reason")


@library_options
@moved_base_options
def retrain(
    task: Annotated[str, typer.Argument(help="A task of the library, as TASK, TASK@N or TASK@ALIAS.")],
    data: Annotated[Path | None, typer.Option(help="Training rows in the place of those of then.")] = None,
    task_file: TaskFile = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Train a task again by its own recipe, on the rows of today; promoted where it is as good on the same test rows."""
    from softprompt.lifecycle.retrain import retrain as again
    from softprompt.progress import Bars

    progress, library = Bars(), where.open()
    with stopping() as stop:
        made = again(task, data=data, task_file=task_file, library=library, base=base, progress=progress, stop=stop)
    emit([made.row()], as_json, "Trained again", COLUMNS)
