"""`softprompt library`: verify, gc, copy, rebind and stats of the whole library, all tenants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, whole_library_options
from softprompt.cli.output import emit, stderr

OLD_DAYS = 30.0  # as in `library/leftovers.py`, which is not loaded for help

COLUMNS = ("version", "old_base", "base", "old_fingerprint", "fingerprint")

app = typer.Typer(help="Care for the library: verify, gc, copy, rebind, stats.", no_args_is_help=True)


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
    days: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Checkpoints that no training went on from for so long."),
    ] = OLD_DAYS,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Delete blobs that no version needs, old checkpoints and uploads that were cut short. Tells what it would delete; --yes
    does it."""
    library = where.open()
    plan, left = library.plan_gc(purge_deleted=purge_deleted), library.plan_sweep(days=days)
    rows = [{**item.row(), "file": None, "why": "no version needs it"} for item in plan]
    rows += [{"digest": None, "versions": (), **item.row()} for item in left]
    if yes:
        deleted = {*library.gc(plan), *library.sweep(left)}
        rows = [{**row, "deleted": (row["digest"] or row["file"]) in deleted} for row in rows]
    title = "Deleted" if yes else f"Would be deleted{' (run again with --yes)' * bool(rows)}"
    emit(rows, as_json, title, ("digest", "file", "bytes", "versions", "why", *(["deleted"] * yes)))


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
    named stays the same. Uploaded files, jobs, batches and curves of trainings stay behind."""
    if to_home is None and to_registry is None and to_store is None:
        raise typer.BadParameter("nowhere to copy to was named; give --to-home, --to-registry or --to-store")
    from softprompt.progress import Bars

    report = where.open().copy(to_home, registry=to_registry, store=to_store, progress=Bars())
    emit([report.row()], as_json, "Copied")


@app.command()
@whole_library_options
@adapter_options
def rebind(
    source: Annotated[
        str, typer.Argument(metavar="BASE", help="Where the base is now: a folder, a GGUF file, a hub id or builtin/tiny.")
    ],
    known_as: Annotated[
        str | None, typer.Option("--from", help="Only versions whose base the library knows by this address.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Do it, or only tell what would be done.")] = False,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Bind versions to their base where it is now. Its fingerprint is the proof, for which every byte of it is read. Tells
    what it would do; --yes does it, with a line in the audit for each version."""
    from softprompt.library.binding import plan_rebind
    from softprompt.library.binding import rebind as bind

    library = where.open()
    plan = plan_rebind(library, replace(base, source=source), known_as=known_as)
    if yes:
        bind(library, plan)
    title = "Bound" if yes else f"Would be bound{' (run again with --yes)' * bool(plan)}"
    emit([{**item.row(), "done": yes} for item in plan], as_json, title, COLUMNS)


@app.command()
@whole_library_options
def stats(*, where: Location, as_json: Json = False) -> None:
    """Count tenants, tasks, versions, blobs, checkpoints, uploads and bytes."""
    emit([where.open().stats()], as_json, "Library")
