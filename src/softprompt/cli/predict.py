"""`softprompt predict`: texts, or rows of a file, to answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, PassagesFrom, library_options, moved_base_options
from softprompt.cli.output import emit, warn
from softprompt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from softprompt.progress import Bars
    from softprompt.rows.places import PlacedRows
    from softprompt.rows.sources import Row
    from softprompt.serving.offline import Service
    from softprompt.tasks.form import Form

AT_ONCE = 256
"""Rows that are answered, shown and kept at a time."""

_UNANSWERED = {"output": None, "scores": None, "truncated": False, "labels": None, "value": None, "outside": False}
"""What there is to say of a blank row."""


@library_options
@moved_base_options
def predict(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task, TASK@N or TASK@ALIAS.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Inputs, or JSON objects of columns; without any, the lines of stdin."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Rows to answer (.csv, .jsonl, .xlsx ...).")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows there, answers beside them; a call cut short goes on from there."),
    ] = None,
    literal: Annotated[bool, typer.Option("--literal", help="Take JSON objects and files' names as texts.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --output names.")] = False,
    passages: PassagesFrom = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Answer texts, or the rows of a file, with a tuned prompt."""
    from softprompt.evaluation.answer_file import AnswerFile
    from softprompt.library.binding import check_base
    from softprompt.library.passages import Passages, read_sources
    from softprompt.progress import Bars, loading
    from softprompt.rows.places import Place
    from softprompt.rows.sources import digest_rows
    from softprompt.tasks.splits import told_gaps

    library = where.open()
    version = library.registry.resolve(task)
    found = Passages(read_sources(passages or []), warn)
    form, ref, progress = found.form_of(library, version), version.ref, Bars()
    if passages and (form.retriever is None or found.source_of(version.task) is None):
        why = "looks no passages up" if form.retriever is None else "is none of the tasks that it names"
        raise ConfigError(f"--passages: {ref} {why}; leave it out")
    if (note := check_base(version, base)) is not None:
        warn(note)
    rows = _rows(form, texts or [], data, output, literal=literal)
    if form.retriever is not None and form.retriever.find is None:
        for index, row in enumerate(rows):  # those without passages are refused before torch is loaded
            form.with_passages(row, Place(rows.where, index))
    identity = {"version": version.digest, "number": version.number, "data": digest_rows(rows), "base": repr(base)}
    identity |= {"retrieve": dict(form.retriever.settings)} if form.retriever is not None else {}
    with AnswerFile(output, rows, identity, force=force) if output is not None else nullcontext() as file:
        with progress.loading("torch"):
            from softprompt.serving.offline import Service
        service = Service(library, base=base, passages=found)
        with loading(progress, version.base):
            service.load(ref)
        answers: list[Row] = list(file.answers) if file is not None else []
        if answers:
            progress.note(f"{len(answers)} of {len(rows)} rows are answered already; the others are answered now")
        try:
            for some in _answer(service, ref, form, rows, len(answers), progress):
                answers += some
                if file is not None:
                    file.add(some)
        except KeyboardInterrupt:
            if file is not None:
                progress.note(
                    f"{len(answers)} of {len(rows)} rows are answered and kept; the same command goes on from there"
                )
            raise
        gaps = [(at, gap) for at, row in enumerate(rows) if (gap := form.gap(row)) is not None]
        blank, cut = sum(row["output"] is None for row in answers), sum(row["truncated"] for row in answers)
        if cut:
            warn(f"{cut} of {len(rows)} inputs were cut to fit the context")
        if blank:
            warn(f"{blank} of {len(rows)} inputs are blank; their answers are null")
        if gaps:
            warn(told_gaps(len(gaps), len(rows), f"{gaps[0][1]!r} in {rows.where(gaps[0][0])}"))
        for remark in service.remarks:
            warn(remark)
        if form.is_number:
            if unread := sum(row["output"] is not None and row["value"] is None for row in answers):
                warn(f"{unread} of {len(rows)} answers are no numbers; their values are null")
            if outside := sum(row["outside"] for row in answers):
                warn(f"{outside} of {len(rows)} answers lie outside of their range, whose nearer end they get")
        for row in answers:
            row["score"] = max(row["scores"].values()) if row["scores"] else None
        more = ("labels",) if form.is_set else ("value",) if form.is_number else ()
        beside = (
            more if form.is_number and form.labels is None else ("score",) if form.chooses and not form.is_number else ()
        )
        scored = ("output", *beside)
        if file is not None:
            for column, name in file.finish(scored).items():
                warn(f"the rows have a column {column!r} already; the answers' is called {name!r}")
    if as_json:
        emit(
            [{key: row[key] for key in ("task", "version", "text", "output", "scores", *more)} for row in answers], True, ref
        )
    elif output is not None:
        emit([{"rows": len(rows), "blank": blank, "written to": str(output)}], False, f"{ref}: answered")
    else:
        emit(answers, False, ref, ("text", *scored))


def _rows(form: Form, texts: Sequence[str], data: Path | None, output: Path | None, *, literal: bool) -> PlacedRows:
    """The rows that are to be answered, from a file, the command line or stdin."""
    from softprompt.rows.places import Place, numbered
    from softprompt.rows.sources import find_file
    from softprompt.rows.tables import read_table

    columns = form.asked_columns
    if data is not None:
        if texts:
            raise ConfigError(f"{texts[0][:60]!r} is a text, and --data names rows; give one of them")
        file = find_file(str(data), Path.cwd())
        if output is not None and output.exists() and output.samefile(file):
            raise ConfigError(f"--output {str(output)!r} is the file that --data names; name another, so that it is kept")
        table = read_table(file, column=columns[0])
        rows = table.placed(str(data))
        for index, row in enumerate(rows):
            if not (form.is_blank(row) and set(columns) <= set(table.columns)):
                form.texts(row, Place(rows.where, index))
        return rows
    if not texts:
        if sys.stdin.isatty():
            raise ConfigError("no text was given; put texts behind the task, pipe them in, one a line, or name --data FILE")
        try:
            texts = [line.rstrip("\r\n") for line in sys.stdin]
        except UnicodeDecodeError as error:
            raise DataError(f"stdin is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    return numbered([_meant(form, text, literal=literal) for text in texts], "the texts")


def _meant(form: Form, text: str, *, literal: bool) -> Row:
    """What a text is: a row in JSON where it is an object; else what the task's one column holds.

    Raises:
        ConfigError: it is the name of a file with rows, or an object without the task's columns, and not `literal`.
        DataError: the task has several columns, and the text holds none; or an object has a key twice.
    """
    from softprompt.rows.tables import is_table, row_in
    from softprompt.serving.inputs import check_text

    columns = form.asked_columns
    if text.strip():
        check_text(text, f"an input for task {form.task!r}")
    if literal and len(columns) == 1:
        return {columns[0]: text}
    if is_table(text) and os.path.isfile(text):
        raise ConfigError(f"{text!r} is a file; give its rows with --data {text}, or --literal if its name is the text")
    if len(columns) > 1:
        return dict.fromkeys(columns, "") if not text.strip() else form.row_of(text)
    row = row_in(text, f"an input for task {form.task!r}")
    if row is None:
        return {columns[0]: text}
    if columns[0] not in row:
        keys = ", ".join(map(repr, list(row)[:5]))
        raise ConfigError(
            f"a JSON object with {keys or 'no keys'} is no input of task {form.task!r}, whose column is "
            f"{columns[0]!r}; give that, or --literal if the object is the text"
        )
    form.texts(row, "the input")
    return row


def _answer(
    service: Service, ref: str, form: Form, rows: Sequence[Row], done: int, progress: Bars
) -> Iterator[list[dict[str, Any]]]:
    """Answers to the rows behind the first `done` ones, some at a time; those to blank ones are null."""
    task, _, number = ref.partition("@")
    with progress.stage("predict", len(rows)) as advance:
        advance(done, "")
        for start in range(done, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            predictions = iter(service.predict([row for row in some if not form.is_blank(row)], ref))
            answers = []
            for row in some:
                if form.is_blank(row):
                    text = str(row.get(form.asked_columns[0]) or "")
                    answers.append({"task": task, "version": int(number), "text": text, **_UNANSWERED})
                else:
                    answers.append(vars(next(predictions)).copy())
            yield answers
            advance(len(some), "")
