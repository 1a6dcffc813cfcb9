"""`softprompt distill`: a written instruction into a soft prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Changes, Json, Location, base_options, library_options, read_changes
from softprompt.cli.output import say
from softprompt.cli.train import emit_tuned, library_to_fill, stopping

COLUMNS = ("task", "version", "metric", "value", "rows", "teacher", "agreement", "agreement_decided", "untrained", "seconds")


@library_options
@base_options
def distill(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task; its rows need no answers.")],
    instruction: Annotated[
        Path | None,
        typer.Option(help="Text that the base answers behind, with examples in it or not; by default the task's own."),
    ] = None,
    changes: Changes = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Tune a prompt to answer as the base does behind a written instruction, and tell what that saves."""
    from softprompt.progress import Bars
    from softprompt.tasks.config.instruction import read_instruction
    from softprompt.tasks.load import check_before_loading, load_tasks

    changed = read_changes(changes)
    progress = Bars()
    with stopping() as stop:
        with progress.loading("the rows"):
            (task,) = load_tasks(file)
            if instruction is not None:
                changed["instruction"] = read_instruction(instruction, str(instruction))
            task = task.variant(**changed, objective="distillation")
            check_before_loading([task], base)
            library = library_to_fill(where, [task])
        with progress.loading("torch"):
            from softprompt.training.distill import distill as tune
        distilled = tune(task, base=base, library=library, progress=progress, stop=stop)
    row = distilled.row()
    emit_tuned([row], as_json, f"{row['instruction_tokens']} tokens in {row['columns']} vectors, on test rows", COLUMNS)
    if not as_json:
        told = (
            f"a request alone takes {row['latency_ms']:.0f} ms, with the instruction {row['teacher_latency_ms']:.0f} ms: "
            f"{row['cheaper']:.1f} times as long. "
        )
        if row["teacher_kept_bytes"]:  # of an encoder nothing can be kept
            told += (
                f"Behind keys and values that a server keeps {row['cached_latency_ms']:.0f} "
                f"and {row['teacher_cached_latency_ms']:.0f} ms, {row['kept_bytes'] / 1e6:.1f} and "
                f"{row['teacher_kept_bytes'] / 1e6:.1f} MB for the task. "
            )
        say(f"{told}Each token attends to {row['columns']} and {row['teacher_columns']} columns before its input")
