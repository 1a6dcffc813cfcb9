"""`softprompt tag`, `delete` and `restore`: what is done to one version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, version_row, warn
from softprompt.errors import NotFound
from softprompt.names import parse_ref

if TYPE_CHECKING:
    from softprompt.registry.records import Version
    from softprompt.registry.registry import Registry


@library_options
def tag(
    ref: Annotated[str, typer.Argument(metavar="TASK@N", help="The version, as TASK@N or TASK@ALIAS.")],
    add: Annotated[list[str] | None, typer.Argument(metavar="TAG", help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to remove; may be repeated.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Add tags to a version, or remove them."""
    if not add and not remove:
        raise typer.BadParameter("no tag was named; give a TAG to add, or --remove TAG")
    version = where.open().registry.tag(ref, add=add or (), remove=remove or ())
    emit([_row(version)], as_json, "Tagged")


@library_options
def delete(
    ref: Annotated[str, typer.Argument(metavar="TASK@N", help="The version, as TASK@N; with --all, the task.")],
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
    with _telling(registry, parse_ref(ref).task):
        deleted = registry.delete_task(ref, force=force) if every else [registry.delete(ref, force=force)]
    emit([_row(version) for version in deleted], as_json, "Deleted")


@library_options
def restore(
    ref: Annotated[str, typer.Argument(metavar="TASK@N", help="The deleted version, as TASK@N.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Bring a deleted version back."""
    library = where.open()
    with _telling(library.registry, parse_ref(ref).task):
        restored = library.restore(ref)
    emit([_row(restored)], as_json, "Restored")


@contextmanager
def _telling(registry: Registry, task: str) -> Iterator[None]:
    """Tell where a task's bare name means another version behind a change than before it."""
    before = _meant(registry, task)
    yield
    after = _meant(registry, task)
    if after is None and before is not None:
        warn(f"{task!r} meant {before.ref} and means nothing now: no version of it is left")
    elif after is not None and (before is None or before.number != after.number):
        _tell(after, before)


def tell_taken_over(registry: Registry, version: Version) -> None:
    """Tell where a version that is new is what its task's bare name means from now on, in place of another."""
    if registry.resolve(version.task).number != version.number:
        return
    others = [other for other in registry.versions(version.task, deleted=False) if other.number < version.number]
    if others:
        _tell(version, max(others, key=lambda other: other.number))


def _tell(after: Version, before: Version | None) -> None:
    task, metrics = after.task, after.card.metrics
    score = f"{after.card.metric} {metrics['value']:.4g}" if "value" in metrics else "no score"
    was = f" and not {before.ref}" if before is not None else ""
    warn(f"{task!r} means {after.ref} from now on ({score}){was}; to choose another, `softprompt promote {task}@N`")


def _meant(registry: Registry, task: str) -> Version | None:
    try:
        return registry.resolve(task)
    except NotFound:
        return None


def _row(version: Version) -> dict[str, Any]:
    return {**version_row(version), "tags": list(version.tags), "deleted": version.deleted}
