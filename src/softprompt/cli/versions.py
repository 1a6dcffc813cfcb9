"""`softprompt tag`, `delete` and `restore`: what is done to one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library

if TYPE_CHECKING:
    from softprompt.registry.records import Version


def tag(
    ref: Annotated[str, typer.Argument(help="The version, as TASK@N or TASK@ALIAS.")],
    add: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to remove; may be repeated.")] = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Add tags to a version, or remove them."""
    if not add and not remove:
        raise typer.BadParameter("give a TAG to add, or --remove TAG")
    version = open_library(home, registry, store, tenant).registry.tag(ref, add=add or (), remove=remove or ())
    emit([_row(version)], as_json, "Tagged")


def delete(
    ref: Annotated[str, typer.Argument(help="The version, as TASK@N; with --all, the task.")],
    every: Annotated[bool, typer.Option("--all", help="Delete every version of the task.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete although aliases point there; they are removed with it.")
    ] = False,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Delete a version softly: it is hidden, its bytes stay, and `restore` brings it back."""
    library = open_library(home, registry, store, tenant)
    deleted = library.registry.delete_task(ref, force=force) if every else [library.registry.delete(ref, force=force)]
    emit([_row(version) for version in deleted], as_json, "Deleted")


def restore(
    ref: Annotated[str, typer.Argument(help="The deleted version, as TASK@N.")],
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Bring a deleted version back."""
    emit([_row(open_library(home, registry, store, tenant).restore(ref))], as_json, "Restored")


def _row(version: Version) -> dict[str, Any]:
    return {
        "task": version.task,
        "version": version.number,
        "digest": version.digest,
        "tags": list(version.tags),
        "deleted": version.deleted,
    }
