"""`softprompt init`: a table of your own to a task file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Json
from softprompt.cli.output import emit


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows: .csv, .tsv, .jsonl, .json or .parquet.")],
    text: Annotated[str | None, typer.Option(help="Column of the input; guessed by default.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the answer; guessed by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the task; by default the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a task file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a task file beside a table, to look at and to train."""
    import shlex

    from softprompt.errors import ConfigError
    from softprompt.files import write_whole
    from softprompt.tasks.draft import draft_task

    if file.is_dir():
        raise ConfigError(f"{str(file)!r} is a folder; name a file of rows in it")
    target = file.with_suffix(".yaml")
    if target.exists() and not force:
        raise ConfigError(f"{target} is there already; change it, or write it anew with --force")
    drafted = draft_task(file, text=text, label=label, name=name)
    try:
        write_whole(target, drafted.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(target)!r}: {error.strerror or error}; mend that, or choose another folder"
        ) from None
    if as_json:
        emit([{"file": str(target)}], True, "")
        return
    typer.echo(drafted, nl=False)
    typer.echo(f"\nwritten to {target}; next: softprompt train {shlex.quote(str(target))}", err=True)
