"""`softprompt correct`: answers that were wrong, learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, TaskFile, library_options, moved_base_options
from softprompt.cli.output import emit
from softprompt.cli.train import stopping

COLUMNS = (
    "task", "old_version", "new_version", "corrections", "fixed", "old", "value", "promoted", "reason", "seconds",
)  # fmt: skip


@library_options
@moved_base_options
def correct(
    task: Annotated[str, typer.Argument(help="A task of the library, as TASK, TASK@N or TASK@ALIAS.")],
    data: Annotated[
        Path | None, typer.Option(help="More corrections: rows in the task's form, with the right answers.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="Also those that a version was made with already.")] = False,
    steps: Annotated[int, typer.Option(help="Of training at most, where the corrections are few.", min=1)] = 16,
    task_file: TaskFile = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Learn corrections in a few steps, those that clients sent among them; promoted where nothing else got worse."""
    from softprompt.lifecycle.correct import correct as learn
    from softprompt.progress import Bars

    progress, library = Bars(), where.open()
    with stopping() as stop:
        made = learn(
            task,
            data,
            every=every,
            steps=steps,
            task_file=task_file,
            library=library,
            base=base,
            progress=progress,
            stop=stop,
        )
    emit([made.row()], as_json, "Corrected", COLUMNS)
