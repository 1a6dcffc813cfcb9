"""`softprompt upgrade`: tasks carried over to another base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, target_base_options
from softprompt.cli.output import emit, say
from softprompt.cli.train import stopping

COLUMNS = ("task", "old_version", "new_version", "old", "recycled", "value", "promoted", "reason")


@library_options
@target_base_options
def upgrade(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="Tasks of the library; by default all of another base.")
    ] = None,
    task_files: Annotated[
        list[Path] | None,
        typer.Option("--task-file", help="A task file in the place of the one that the library keeps; may be repeated."),
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Carry tasks over to another base: trained anew from what they were, and promoted where they are as good."""
    from softprompt.bases.folder import check_options
    from softprompt.progress import Bars
    from softprompt.tasks.load import load_tasks

    progress, library = Bars(), where.open()
    for ref in tasks or ():
        library.registry.resolve(ref)  # told before torch is loaded, as is what is wrong with the base and the files
    check_options(base)
    given = load_tasks(task_files) if task_files else []
    with progress.loading("torch"):
        from softprompt.lifecycle.upgrade import failures
        from softprompt.lifecycle.upgrade import upgrade as carry
    with stopping() as stop:
        rows = carry(tasks, to=base, task_files=given, library=library, progress=progress, stop=stop)
    if rows or as_json:
        emit([row.row() for row in rows], as_json, f"Carried to {base.shown}", COLUMNS)
    else:
        say(f"nothing to carry over: all tasks are of {base.shown} already, or there are none")
    if failures(rows):
        raise typer.Exit(1)
