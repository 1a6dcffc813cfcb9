"""`softprompt list` and `softprompt show`: what the library holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say, with_errors
from softprompt.text import plural, told_layers

if TYPE_CHECKING:
    from softprompt.registry.records import Origin, Version

LIST_COLUMNS = ("task", "version", "versions", "base", "metric", "value", "aliases", "tags")
SHOW_COLUMNS = (
    "version",
    "digest",
    "prompt_type",
    "base",
    "metric",
    "value",
    "rows",
    "created_at",
    "aliases",
    "tags",
    "deleted",
)


@library_options
def list_tasks(
    base: Annotated[str | None, typer.Option(help="Only prompts of this base: its id, folder or fingerprint.")] = None,
    task: Annotated[str | None, typer.Option(help="Only tasks of this name; * and ? match any text.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only versions with this tag.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Only this metric, with a bound if you like: accuracy, or 'accuracy>=0.8'.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every live version, not only the newest of each task.")] = False,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """List the tasks: the newest version of each that passes the filters."""
    from softprompt.registry.listing import Filters

    library = where.open()
    found = library.registry.tasks(Filters(base=base, task=task, tag=tag, metric=metric, every=every))
    emit((entry.row() for entry in found), as_json, f"Tasks of tenant {library.tenant}", LIST_COLUMNS)


@library_options
def show(
    task: Annotated[str, typer.Argument(help="Name of the task; task@3 or task@production shows that version alone.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show a task: its versions, aliases, tags and scores."""
    from softprompt.names import parse_ref

    library = where.open()
    name = parse_ref(task).task
    aliases = library.registry.aliases.of(name)
    one = "@" in task
    versions = [library.registry.resolve(task, deleted=True)] if one else library.registry.versions(name)
    rows = list(_version_rows(versions, aliases))
    origin = library.registry.origin(versions[0].ref) if one else None
    if one and as_json:
        rows[0]["origin"] = origin and origin.row()
    if as_json:
        emit([{"task": name, "tenant": library.tenant, "aliases": aliases, "versions": rows}], True, name)
        return
    if one:
        card = versions[0].card
        layers = {} if card.layers is None else {"layers": told_layers(card.layers)}
        told = card.model_dump(mode="json") | layers | rows[0] | _origin_row(origin)
        from softprompt.prompts.card import REFERENCE

        told["recipe"] = {key: value for key, value in card.recipe.items() if key != REFERENCE}  # numbers for `drift`
        emit([told], False, versions[0].ref)
        _tell_unlearnt(versions)
        return
    bases = {version.base for version in versions}
    on = f", on {bases.pop()}" if len(bases) == 1 else ""
    said = ["base"] * bool(on) + ["prompt_type"] * all(row["prompt_type"] == "soft" for row in rows)
    columns = [column for column in SHOW_COLUMNS if column not in said]
    emit(with_errors(rows), False, f"{name}: versions{on}", columns)
    _tell_unlearnt(versions)


def _tell_unlearnt(versions: list[Version]) -> None:
    """Name those that are no better than a baseline, as the scores in a table do not tell it."""
    if unlearnt := [version.ref for version in versions if version.card.learnt is False and not version.deleted]:
        say(f"not learnt, as a baseline is as good, or better: {', '.join(unlearnt)}")


def _origin_row(origin: Origin | None) -> dict[str, Any]:
    """What a version was trained from, as people read it: the task file as a file, a line for each split."""
    if origin is None:
        return {"origin": "none was recorded"}
    import yaml

    file = yaml.safe_dump(origin.task_file, sort_keys=False, allow_unicode=True).strip()
    splits = [
        f"{one['split']}: {plural(one['rows'], 'row')} of {one['address']}, digest {one['digest'][:12]}"
        for one in origin.data
    ]
    return {"trained_from": file, "trained_on": "\n".join(splits)}


def _version_rows(versions: list[Version], aliases: dict[str, int]) -> Iterator[dict[str, Any]]:
    for version in versions:
        card = version.card
        yield {
            "version": version.number,
            "digest": version.digest,
            "prompt_type": card.prompt_type,
            "base": version.base,
            "fingerprint": version.fingerprint,
            "metric": card.metric,
            "value": card.metrics.get("value"),
            "stderr": card.metrics.get("stderr"),
            "rows": card.metrics.get("rows"),
            "learnt": card.learnt,
            "created_at": version.created_at,
            "actor": version.actor,
            "aliases": sorted(alias for alias, number in aliases.items() if number == version.number),
            "tags": list(version.tags),
            "deleted": version.deleted,
            "parents": list(card.parents),
            "data_digest": card.data_digest,
            "recipe": card.recipe,
            "metrics": card.metrics,
        }
