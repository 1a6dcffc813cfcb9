"""`softprompt suite`: behavioural suites run on versions, and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, PassagesFrom, library_options, moved_base_options
from softprompt.cli.output import emit, warn, with_errors

if TYPE_CHECKING:
    from softprompt.registry.records import Outcome

app = typer.Typer(help="Behavioural suites of tasks: run, show, list, drop.", no_args_is_help=True)

COLUMNS = ("task", "version", "suite", "check", "value", "rows", "before")
LIST_COLUMNS = ("task", "version", "suite", "checks", "rows", "tolerance", "aliases", "created_at", "actor")


@app.command()
@library_options
@moved_base_options
def run(
    refs: Annotated[list[str], typer.Argument(metavar="TASK", help="Versions, each as TASK, TASK@N or TASK@ALIAS.")],
    suite: Annotated[list[Path], typer.Option("--suite", help="A suite (.yaml); may be repeated.")],
    task_file: Annotated[
        Path | None,
        typer.Option("--task-file", help="The task, for a version that came without its own and a suite without rows."),
    ] = None,
    passages: PassagesFrom = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="For suites of a harness: a server of this library that runs already; by default one is started.",
            show_default=False,
        ),
    ] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Run suites on versions and keep, row by row, what they find: `promote` compares that."""
    from softprompt.evaluation.suites.harness.find import find_judged
    from softprompt.evaluation.suites.looks import find_looks
    from softprompt.evaluation.suites.suite import Suite
    from softprompt.library.passages import Passages, read_sources
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("the rows"):
        library = where.open()
        suites = [Suite.load(file) for file in suite]
        given = None
        if task_file is not None:
            from softprompt.tasks.task import Task

            given = Task.load(task_file)
        sources = Passages(read_sources(passages or []), warn)
        looks = find_looks(library, refs, suites, task=given, passages=sources, warn=warn)
        judged = find_judged(library, refs, suites, base, url, bool(passages))
    with progress.loading("torch"):
        from softprompt.evaluation.suites.harness.run import run_judged
        from softprompt.evaluation.suites.run import run_looks
    found = run_looks(library, looks, base, progress) if looks else []
    found += run_judged(library, judged, progress, url=url, registry=where.registry, store=where.store)
    _print(found, as_json, "Suites")


@app.command()
@library_options
def show(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="A version, as TASK, TASK@N or TASK@ALIAS.")],
    suite: Annotated[str | None, typer.Option("--suite", help="The name of one suite; by default all.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show what suites found of a version."""
    outcomes = where.open().registry.outcomes
    found = outcomes.of(ref) if suite is None else [outcomes.one(ref, suite)]
    _print(found, as_json, f"Suites of {ref}")


@app.command()
@library_options
def drop(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="A version, as TASK, TASK@N or TASK@ALIAS.")],
    suite: Annotated[str, typer.Option("--suite", help="The name of the suite.")],
    reason: Annotated[str | None, typer.Option(help="Why; kept in the audit.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take away what a suite found of a version: nobody is asked for it any more that is to take its place."""
    gone = where.open().registry.outcomes.drop(ref, suite, reason)
    row = {"task": gone.task, "version": gone.version, "suite": gone.suite, "rows": len(gone.rows), "digest": gone.digest}
    emit([row], as_json, "Dropped")


def _print(found: Sequence[Outcome], as_json: bool, title: str) -> None:
    rows = [row for outcome in found for row in outcome.check_rows()]
    if as_json:
        emit(rows, as_json, title)
        return
    shown = [row | {"check": f"{row['check']}{' ↓' if row['lower_is_better'] else ''}"} for row in rows]
    down = " (↓: less is better)" if any(row["lower_is_better"] for row in rows) else ""
    emit(with_errors(shown), as_json, f"{title}{down}", COLUMNS)


@app.command("list")
@library_options
def list_suites(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """List which suites were run on which versions of a task. Those of the version that an alias points to are asked of any
    that is to take its place."""
    registry = where.open().registry
    aliases = registry.aliases.of(task)
    rows = [
        {
            "task": task,
            "version": version.number,
            "suite": one.suite,
            "checks": len(one.checks),
            "rows": len(one.rows),
            "tolerance": one.tolerance,
            "digest": one.digest,
            "aliases": [alias for alias, number in aliases.items() if number == version.number],
            "file": one.definition.get("file"),
            "created_at": one.created_at,
            "actor": one.actor,
        }
        for version in registry.versions(task, deleted=False)
        for one in registry.outcomes.of(version.ref)
    ]
    emit(rows, as_json, f"Suites of {task}", LIST_COLUMNS)
