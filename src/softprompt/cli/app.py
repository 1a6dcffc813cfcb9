"""The command `softprompt`: every command registered once, in the order that help shows."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli import ab, base, jobs, keys, library, suite, tenant
from softprompt.cli.aliases import audit, promote, rollback
from softprompt.cli.bundle import bundle, unbundle
from softprompt.cli.combine import combine
from softprompt.cli.compare import compare
from softprompt.cli.correct import correct
from softprompt.cli.demo import demo
from softprompt.cli.deploy import deploy
from softprompt.cli.diagnose import diagnose
from softprompt.cli.distill import distill
from softprompt.cli.doctor import doctor
from softprompt.cli.drift import drift
from softprompt.cli.evaluate import evaluate
from softprompt.cli.exchange import export_prompt, import_prompt
from softprompt.cli.hub import pull, push
from softprompt.cli.import_openai import import_openai
from softprompt.cli.init import init
from softprompt.cli.inspect import inspect
from softprompt.cli.options import Command, Group, Location, front_options, name_values, stand_before
from softprompt.cli.personalize import personalize
from softprompt.cli.predict import predict
from softprompt.cli.report import report
from softprompt.cli.retrain import retrain
from softprompt.cli.review import review
from softprompt.cli.serve import serve
from softprompt.cli.sweep import sweep
from softprompt.cli.tasks import list_tasks, show
from softprompt.cli.train import train
from softprompt.cli.upgrade import upgrade
from softprompt.cli.versions import delete, restore, tag

app = typer.Typer(
    name="softprompt",
    cls=Group,
    help="Prompt tuning: train, keep, judge and serve soft prompts on one frozen language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PANELS: dict[str, dict[str, typer.Typer | Command]] = {
    "Tune and use": {
        "init": init, "import-openai": import_openai, "train": train, "distill": distill, "sweep": sweep,
        "evaluate": evaluate, "suite": suite.app, "compare": compare, "combine": combine, "personalize": personalize,
        "retrain": retrain, "correct": correct,
        "upgrade": upgrade, "predict": predict, "serve": serve, "deploy": deploy,
        "inspect": inspect, "diagnose": diagnose, "drift": drift, "review": review,
        "demo": demo, "doctor": doctor, "base": base.app,
    },
    "The library": {
        "list": list_tasks, "show": show, "report": report, "promote": promote, "rollback": rollback, "audit": audit,
        "tag": tag,
        "delete": delete, "restore": restore, "export": export_prompt, "import": import_prompt,
        "push": push, "pull": pull, "bundle": bundle, "unbundle": unbundle, "ab": ab.app, "library": library.app,
        "keys": keys.app, "jobs": jobs.app, "tenant": tenant.app,
    },
}  # fmt: skip
for panel, commands in _PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


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


name_values(app)
