"""`softprompt review`: rows that were answered with little confidence, on their way to training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say, warn
from softprompt.cli.places import check_new
from softprompt.errors import ConfigError
from softprompt.text import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softprompt.registry.traffic.reviews import Review
    from softprompt.tasks.form import Form

COLUMNS = ("id", "version", "text", "output", "confidence", "answer")


@library_options
def review(
    task: Annotated[str, typer.Argument(help="A task of the library.")],
    answers: Annotated[list[str] | None, typer.Option("--answer", help="Say the right answer of a row; repeat it.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows with an answer as training rows (.jsonl), for `retrain --data`."),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="With --export: the others, to be labelled in an editor; null stands there.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --export names.")] = False,
    erase: Annotated[bool, typer.Option("--erase", help="Take all rows of the task away for good.")] = False,
    row: Annotated[list[int] | None, typer.Option("--row", metavar="ID", help="With --erase: only this; repeat it.")] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """List the rows that `serve --review-below` kept, say what is right, and make training data of them."""
    if row is not None and not erase:
        raise typer.BadParameter("--row says which rows go, and nothing is to go; add --erase")
    if unlabelled and export is None:
        raise typer.BadParameter("--unlabelled says which rows are written, and no file is named; add --export FILE")
    if erase and (answers or export is not None):
        raise typer.BadParameter("--erase takes rows away, and others of the options need them; give it alone")
    check_new(export, "--export", force=force)
    library = where.open()
    reviews = library.registry.reviews
    if erase:
        count = reviews.erase(task, row)
        emit([{"task": task, "erased": count}], as_json, "Erased")
        return
    if answers:
        form = _form(library, task)
        reviews.label(task, dict(_labelled(form, pair) for pair in answers))
    found = reviews.of(task)
    if export is not None:
        count = _write(
            export, _form(library, task), [one for one in found if (one.answer is None) == unlabelled], found, task
        )
        if as_json:
            emit([{"task": task, "rows": count, "path": str(export.absolute())}], True, "Exported")
        else:
            say(f"{plural(count, 'row')} written to {export}")
        return
    if found or as_json:
        emit([one.row() for one in found], as_json, f"{task}: rows for review", COLUMNS)
    if not found:
        warn(
            f"{task} has no rows for review; `softprompt serve --review-below 0.6` keeps those answered with less confidence"
        )
    elif not as_json:
        done = sum(one.answer is not None for one in found)
        say(f"{done} of {plural(len(found), 'row')} labelled; --answer ID=ANSWER says what is right; --export FILE")


def _form(library: Any, task: str) -> Form:
    from softprompt.tasks.form import Form

    return Form.of_card(library.registry.resolve(task).card)


def _labelled(form: Form, pair: str) -> tuple[int, str]:
    """A row's id, and an answer that the task has."""
    name, equals, answer = pair.partition("=")
    if not equals or not name.isdecimal():
        raise typer.BadParameter(f"--answer {pair!r} is not ID=ANSWER; write --answer 12=person")
    return int(name), form.answer({form.target_field: answer}, f"row {name}")


def _told(form: Form, answer: str | None) -> str | list[str] | None:
    """An answer as a row of training has it: of a set the list of its labels."""
    return list(form.each(answer)) if form.is_set and answer is not None else answer


def _write(file: Path, form: Form, rows: Sequence[Review], found: Sequence[Review], task: str) -> int:
    from softprompt.files import write_whole

    if file.suffix != ".jsonl":
        raise ConfigError(f"--export {str(file)!r} would be JSON Lines; give it a name that ends in .jsonl")
    if not rows:
        raise ConfigError(
            f"none of the {plural(len(found), 'row')} of {task} for review is {'left' if found else 'there'}; "
            f"say what is right with `softprompt review {task} --answer ID=ANSWER`, then export"
        )
    made = [dict(form.row_of(one.text)) | {form.target_field: _told(form, one.answer)} for one in rows]
    write_whole(file, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made).encode())
    return len(made)
