"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, warn, with_errors

if TYPE_CHECKING:
    from softprompt.evaluation.answer_file import AnswerFile
    from softprompt.evaluation.cases import Case

COLUMNS = ("task", "version", "metric", "value", "rows", "loss", "truncated", "unfinished")


@library_options
@moved_base_options
def evaluate(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="Task files, for their test rows; or, with --data, TASK[@N|@ALIAS]."),
    ],
    data: Annotated[Path | None, typer.Option(help="Rows with answers (.jsonl, .csv, .parquet ...) to judge on.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows of one task there, with what was said and what each row counts."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --output names.")] = False,
    version: Annotated[str | None, typer.Option(help="Version or alias to judge, where none is named.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Judge tuned prompts on the test rows of their task files, or on rows of your own."""
    from softprompt.evaluation.cases import find_cases
    from softprompt.library.binding import check_base
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("the rows"):
        library = where.open()
        cases = find_cases(refs, library, data, version)
        for case in cases:
            options = case.options(base)
            if base.source is not None and (note := check_base(case.version, options)) is not None:
                warn(note)
    with progress.loading("torch"):
        from softprompt.evaluation.evaluate import judge_cases
    with _answer_file(output, cases, force=force) if output is not None else nullcontext() as file:
        evaluations = judge_cases(library, cases, base, progress)
        if file is not None:
            said = zip(evaluations[0].outputs, evaluations[0].values, strict=True)
            file.add([{"output": text, "value": value} for text, value in said])
            for column, name in file.finish(("output", "value")).items():
                warn(f"the rows have a column {column!r} already; the new one is called {name!r}")
    rows = [evaluation.row() for evaluation in evaluations]
    emit(rows if as_json else with_errors(rows), as_json, "Evaluation", COLUMNS)


def _answer_file(output: Path, cases: Sequence[Case], *, force: bool) -> AnswerFile:
    from softprompt.errors import ConfigError
    from softprompt.evaluation.answer_file import AnswerFile

    if len(cases) != 1:
        raise ConfigError(f"--output holds the rows of one task, and {len(cases)} are judged; judge them one by one")
    return AnswerFile(output, cases[0].given, {"at": time.time()}, force=force)
