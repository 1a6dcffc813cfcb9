"""`softprompt inspect`: what the vectors of a prompt lie near."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit

COLUMNS = ("position", "nearest", "distance", "similar", "cosine", "norm", "relative_norm", "lost")


@library_options
@moved_base_options
def inspect(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="A version, as TASK[@N|@ALIAS].")],
    data: Annotated[
        Path | None, typer.Option(help="Rows with answers; of the first 100, what is lost without each vector.")
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show the token that each vector of a prompt lies near, how long it is, and with --data whether it matters."""
    from softprompt.progress import Bars

    progress, library = Bars(), where.open()
    version = library.registry.resolve(ref)  # told before torch is loaded
    with progress.loading("torch"):
        from softprompt.evaluation.look_inside import inspect as look
    found = look(version.ref, data=data, library=library, base=base, progress=progress)
    emit([one.row() for one in found], as_json, f"{version.ref}, on {version.card.exact_base}", COLUMNS)
