"""`softprompt jobs`: fine-tuning jobs of a tenant."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit

app = typer.Typer(help="Fine-tuning jobs that came over HTTP: list, show, pause, resume, cancel.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job: ftjob-...")]

COLUMNS = ("job", "task", "status", "step", "model", "created_at", "error")


@app.command("list")
@library_options
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Most of them to show.")] = 20, *, where: Location, as_json: Json = False
) -> None:
    """List jobs, newest first."""
    from softprompt.jobs.jobs import Jobs

    library = where.open()
    found = Jobs(library).page(limit=limit).rows
    columns = [name for name in COLUMNS if name != "created_at"]  # their order tells, and 80 columns are few
    emit((job.row() for job in found), as_json, f"Jobs of tenant {library.tenant}", columns)


@app.command()
@library_options
def show(
    job: Name,
    events: Annotated[int, typer.Option(min=0, help="How many of its last events to show.")] = 20,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show a job and what happened in it."""
    from softprompt.jobs.jobs import Jobs

    jobs = Jobs(where.open())
    found = jobs.get(job)
    lines = [
        {"at": event.created_at, "level": event.level, "message": event.message}
        for event in reversed(jobs.events(job, limit=events).rows if events else [])
    ]
    if as_json:
        emit([{**found.row(), "config": found.config, "outcome": found.outcome, "events": lines}], True, "Job")
        return
    emit([found.row()], False, "Job", COLUMNS)
    emit(lines, False, "Events", ("at", "level", "message"))


@app.command()
@library_options
def cancel(job: Name, *, where: Location, as_json: Json = False) -> None:
    """Cancel a job that waits or runs; what it has trained is lost."""
    from softprompt.jobs.jobs import Jobs

    emit([Jobs(where.open()).cancel(job).row()], as_json, "Cancelled", COLUMNS)


@app.command()
@library_options
def pause(job: Name, *, where: Location, as_json: Json = False) -> None:
    """Pause a job that waits or runs; what it has trained is kept."""
    from softprompt.jobs.jobs import Jobs

    emit([Jobs(where.open()).pause(job).row()], as_json, "Paused", COLUMNS)


@app.command()
@library_options
def resume(job: Name, *, where: Location, as_json: Json = False) -> None:
    """Let a paused job wait for a worker again, which a server of this home starts; it goes on from where it was."""
    from softprompt.jobs.jobs import Jobs

    emit([Jobs(where.open()).resume(job).row()], as_json, "Resumed", COLUMNS)
