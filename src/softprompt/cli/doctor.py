"""`softprompt doctor`: what this machine has, and what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, named_base_options
from softprompt.cli.output import emit


@library_options
@named_base_options
def doctor(
    *,
    where: Location,
    base: BaseOptions,
    as_json: Json = False,
) -> None:
    """Look at packages, processor, memory, library and base: what is there, and what to do about what is not. Exits 1 where
    something is wrong."""
    from softprompt.progress import Bars

    with Bars().loading("torch"):
        from softprompt.doctor import WRONG, examine

        rows = [asdict(found) for found in examine(where.open, base)]
    emit(rows, as_json, "What is here", ("check", "state", "found", "mend"))
    if any(row["state"] == WRONG for row in rows):
        raise typer.Exit(1)
