"""`softprompt sweep`: many candidates of one task, the best one published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit
from softprompt.cli.train import stopping


@library_options
@base_options
def sweep(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task whose keys are varied.")],
    choices: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2...", help="Values to try, such as learning_rate=0.03,0.1 seed=0,1,2."),
    ],
    samples: Annotated[int | None, typer.Option(min=1, help="Draw so many combinations at random instead of all.")] = None,
    halving: Annotated[bool, typer.Option(help="Drop the worse half at a quarter and at half of the steps.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a page of the candidates' curves there.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Train many candidates of a task at once, drop the losers early, publish the survivor."""
    from softprompt.progress import Bars

    values = _read_choices(choices)
    progress = Bars()
    with stopping() as stop:
        with progress.loading("torch and the library"):
            from softprompt.training.sweep import RUNGS
            from softprompt.training.sweep import sweep as run_sweep

            library = where.open()
        swept = run_sweep(
            file, values, samples=samples, rungs=RUNGS if halving else (),
            library=library, base=base, progress=progress, stop=stop,
        )  # fmt: skip
    row = swept.tuned.row()
    if plot is not None:
        from softprompt.training.sweep import write_page

        try:
            progress.note(f"curves: {write_page(plot, row['task'], swept.candidates, swept.histories)}")
        except OSError as error:  # the prompt is published: its row must not be lost for a picture
            progress.warn(f"the curves cannot be written to {str(plot)!r}: {error.strerror or error}")
    if not as_json:
        emit(swept.candidates, False, f"{row['task']}: candidates by validation")
    emit([row], as_json, f"Published {row['task']}@{row['version']}", ("task", "version", "metric", "value", "validation"))


def _read_choices(choices: list[str]) -> dict[str, list[Any]]:
    """Keys and the values to try, read as a task file reads them."""
    import yaml

    from softprompt.errors import ConfigError

    found: dict[str, list[Any]] = {}
    for choice in choices:
        key, equals, values = choice.partition("=")
        if not equals or not values:
            raise ConfigError(f"{choice!r} is no choice; write KEY=V1,V2, such as learning_rate=0.03,0.1")
        if key in found:
            raise ConfigError(f"{key!r} is given twice; write all its values behind one {key}=")
        try:
            found[key] = yaml.safe_load(f"[{values}]")
        except (yaml.YAMLError, ValueError):
            raise ConfigError(
                f"the values of {choice!r} cannot be read; put a text with braces, commas or colons in double quotes of its "
                "own, such as 'input=\"Question: {text}\"'"
            ) from None
    return found
