"""`softprompt inspect`: what the vectors of a prompt lie near, and how like each other the prompts of a library are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, say
from softprompt.cli.places import check_page
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.evaluation.inside.likeness import Likeness

COLUMNS = ("position", "nearest", "distance", "similar", "cosine", "relative_norm")
JUDGED = ("position", "nearest", "similar", "relative_norm", "attention", "lost", "lost_stderr")
"""Of tables that fit 80 columns; JSON has them all."""
OF_PAIRS = ("task", "version", "other", "other_version", "per_token", "cosine")
_TOLD = 3
"""Prompts like one that are named below its table."""


@library_options
@moved_base_options
def inspect(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK", help="A version, as TASK, TASK@N or TASK@ALIAS; without one, how alike all prompts are."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows with answers; of 256 at most, what is lost without each vector, and its attention."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a page with a map of the library there; no network.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show the token that each vector of a prompt lies near, how long it is, and with --data whether it matters; or how like
    each other the prompts of the library are."""
    from softprompt.errors import ConfigError
    from softprompt.evaluation.cases import find_cases
    from softprompt.library.binding import check_before_loading
    from softprompt.progress import Bars

    if ref is None and data is not None:
        raise ConfigError("--data judges the vectors of one prompt; name its TASK")
    check_page(plot, "--plot")
    progress, library = Bars(), where.open()
    version = None if ref is None else library.registry.resolve(ref)  # told before torch is loaded
    if version is not None:
        if data is not None:
            find_cases([version.ref], library, data)
        check_before_loading(version, base)
    with progress.loading("torch"):
        from softprompt.evaluation.inside.likeness import likenesses, read_prompts
        from softprompt.evaluation.inside.look_inside import inspect as look
        from softprompt.evaluation.inside.page import write_map
    if version is None:
        vectors = []
        pairs = likenesses(library=library, progress=progress)
        emit([one.row() for one in pairs], as_json, "pairs of prompts of one base", OF_PAIRS)
    else:
        vectors = look(version.ref, data=data, library=library, base=base, progress=progress)
        rows = vectors[0].rows
        on = f", judged on {plural(rows, 'row')}" if rows else ""
        title, columns = f"{version.ref}, on {version.card.exact_base}{on}", JUDGED if rows else COLUMNS
        emit([one.row() for one in vectors], as_json, title, columns)
        if not as_json and (alike := likenesses(version.ref, library=library, progress=progress)):
            say(_told(alike))
    if plot is not None:
        prompts = read_prompts(library, None if version is None else version.ref, progress)
        progress.note(f"map: {write_map(plot, prompts, vectors)}")


def _told(alike: list[Likeness]) -> str:
    """The prompts that are most like one, in words."""
    nearest = ", ".join(f"{one.other}@{one.other_version} {one.per_token:.2f}" for one in alike[:_TOLD])
    return f"most like it, of {len(alike)}: {nearest} (mean cosine of all pairs of vectors)"
