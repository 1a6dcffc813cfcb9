"""`softprompt drift`: whether what a version serves still looks like what it was tuned for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, say
from softprompt.cli.places import check_page
from softprompt.errors import ConfigError

COLUMNS = ("what", "value", "threshold", "drifted", "rows", "beside", "reference", "observed")


@library_options
@moved_base_options
def drift(
    task: Annotated[str, typer.Argument(help="A task of the library, as TASK, TASK@N or TASK@ALIAS.")],
    data: Annotated[
        Path | None, typer.Option(help="Judge the rows of a file, in the place of what servers saw. They need no answers.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Make a reference of the rows of a file, for a version that came without, or in its own's place."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of charts there, which needs no network.")] = None,
    level: Annotated[float, typer.Option(help="Rate of false alarms of this look.", min=1e-9, max=0.5)] = 1e-3,
    hours: Annotated[
        float | None, typer.Option(help="Servers that saw nothing for longer are left out (default: 24).", min=0)
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Test what servers saw of a task lately, or the rows of a file, against the rows that its prompt was tuned for."""
    from softprompt.progress import Bars

    check_page(html, "--html")
    if html is not None and reference is not None and data is None:
        raise ConfigError(
            "--html shows rows that are judged, and --reference alone judges none; add --data FILE, or leave one out"
        )
    if hours is not None and (data is not None or reference is not None):
        raise ConfigError("--hours is of what servers saw, and the rows of a file are judged; leave it out")
    progress, library = Bars(), where.open()
    version = library.registry.resolve(task)  # told before torch is loaded
    from softprompt.lifecycle.drift.drift import HOURS, keep_reference, look

    if reference is not None:
        made = keep_reference(version.ref, reference, library=library, base=base, progress=progress)
        progress.note(f"the reference of {version.ref} is of {made.samples[0].tally.rows} rows of {reference} now")
        if data is None:
            return
    lately = HOURS if hours is None else hours
    found = look(version.ref, data=data, library=library, base=base, level=level, hours=lately, progress=progress)
    rows = [] if found is None else [one.row() for one in found.rows]
    if rows or as_json:
        emit(rows, as_json, f"{version.ref}: rows of {found.source if found else 'none'}", COLUMNS)
    if rows and not as_json:
        moved = [row["what"] for row in rows if row["drifted"]]
        say(f"drifted: {', '.join(moved)}" if moved else f"no drift, at a rate of {level:g} false alarms a look")
        if untold := [row["what"] for row in rows if row["threshold"] is None]:
            say(f"not told of: {', '.join(untold)} (too few rows, or all alike)")
    if html is not None and found is not None:
        from softprompt.lifecycle.drift.page import write_page

        progress.note(f"charts: {write_page(html, found)}")
