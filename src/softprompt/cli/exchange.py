"""`softprompt export` and `softprompt import`: prompts out of the library and into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, library_options
from softprompt.cli.output import emit, version_row, warn
from softprompt.cli.versions import tell_taken_over
from softprompt.exchange.exporting import Format

if TYPE_CHECKING:
    from softprompt.exchange.importing import Imported
    from softprompt.registry.records import Version


@library_options
@adapter_options
def export_prompt(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="TASK", help="The prompt, as TASK, TASK@N or TASK@ALIAS; for tokens and gguf several."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="A PEFT folder, our one file, an MLflow model; or for any engine the base with prompts as tokens: a folder "
            "(tokens, with a GGUF file where the base is one) or that file alone (gguf).",
        ),
    ] = Format.PEFT,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a base, another export or other files lie; says what it replaced.")
    ] = False,
    *,
    named: Annotated[
        str | None, typer.Option("--base", help="For tokens and gguf: where the base is, if it has moved.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="For tokens: of what is written (default: as the base is stored).")
    ] = None,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Write prompts to a folder, for PEFT, for another library, or for an engine that knows no soft prompts."""
    options = replace(base, source=named, dtype=dtype or base.dtype)
    if form in (Format.TOKENS, Format.GGUF):
        _export_tokens(where, refs, folder, form, options, force=force, as_json=as_json)
        return
    if len(refs) > 1:
        raise typer.BadParameter(
            f"--format {form.value} takes one prompt a folder, and {len(refs)} are named; --format tokens takes several"
        )
    if options != BaseOptions():
        raise typer.BadParameter(
            f"{' '.join([*(['--base'] if named else []), *options.arguments()])}: --format {form.value} writes no base; "
            "leave it out"
        )
    from softprompt.exchange import exporting

    done = exporting.export_prompt(where.open(), refs[0], folder, form, force=force)
    if form is Format.PEFT and (hint := done.version.card.adapter_hint):
        warn(f"{done.version.ref} was tuned on {done.version.card.base}{hint}; in PEFT, too, it needs that one")
    if force and done.replaced:
        warn(f"replaced in {str(folder)!r}: {', '.join(done.replaced)}")
    row = {**version_row(done.version), "format": form.value, "path": str(done.path.absolute())}
    emit([{**row, "replaced": list(done.replaced)}], as_json, "Exported")


def _export_tokens(
    where: Location, refs: list[str], folder: Path, form: Format, base: BaseOptions, *, force: bool, as_json: bool
) -> None:
    from softprompt.exchange.tokens.carried import versions_to_carry
    from softprompt.library.binding import check_before_loading
    from softprompt.progress import Bars

    library, progress = where.open(), Bars()
    # What is wrong with them or their base is told before torch is loaded.
    check_before_loading(versions_to_carry(library, refs)[0], base)
    with progress.loading("torch"):
        from softprompt.exchange.tokens.export import export_tokens

    made = export_tokens(library, refs, folder, base=base, gguf_alone=form is Format.GGUF, force=force, progress=progress)
    if made.replaced:
        warn(f"the export of {', '.join(made.replaced)} in {str(folder)!r} is gone")
    rows, first = [], made.vocabulary.first
    for one in made.carried:
        placed = {"first_token": first, "tokens": len(one.tokens), "text": "".join(one.tokens)}
        place = {"format": form.value, "path": str(folder.absolute()), "gguf": made.file and str(made.file.absolute())}
        rows.append({**version_row(one.version), **placed, **place, "replaced": list(made.replaced)})
        first += len(one.tokens)
    emit(rows, as_json, "Exported", ("task", "version", "first_token", "tokens"))
    if not as_json:
        progress.note(f"{folder / 'README.md'} says how engines are given them")


@library_options
@adapter_options
def import_prompt(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="PEFT folders, softprompt files, folders of caikit or TGIS, or NeMo's models."),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME",
            help="Task it becomes a version of (default: the one that a softprompt file names; of several PEFT folders each "
            "one's own name). With several DIRs one for all of them, or repeated, one for each.",
        ),
    ] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--base", help="The base it was tuned on (default: what the folder or file names).")
    ] = None,
    base: BaseOptions,
    like: Annotated[str | None, typer.Option(help="Take template, labels and metric from this task of the library.")] = None,
    template: Annotated[str | None, typer.Option("--input", help="Template of the input, as in a task file.")] = None,
    target: Annotated[str | None, typer.Option(help="Template of the target, as in a task file.")] = None,
    labels: Annotated[list[str] | None, typer.Option("--labels", help="A label; repeat for each, in order.")] = None,
    old_labels: Annotated[list[str] | None, typer.Option("--label", hidden=True)] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take prompts into the library, each as a new version of a task. One that is refused leaves the others; exits 1."""
    from softprompt.bases.folder import check_options
    from softprompt.exchange import importing

    if labels and old_labels:
        raise typer.BadParameter("--label is the older name of --labels, and both are given; say --labels for each label")
    if named is not None:  # what is wrong with it is told before torch is loaded
        check_options(replace(base, source=named))
    if not tasks and len(sources) == 1 and sources[0].is_dir():
        raise typer.BadParameter("a folder of another tool names no task; give --task NAME")
    importing.tasks_of(sources, tasks or ())  # what is wrong with the call is told before torch is loaded
    library = where.to_fill()
    outcomes = importing.import_prompts(
        library, sources, tasks=tasks or (), base=replace(base, source=named), like=like,
        input=template, target=target, labels=labels or old_labels, tags=tags or (), warn=warn,
    )  # fmt: skip
    refused: list[Imported] = []
    taken: list[Version] = []

    def rows() -> Iterator[dict[str, Any]]:
        for outcome in outcomes:
            if outcome.error is not None and len(sources) == 1:
                raise outcome.error
            refused.extend([outcome] * (outcome.error is not None))
            taken.extend([outcome.version] if outcome.version is not None else [])
            if as_json or outcome.error is None:
                yield _imported_row(outcome)

    columns = ("task", "version", "num_virtual_tokens", "source") if len(sources) > 1 else None
    emit(rows(), as_json, "Imported", columns)
    for version in taken:
        tell_taken_over(library.made().registry, version)
    for outcome in refused:
        warn(f"{outcome.source} is refused: {outcome.error}")
    if refused:
        warn(f"{len(refused)} of {len(sources)} prompts were refused; the others are in the library")
        raise typer.Exit(1)


def _imported_row(outcome: Imported) -> dict[str, Any]:
    version = outcome.version
    if version is None:
        named = {"task": outcome.task, "version": None, "digest": None}
        more: dict[str, Any] = {"base": None, "fingerprint": None, "num_virtual_tokens": None}
    else:
        named = version_row(version)
        more = {
            "base": version.base,
            "fingerprint": version.fingerprint,
            "num_virtual_tokens": version.card.num_virtual_tokens,
        }
    return {**named, **more, "source": str(outcome.source), "error": outcome.error and str(outcome.error)}
