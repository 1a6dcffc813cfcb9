"""`softprompt jobs`: fine-tuning jobs of a tenant."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library

app = typer.Typer(help="Fine-tuning jobs that came over HTTP: list, show, cancel.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job: ftjob-...")]
Limit = Annotated[int, typer.Option(min=1, help="Most of them to show.")]

COLUMNS = ("job", "task", "status", "step", "model", "created_at", "error")


@app.command("list")
def list_jobs(
    limit: Limit = 20,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from softprompt.jobs.jobs import Jobs

    library = open_library(home, registry, store, tenant)
    found = Jobs(library).page(limit=limit).rows
    columns = [name for name in COLUMNS if name != "created_at"]  # their order tells, and 80 columns are few
    emit((job.row() for job in found), as_json, f"Jobs of tenant {library.tenant}", columns)


@app.command()
def show(
    job: Name,
    events: Annotated[int, typer.Option(min=0, help="How many of its last events to show.")] = 20,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Show a job and what happened in it."""
    from softprompt.jobs.jobs import Jobs

    jobs = Jobs(open_library(home, registry, store, tenant))
    found = jobs.get(job)
    told = [
        {"at": event.created_at, "level": event.level, "message": event.message}
        for event in reversed(jobs.events(job, limit=events).rows if events else [])
    ]
    if as_json:
        emit([{**found.row(), "config": found.config, "outcome": found.outcome, "events": told}], True, "Job")
        return
    emit([found.row()], False, "Job", COLUMNS)
    emit(told, False, "Events", ("at", "level", "message"))


@app.command()
def cancel(
    job: Name,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Cancel a job that waits or runs; what it has trained is lost."""
    from softprompt.jobs.jobs import Jobs

    emit([Jobs(open_library(home, registry, store, tenant)).cancel(job).row()], as_json, "Cancelled", COLUMNS)
