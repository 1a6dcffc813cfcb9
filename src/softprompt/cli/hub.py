"""`softprompt push` and `softprompt pull`: prompts to the Hugging Face Hub and from there."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, library_options
from softprompt.cli.output import emit, version_row, warn
from softprompt.cli.versions import tell_taken_over
from softprompt.exchange.exporting import Format


@library_options
def push(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="The prompt, as TASK, TASK@N or TASK@ALIAS.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="The repository, as owner/name; made where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    form: Annotated[
        Format, typer.Option("--format", help="A PEFT adapter beside our file, or our file alone (softprompt).")
    ] = Format.PEFT,
    force: Annotated[bool, typer.Option("--force", help="Also to a repository that holds something else.")] = False,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Put a prompt on the Hugging Face Hub, with a model card. The token is that of HF_TOKEN, or of `hf auth login`."""
    from softprompt.exchange.hub import push as put

    done = put(where.open(), ref, repo, private=private, form=form, force=force)
    if form is Format.PEFT and (hint := done.version.card.adapter_hint):
        warn(f"{done.version.ref} was tuned on {done.version.card.base}{hint}; in PEFT, too, it needs that one")
    row = {**version_row(done.version), "repo": done.repo, "url": done.url, "commit": done.commit}
    emit([{**row, "files": list(done.files), "created": done.created}], as_json, "Pushed")


@library_options
@adapter_options
def pull(
    source: Annotated[str, typer.Argument(metavar="REPO", help="The repository, as owner/name or owner/name@revision.")],
    task: Annotated[
        str | None, typer.Option(help="Task it becomes a version of (default: its own, or the repository's name).")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    *,
    named: Annotated[str | None, typer.Option("--base", help="The base it was tuned on (default: as it says).")] = None,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take a prompt of the Hugging Face Hub into the library, as a new version. No pickle is ever fetched."""
    from softprompt.exchange.hub import pull as fetch

    library = where.to_fill()
    done = fetch(library, source, task=task, base=replace(base, source=named), tags=tags or (), warn=warn)
    row = {**version_row(done.version), "base": done.version.base, "fingerprint": done.version.fingerprint}
    emit([{**row, "repo": done.repo, "commit": done.commit, "file": done.file}], as_json, "Pulled")
    tell_taken_over(library.made().registry, done.version)
