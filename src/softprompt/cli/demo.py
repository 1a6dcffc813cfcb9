"""`softprompt demo`: the whole path in a few minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Json
from softprompt.cli.output import emit
from softprompt.cli.train import emit_tuned


def demo(
    home: Annotated[Path, typer.Option(help="Folder of the demonstration's library.")] = Path("demo-home"),
    as_json: Json = False,
) -> None:
    """Tune three tasks at once on the built-in base, then answer a mixed batch of all three."""
    from softprompt.library.library import Library
    from softprompt.progress import Bars

    progress, library = Bars(), Library.open(home)
    library.registry.database.check_writable()
    with progress.loading("torch and the built-in base"):
        from softprompt.demo import answer_mixed_batch, demo_tasks
        from softprompt.training.train import train

    tasks = demo_tasks(home, progress)
    tuned = train(tasks, library=library, progress=progress)
    columns = ("task", "version", "metric", "value", "rows", "majority", "zero_shot", "untrained")
    emit_tuned([one.row() for one in tuned], as_json, "Tuned at once on one frozen base, scores on test rows", columns)
    answers = answer_mixed_batch(tasks, home)
    emit(answers, as_json, "One mixed batch, one model, a prompt per row", ("task", "text", "output", "expected"))
    if not as_json:
        named = shlex.quote(str(home))
        typer.echo(f"The library is in {home}; look at it with: softprompt --home {named} list", err=True)
        typer.echo("or in a browser, at http://127.0.0.1:8000/console, while this runs:", err=True)
        typer.echo(f"  softprompt --home {named} serve --port 8000", err=True)
