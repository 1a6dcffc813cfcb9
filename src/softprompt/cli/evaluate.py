"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, PassagesFrom, library_options, moved_base_options
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
        typer.Argument(metavar="TASK", help="Task files, for their test rows; or, with --data, TASK, TASK@N or TASK@ALIAS."),
    ],
    data: Annotated[Path | None, typer.Option(help="Rows with answers (.jsonl, .csv, .parquet ...) to judge on.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one task's rows there, what was said and counts beside them; a call cut short goes on from there.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --output names.")] = False,
    version: Annotated[str | None, typer.Option(help="Version or alias to judge, where none is named.")] = None,
    passages: PassagesFrom = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Judge tuned prompts on the test rows of their task files, or on rows of your own."""
    from softprompt.evaluation.cases import find_cases
    from softprompt.evaluation.metrics import OF_PASSAGES
    from softprompt.library.binding import check_base
    from softprompt.library.passages import Passages, read_sources
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("the rows"):
        library = where.open()
        cases = find_cases(refs, library, data, version, Passages(read_sources(passages or []), warn))
        for case in cases:
            if passages and case.task.form.retriever is None:
                warn(f"--passages: {case.version.ref} looks no passages up, and is judged without")
            options = case.options(base)
            if base.source is not None and (note := check_base(case.version, options)) is not None:
                warn(note)
    with _answer_file(output, cases, base, force=force) if output is not None else nullcontext() as file:
        with progress.loading("torch"):
            from softprompt.evaluation.evaluate import judge_cases
        try:
            evaluations = judge_cases(library, cases, base, progress, file)
        except KeyboardInterrupt:
            if file is not None:
                kept = f"{len(file.answers)} of {len(cases[0].rows)} rows are answered and kept"
                progress.note(f"{kept}; the same command goes on from there")
            raise
        if file is not None:
            said = zip(evaluations[0].outputs, evaluations[0].values, strict=True)
            file.answers = [{"output": text, "value": value} for text, value in said]
            for column, name in file.finish(("output", "value")).items():
                warn(f"the rows have a column {column!r} already; the new one is called {name!r}")
    rows = [evaluation.row() for evaluation in evaluations]
    shown = [*COLUMNS, *(name for name in OF_PASSAGES if any(name in row for row in rows))]
    emit(rows if as_json else with_errors(rows), as_json, "Evaluation", shown)


def _answer_file(output: Path, cases: Sequence[Case], base: BaseOptions, *, force: bool) -> AnswerFile:
    from softprompt.errors import ConfigError
    from softprompt.evaluation.answer_file import AnswerFile
    from softprompt.rows.sources import digest_rows

    if len(cases) != 1:
        raise ConfigError(f"--output holds the rows of one task, and {len(cases)} are judged; judge them one by one")
    (case,) = cases
    identity = {"version": case.version.digest, "number": case.version.number, "data": digest_rows(case.given)}
    identity |= {"retrieve": dict(found.settings)} if (found := case.task.form.retriever) is not None else {}
    return AnswerFile(output, case.given, {"judged": repr(case.options(base)), **identity}, force=force)
