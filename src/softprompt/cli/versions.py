"""`softprompt tag`, `delete` and `restore`: what is done to one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, version_row

if TYPE_CHECKING:
    from softprompt.registry.records import Version


@library_options
def tag(
    ref: Annotated[str, typer.Argument(help="The version, as TASK@N or TASK@ALIAS.")],
    add: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to remove; may be repeated.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Add tags to a version, or remove them."""
    if not add and not remove:
        raise typer.BadParameter("give a TAG to add, or --remove TAG")
    version = where.open().registry.tag(ref, add=add or (), remove=remove or ())
    emit([_row(version)], as_json, "Tagged")


@library_options
def delete(
    ref: Annotated[str, typer.Argument(help="The version, as TASK@N; with --all, the task.")],
    every: Annotated[bool, typer.Option("--all", help="Delete every version of the task.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete although aliases point there; they are removed with it.")
    ] = False,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Delete a version softly: it is hidden, its bytes stay, and `restore` brings it back."""
    registry = where.open().registry
    deleted = registry.delete_task(ref, force=force) if every else [registry.delete(ref, force=force)]
    emit([_row(version) for version in deleted], as_json, "Deleted")


@library_options
def restore(
    ref: Annotated[str, typer.Argument(help="The deleted version, as TASK@N.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Bring a deleted version back."""
    emit([_row(where.open().restore(ref))], as_json, "Restored")


def _row(version: Version) -> dict[str, Any]:
    return {**version_row(version), "tags": list(version.tags), "deleted": version.deleted}
