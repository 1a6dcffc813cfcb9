"""`softprompt tenant`: all that is a tenant's, written to a folder and erased."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, whole_library_options
from softprompt.cli.output import emit, warn
from softprompt.text import plural

app = typer.Typer(help="A tenant leaves: export and erase all that is theirs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.")]


@app.command()
@whole_library_options
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; it becomes a library of its own.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Write all that is a tenant's to a folder: prompts, uploads, jobs, keys, and every row as JSON."""
    from softprompt.library import takeout
    from softprompt.progress import Bars

    done = takeout.export(where.open(), name, folder, progress=Bars())
    emit([done.row()], as_json, "Exported")
    _tell_elsewhere(done.uploads_elsewhere, "are not in the export; export from there too")


@app.command()
@whole_library_options
def erase(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Erase, or only tell what would be erased.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take away for good all that is a tenant's, with its bytes; unfinished jobs are cancelled. Tells what it would take;
    --yes does it."""
    from softprompt.library import tenants

    library = where.open()
    done = tenants.erase(library, name, reason=reason) if yes else tenants.plan_erase(library, name)
    emit([{**done.row(), "erased": yes}], as_json, "Erased" if yes else "Would be erased (run again with --yes)")
    _tell_elsewhere(done.uploads_elsewhere, "stay there until `softprompt library gc --yes` with that home")


def _tell_elsewhere(count: int, what: str) -> None:
    if count:
        warn(f"the bytes of {plural(count, 'upload')} are in another home, and {what}")
