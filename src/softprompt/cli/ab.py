"""`softprompt ab`: two versions of a task compared on its own requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say

app = typer.Typer(
    help="Experiments: two versions compared on requests, by what clients say of the answers.", no_args_is_help=True
)

COLUMNS = ("arm", "version", "weight", "outcomes", "rate", "low", "high", "state")
Task = Annotated[str, typer.Argument(help="Name of the task.")]


class Arm(StrEnum):
    """What may win."""

    control = "control"
    candidate = "candidate"


@app.command()
@library_options
def start(
    task: Task,
    control: Annotated[
        str | None, typer.Option(help="The version to compare with, as N, TASK@N or TASK@ALIAS (default: what TASK means).")
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(help="The version to try (default: the newest other one of the same base).")
    ] = None,
    weight: Annotated[float, typer.Option(help="Share of the users that gets the candidate.")] = 0.5,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="All get the control; the candidate's answers are only compared with its.")
    ] = False,
    level: Annotated[float, typer.Option(help="Probability of a wrong decision, however often one looks.")] = 0.05,
    auto: Annotated[
        bool, typer.Option("--auto", "--promote", help="Promote the version that is clearly better by itself, and end.")
    ] = False,
    max_outcomes: Annotated[int | None, typer.Option(help="End after so many outcomes, decided or not.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Let two versions of a task share its requests; a user always gets the same one."""
    from softprompt.lifecycle import experiments

    made = experiments.start(
        where.open(), task, control=control, candidate=candidate, weight=weight, shadow=shadow, level=level, auto=auto,
        max_outcomes=max_outcomes,
    )  # fmt: skip
    _show(experiments.rows(made), as_json, f"Experiment {made.id} of {task} runs")


@app.command()
@library_options
def status(task: Task, *, where: Location, as_json: Json = False) -> None:
    """Show the experiment that runs, or ran last: outcomes, bounds of each rate, and what they say."""
    from softprompt.lifecycle import experiments

    rows = experiments.status(where.open(), task)
    first = rows[0]
    if not as_json and first["experiment"] is None:
        say(f"task {task!r} has no experiment, and had none; `softprompt ab start {task}` begins one")
        return
    _show(rows, as_json, f"Experiment {first['experiment']} of {task}")


@app.command()
@library_options
def change(
    task: Task,
    weight: Annotated[float, typer.Option(help="Share of the users that gets the candidate from now on.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Give the candidate of the experiment that runs another share; nobody moves who need not."""
    from softprompt.lifecycle import experiments

    changed = experiments.change(where.open(), task, weight=weight)
    _show(experiments.rows(changed), as_json, f"Experiment {changed.id} of {task} goes on")


@app.command()
@library_options
def stop(
    task: Task,
    winner: Annotated[Arm | None, typer.Option(help="The arm to promote to production (default: nothing moves).")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """End a task's experiment: all get again what its name means."""
    from softprompt.lifecycle import experiments

    ended = experiments.stop(where.open(), task, winner=winner.value if winner is not None else None)
    _show(experiments.rows(ended), as_json, f"Experiment {ended.id} of {task} is ended")


def _show(rows: Sequence[Mapping[str, Any]], as_json: bool, title: str) -> None:
    """A row for each arm, and for people what they say together."""
    if as_json:
        emit(rows, as_json, title)
        return
    short = [{name: round(one, 3) if isinstance(one, float) else one for name, one in row.items()} for row in rows]
    emit(short, as_json, title, COLUMNS)
    first = rows[0]
    if first["shadow"]:
        say(f"in the shadow the candidate gave {first['agreed']} of {first['compared']} answers as the control did")
    else:
        decision = first["decision"] or "none yet"
        say(f"decision: {decision}; the e-value is {first['e_value']:.3g}, and {1 / first['level']:.4g} decides")
    if first["reason"]:
        say(first["reason"])
