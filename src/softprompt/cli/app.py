"""The command `softprompt`: every command registered once, in the order that help shows."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli import base, jobs, keys, library
from softprompt.cli.aliases import audit, promote, rollback
from softprompt.cli.demo import demo
from softprompt.cli.evaluate import evaluate
from softprompt.cli.exchange import export_prompt, import_prompt
from softprompt.cli.init import init
from softprompt.cli.options import Location, front_options, stand_before
from softprompt.cli.predict import predict
from softprompt.cli.serve import serve
from softprompt.cli.sweep import sweep
from softprompt.cli.tasks import list_tasks, show
from softprompt.cli.train import train
from softprompt.cli.versions import delete, restore, tag

app = typer.Typer(
    name="softprompt",
    help="Prompt tuning: train, keep, judge and serve soft prompts on one frozen language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("init", rich_help_panel="Tune and use")(init)
app.command("train", rich_help_panel="Tune and use")(train)
app.command("sweep", rich_help_panel="Tune and use")(sweep)
app.command("evaluate", rich_help_panel="Tune and use")(evaluate)
app.command("predict", rich_help_panel="Tune and use")(predict)
app.command("serve", rich_help_panel="Tune and use")(serve)
app.command("demo", rich_help_panel="Tune and use")(demo)
app.add_typer(base.app, name="base", rich_help_panel="Tune and use")
app.command("list", rich_help_panel="The library")(list_tasks)
app.command("show", rich_help_panel="The library")(show)
app.command("promote", rich_help_panel="The library")(promote)
app.command("rollback", rich_help_panel="The library")(rollback)
app.command("audit", rich_help_panel="The library")(audit)
app.command("tag", rich_help_panel="The library")(tag)
app.command("delete", rich_help_panel="The library")(delete)
app.command("restore", rich_help_panel="The library")(restore)
app.command("export", rich_help_panel="The library")(export_prompt)
app.command("import", rich_help_panel="The library")(import_prompt)
app.add_typer(library.app, name="library", rich_help_panel="The library")
app.add_typer(keys.app, name="keys", rich_help_panel="The library")
app.add_typer(jobs.app, name="jobs", rich_help_panel="The library")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"softprompt {version('softprompt')}")
        raise typer.Exit()


@app.callback()
@front_options
def front(
    *,
    where: Location,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    stand_before(where)
