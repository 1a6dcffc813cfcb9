"""`softprompt sweep`: many candidates of one task, the best one published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options, read_pairs
from softprompt.cli.output import emit, with_errors
from softprompt.cli.places import check_page
from softprompt.cli.train import emit_tuned, library_to_fill, stopping

COLUMNS = ("task", "version", "metric", "value", "rows", "majority", "zero_shot", "untrained", "validation")


@library_options
@base_options
def sweep(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task whose keys are varied.")],
    choices: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2", help="Values to try, such as learning_rate=0.03,0.1 seed=0,1,2."),
    ],
    samples: Annotated[int | None, typer.Option(min=1, help="Draw so many combinations at random instead of all.")] = None,
    halving: Annotated[
        bool,
        typer.Option(
            help="Drop the worse half at a quarter and half of the steps; of 9 candidates at an eighth, of 17 at a 16th too."
        ),
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a page of the candidates' curves there.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Train many candidates of a task at once, drop the losers early, publish the survivor."""
    from softprompt.progress import Bars
    from softprompt.tasks.load import check_before_loading, load_tasks

    check_page(plot, "--plot")
    values = read_pairs(choices, "is no choice; write KEY=V1,V2, such as learning_rate=0.03,0.1", many=True)
    progress = Bars()
    with stopping() as stop:
        with progress.loading("the rows"):
            (task,) = load_tasks(file)
            tasks = [task.variant(**{key: value}) for key, tried in values.items() for value in tried]
            for one in tasks:
                check_before_loading([one], base)
            library = library_to_fill(where, tasks)
        with progress.loading("torch"):
            from softprompt.training.sweep import sweep as run_sweep

        swept = run_sweep(
            task, values, samples=samples, rungs=None if halving else (),
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
        columns = [key for key in swept.candidates[0] if key != "validation_stderr"]
        emit(with_errors(swept.candidates), False, f"{row['task']}: candidates by validation", columns)
    emit_tuned([row], as_json, f"Published {row['task']}@{row['version']}, scores on test rows", COLUMNS)
