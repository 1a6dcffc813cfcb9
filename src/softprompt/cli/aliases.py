"""`softprompt promote`, `rollback` and `audit`: moving aliases, and who moved them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, scored, warn

if TYPE_CHECKING:
    from softprompt.registry.records import AuditEntry

MOVE_COLUMNS = ("task", "alias", "before", "after", "reason")
PROMOTION_COLUMNS = (*MOVE_COLUMNS, "decision")
AUDIT_COLUMNS = ("seq", "at", "actor", "action", "task", "change", "reason")


@library_options
def promote(
    ref: Annotated[str, typer.Argument(metavar="TASK@N", help="The version, as TASK@N.")],
    alias: Annotated[str, typer.Option(help="The alias that shall point to it.")] = "production",
    force: Annotated[bool, typer.Option("--force", help="Promote although it scores worse; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the audit.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Point an alias at a version, unless it is clearly worse than the one there now: by the suites that were run on that,
    and where there are none by its score."""
    library = where.open()
    move = library.promote(ref, alias, force=force, reason=reason)
    title = "Promoted" if move.before != move.after else f"Nothing moved: {alias} is there already; name another as TASK@N"
    row = move.row()
    for name, number in (("before", move.before), ("after", move.after)):
        card = None if number is None else library.registry.resolve(f"{move.task}@{number}", deleted=True).card
        metrics = card.metrics if card is not None else {}
        if name == "after" and card is not None and card.learnt is False:
            ref = f"{move.task}@{number}"
            warn(f"{ref} has not learnt: a baseline is as good, or better; see `softprompt show {ref}`")
        row |= {f"{name}_{key}": metrics.get(key) for key in ("value", "stderr", "rows")}
        if not as_json and (score := scored(row[f"{name}_value"], row[f"{name}_stderr"])):
            row[name] = f"{number}: {score} on {row[f'{name}_rows']} rows"
    emit([row], as_json, title, PROMOTION_COLUMNS)


@library_options
def rollback(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    alias: Annotated[str, typer.Option(help="The alias to put back.")] = "production",
    reason: Annotated[str | None, typer.Option(help="Why; kept in the audit.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Put an alias back to what it pointed to before its last promotion; again to go further back."""
    move = where.open().rollback(task, alias, reason=reason)
    emit([move.row()], as_json, "Rolled back", MOVE_COLUMNS)


@library_options
def audit(
    task: Annotated[str | None, typer.Argument(help="Name of the task; without it, everything.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest N entries.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show who changed what, when, from what to what: oldest first."""
    entries = where.open().registry.audit(task, limit=limit)
    rows = (entry.row() if as_json else {**entry.row(), "change": _change(entry)} for entry in entries)
    emit(rows, as_json, f"Audit of {task or 'all tasks'}", AUDIT_COLUMNS)


def _change(entry: AuditEntry) -> str:
    """What changed, in few words; JSON has it all."""
    before, after = entry.before or {}, entry.after or {}
    if "alias" in after:
        forced = ", forced" if after.get("forced") else ""
        return f"{after['alias']}: {before.get('version') or 'none'} -> {after['version']}{forced}"
    if entry.action == "tag":
        added, removed = set(after["tags"]) - set(before["tags"]), set(before["tags"]) - set(after["tags"])
        signs = [f"+{tag}" for tag in sorted(added)] + [f"-{tag}" for tag in sorted(removed)]
        return f"version {after['version']}: {' '.join(signs)}"
    state = after or before
    if "version" in state:
        gone = "".join(f"; {alias}: {before['version']} -> none" for alias in before.get("aliases", ()))
        return f"version {state['version']}{gone}"
    if "experiment" in state:
        arms = f": {state['control']} and {state['candidate']}" if "control" in state else f": {state['decision']}"
        return f"experiment {state['experiment']}{arms}"
    return f"key {state['key']}" if "key" in state else ""
