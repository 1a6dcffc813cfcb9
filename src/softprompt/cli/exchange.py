"""`softprompt export` and `softprompt import`: prompts out of the library and into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, library_options
from softprompt.cli.output import emit, warn, write_whole

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.prompts.card import Card


class Format(StrEnum):
    """Shape of an exported prompt."""

    PEFT = "peft"
    SOFTPROMPT = "softprompt"


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
    library = where.open()
    version = library.resolve(ref)
    data = library.read(version)
    with _written(folder):
        if form is Format.SOFTPROMPT:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{version.ref}.safetensors"
            write_whole(path, data)
        else:
            from softprompt.bases.locate import BUILTIN, locate, split_revision
            from softprompt.prompts.prompt import SoftPrompt

            # PEFT knows no built-in bases, but it can load their folder.
            base, revision = split_revision(str(locate(version.base)) if version.base in BUILTIN else version.base)
            path = SoftPrompt.from_bytes(data, digest=version.digest).save_peft(folder, base, revision)
            if hint := version.card.adapter_hint:
                warn(f"{version.ref} was tuned on {version.card.base}{hint}; in PEFT, too, it needs that one")
    row = {
        "task": version.task,
        "version": version.number,
        "digest": version.digest,
        "format": form.value,
        "path": str(path.absolute()),
    }
    emit([row], as_json, "Exported")


@library_options
@adapter_options
def import_prompt(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT folder, or a softprompt file.")],
    task: Annotated[
        str | None,
        typer.Option(help="Task it becomes a version of (default: the one a softprompt file names)."),
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
    from softprompt.names import check_task

    library = where.open()
    base = replace(base, source=named)
    changes: dict[str, Any] = {"input": template, "target": target, "labels": tuple(label) if label else None}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes:
        _check_form(changes)
    if task is not None:
        check_task(task)
    if like is not None:
        card = library.resolve(like).card
        kept = ("input", "target", "labels", "metric", "max_new_tokens", "instruction")
        changes = {**{name: getattr(card, name) for name in kept}, **changes}
    if source.is_dir():
        if task is None:
            raise typer.BadParameter("a PEFT folder names no task: give --task NAME")
        data, address = _from_peft(source, task, base, changes)
    else:
        data, address = _from_file(source, {**changes, **({"task": task} if task else {})}, base)
    _publish(library, data, address, tags or [], as_json)


def _publish(library: Library, data: bytes, base: str, tags: list[str], as_json: bool) -> None:
    version = library.publish(data, base=base, tags=tags)
    row = {
        "task": version.task,
        "version": version.number,
        "digest": version.digest,
        "base": version.base,
        "fingerprint": version.fingerprint,
        "num_virtual_tokens": version.card.num_virtual_tokens,
    }
    emit([row], as_json, "Imported")


def _from_peft(folder: Path, task: str, base: BaseOptions, changes: dict[str, Any]) -> tuple[bytes, str]:
    """Bytes of a prompt file from a PEFT folder, and the base as named."""
    from softprompt.errors import PromptFileError
    from softprompt.prompts.prompt import SoftPrompt, read_peft_config

    config = read_peft_config(folder)
    named = base.source or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise PromptFileError(f"the adapter in {str(folder)!r} names no base; give it with --base ID")
    if base.source is None and isinstance(config.get("revision"), str) and not Path(named).exists():
        named = f"{named}@{config['revision']}"
    from softprompt.bases.base import FrozenBase
    from softprompt.bases.locate import BUILTIN

    for name, path in BUILTIN.items():
        if Path(named).is_dir() and Path(named).resolve() == path.resolve():
            named = name
    loaded = FrozenBase.load(base, source=named)
    prompt = SoftPrompt.load_peft(folder, task=task, base=loaded)
    return SoftPrompt(prompt.vectors_PD, _changed(prompt.card, changes)).to_bytes(), loaded.address


def _from_file(path: Path, changes: dict[str, Any], base: BaseOptions) -> tuple[bytes, str]:
    """Bytes of a prompt file, its card changed as asked, and the base as named."""
    from softprompt.errors import FingerprintMismatch, PromptFileError
    from softprompt.prompts.file import read_file, write_file

    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptFileError(
            f"{str(path)!r} cannot be read ({error.strerror}); give a PEFT folder or a softprompt file"
        ) from None
    try:
        card, tensors = read_file(data)
    except PromptFileError as error:
        raise PromptFileError(f"{str(path)!r}: {error}") from None
    changed = _changed(card, changes)
    address = card.base
    if base.source is not None:
        from softprompt.bases.adapter import find_adapter
        from softprompt.bases.fingerprint import fingerprint_of_folder
        from softprompt.bases.locate import locate

        folder = locate(base.source)
        found = fingerprint_of_folder(folder, find_adapter(base.adapter) if base.adapter else None)
        if found != card.fingerprint:
            raise FingerprintMismatch(
                f"{str(path)!r} was tuned on {card.base} ({card.fingerprint}){card.adapter_hint}, and {base.shown!r} is "
                f"{found}; give the base it was tuned on"
            )
        address = str(folder) if Path(base.source).expanduser().is_dir() else base.source
    return (data if changed == card else write_file(changed, tensors)), address


def _check_form(changes: dict[str, Any]) -> None:
    """Refuse what a task file would be refused for: a prompt with a broken template could never answer."""
    from softprompt.tasks.config import parse_config
    from softprompt.tasks.form import Form

    Form.of_config(parse_config(changes, where="import"))


def _changed(card: Card, changes: dict[str, Any]) -> Card:
    changed = type(card).model_validate({**card.model_dump(), **changes})
    judged = ("input", "target", "labels", "metric")
    if card.metrics and any(getattr(card, name) != getattr(changed, name) for name in judged):
        return changed.model_copy(update={"metrics": {}})  # the scores were those of other templates or labels
    return changed


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    from softprompt.errors import LibraryError

    try:
        yield
    except OSError as error:
        raise LibraryError(f"cannot write to {str(folder)!r}: {error.strerror or error}; choose another folder") from error
