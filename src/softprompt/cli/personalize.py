"""`softprompt personalize`: prompts of users' own, made and erased."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, say

COLUMNS = ("user", "version", "metric", "value", "shared", "rows", "train_rows", "best_step", "seconds", "prompt_bytes")


@library_options
@moved_base_options
def personalize(
    task: Annotated[str, typer.Argument(help="A task of the library.")],
    history: Annotated[
        Path | None,
        typer.Option(help="Rows of one user, or of many in a column `user`; or a folder with a file for each user."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose: letters, digits and ._:@=+-.")] = None,
    like: Annotated[str | None, typer.Option(help="Start from this version of the library (default: the task's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each user (default: 30).", min=1)] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Take the user's version away for good, with its bytes.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only show who has a version of their own.")] = False,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Tune a task's prompt to a user in a few steps; the user's requests get it, and all others the shared one."""
    if erase + listed + (history is not None) != 1:
        given = sum((erase, listed, history is not None))
        raise typer.BadParameter(
            f"{given or 'none'} of --history, --erase and --list {'is' if given < 2 else 'are'} given; give one of them"
        )
    if history is None and (idle := [name for name, one in (("--like", like), ("--steps", steps)) if one is not None]):
        raise typer.BadParameter(f"{' and '.join(idle)} say how to tune, and nothing is tuned; leave them out")
    if erase and user is None:
        raise typer.BadParameter("--erase does not say whose version; add --user ID")
    library = where.open()
    if listed:
        found = library.registry.personal.of(task)
        rows = [
            {"task": one.task, "user": one.user, "version": one.number, "digest": one.digest, "base": one.base,
             "created_at": one.created_at, "actor": one.actor}
            for one in found if user in (None, one.user)
        ]  # fmt: skip
        emit(rows, as_json, f"Personal versions of {task}", ("user", "version", "digest", "base", "created_at", "actor"))
        return
    if erase:
        from softprompt.library.personal import erase as take_away

        gone = take_away(library, task, user or "")
        emit([{"task": task, "user": gone.user, "version": gone.number, "digest": gone.digest}], as_json, "Erased")
        return
    from softprompt.library.binding import check_before_loading
    from softprompt.library.passages import Passages
    from softprompt.lifecycle.histories import read_histories, read_source
    from softprompt.progress import Bars

    version = library.registry.resolve(task)
    library.registry.resolve(like or task)  # told before torch is loaded, as are the rows
    assert history is not None
    progress, rows_of = Bars(), read_histories(history, user)
    form = Passages().form_of(library, version)
    for name, own in rows_of.items():
        read_source(form, name, own)
    check_before_loading(version, base)
    with progress.loading("torch"):
        from softprompt.lifecycle.personalize import STEPS
        from softprompt.lifecycle.personalize import personalize as tune
    made = tune(task, rows_of, like=like, steps=steps or STEPS, library=library, base=base, progress=progress)
    emit([one.row() for one in made], as_json, f"Personal versions of {task}, from {made[0].parent}", COLUMNS)
    if not as_json and (same := sum(one.best_step == 0 for one in made)):
        say(f"{same} of {len(made)}: no step was better on the rows held out, so the version is the prompt it started from")
