"""`softprompt library`: verify, gc, copy and stats of the whole library, all tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, whole_library_options
from softprompt.cli.output import emit, stderr

app = typer.Typer(help="Care for the library: verify, gc, copy, stats.", no_args_is_help=True)


@app.command()
@whole_library_options
def verify(*, where: Location, as_json: Json = False) -> None:
    """Read every blob again and check it, and the registry, against what is recorded. Exits 1 on any problem."""
    from softprompt.progress import Bars

    report = where.open().verify(Bars())
    if as_json:
        emit([report.row()], True, "Verify")
    elif report.problems:
        emit([problem.row() for problem in report.problems], False, "Problems")
    if not as_json:
        stderr().print(report.summary())
    if report.problems:
        raise typer.Exit(1)


@app.command()
@whole_library_options
def gc(
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Delete, or only tell what would be deleted.")] = False,
    purge_deleted: Annotated[
        bool, typer.Option("--purge-deleted", help="Also the bytes of deleted versions: they cannot be restored then.")
    ] = False,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Delete blobs that no version needs. Tells what it would delete; --yes does it."""
    library = where.open()
    plan = library.plan_gc(purge_deleted=purge_deleted)
    rows = [item.row() for item in plan]
    if yes:
        deleted = set(library.gc(plan))
        rows = [{**row, "deleted": row["digest"] in deleted} for row in rows]
    emit(rows, as_json, "Deleted" if yes else "Would be deleted (run again with --yes)")


@app.command()
@whole_library_options
def copy(
    to_home: Annotated[Path | None, typer.Option(help="Home of the copy.")] = None,
    to_registry: Annotated[str | None, typer.Option(help="Registry of the copy, as a URL.")] = None,
    to_store: Annotated[str | None, typer.Option(help="Store of the copy, as a URL.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Copy the library, all tenants, to another home, registry or store, or bring a former copy up to date. What is not
    named stays the same."""
    if to_home is None and to_registry is None and to_store is None:
        raise typer.BadParameter("say where to: --to-home, --to-registry or --to-store")
    from softprompt.progress import Bars

    report = where.open().copy(to_home, registry=to_registry, store=to_store, progress=Bars())
    emit([report.row()], as_json, "Copied")


@app.command()
@whole_library_options
def stats(*, where: Location, as_json: Json = False) -> None:
    """Count tenants, tasks, versions, blobs and bytes."""
    emit([where.open().stats()], as_json, "Library")
