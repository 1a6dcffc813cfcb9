"""`softprompt export` and `softprompt import`: prompts out of the library and into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, library_options
from softprompt.cli.output import emit, version_row, warn
from softprompt.exchange.exporting import Format


@library_options
def export_prompt(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="The prompt, as TASK, TASK@N or TASK@ALIAS.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    form: Annotated[Format, typer.Option("--format", help="A PEFT folder, or our one file.")] = Format.PEFT,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Write a prompt to a folder, for PEFT or for another library."""
    from softprompt.exchange import exporting

    done = exporting.export_prompt(where.open(), ref, folder, form)
    if form is Format.PEFT and (hint := done.version.card.adapter_hint):
        warn(f"{done.version.ref} was tuned on {done.version.card.base}{hint}; in PEFT, too, it needs that one")
    emit([{**version_row(done.version), "format": form.value, "path": str(done.path.absolute())}], as_json, "Exported")


@library_options
@adapter_options
def import_prompt(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT folder, or a softprompt file.")],
    task: Annotated[
        str | None, typer.Option(help="Task it becomes a version of (default: the one a softprompt file names).")
    ] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--base", help="The base it was tuned on (default: what the folder or file names).")
    ] = None,
    base: BaseOptions,
    like: Annotated[str | None, typer.Option(help="Take template, labels and metric from this task of the library.")] = None,
    template: Annotated[str | None, typer.Option("--input", help="Template of the input, as in a task file.")] = None,
    target: Annotated[str | None, typer.Option(help="Template of the target, as in a task file.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label; repeat for each, in order.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take a prompt into the library as a new version of a task."""
    from softprompt.bases.folder import check_options
    from softprompt.exchange import importing

    if named is not None:  # what is wrong with it is told before torch is loaded
        check_options(replace(base, source=named))
    if task is None and source.is_dir():
        raise typer.BadParameter("a PEFT folder names no task: give --task NAME")
    version = importing.import_prompt(
        where.open(), source, task=task, base=replace(base, source=named), like=like,
        input=template, target=target, labels=label, tags=tags or (),
    )  # fmt: skip
    more = {"fingerprint": version.fingerprint, "num_virtual_tokens": version.card.num_virtual_tokens}
    emit([{**version_row(version), "base": version.base, **more}], as_json, "Imported")
