"""From a table to a training: its columns shown, a task proposed, changed where it should be, and queued as a job."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import ValidationError
from starlette.responses import Response

from softprompt.errors import ConfigError, DataError, FieldError, LibraryError, NotFound
from softprompt.http.console import tables
from softprompt.http.console.pages import OwnLibrary, Page, Trainer, go, problem_of, render, sentence
from softprompt.http.console.session import HOME
from softprompt.http.errors import ApiError
from softprompt.http.state import Training, state_of
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import UploadedFile, Uploads
from softprompt.library.library import Library
from softprompt.tasks.draft.draft import Draft, draft_task, name_of

log = logging.getLogger("softprompt.http")
router = APIRouter(prefix=HOME, route_class=Page)

SAMPLE = 5
"""Rows that are shown of a table."""

_OF_SERVER = ("task", "base", "base_adapter", "trust_remote_code", "data")
"""Keys of a task file that a job has elsewhere."""
_NUMBERS = {"num_virtual_tokens": int, "max_steps": int, "learning_rate": float, "seed": int}
"""Fields that hold numbers; empty ones are left to the training."""


@router.get("/train")
def begin(request: Request, library: OwnLibrary, _: Trainer) -> Response:
    """Choose a table, or one that was uploaded before."""
    return _begin(request, library)


@router.post("/train")
def upload(request: Request, library: OwnLibrary, _: Trainer, file: Annotated[UploadFile | None, File()] = None) -> Response:
    """Keep the rows of a table as an upload, and go on with it."""
    most = _training(request).upload_bytes
    try:
        if file is None:
            raise DataError("no file was chosen; choose one")
        data = _lines(tables.read(file, most).rows, most)
        name = f"{Path(tables.plain_name(file.filename or '')).stem}.jsonl"
        kept = Uploads(library, most_bytes=most).add(data, name)
    except (DataError, FieldError) as error:
        return _begin(request, library, problem=problem_of(error), status=400)
    return go("train", kept.name)


def _lines(rows: Sequence[Mapping[str, Any]], most: int) -> bytes:
    """Rows as JSON Lines. Raises `DataError` where they are longer than `most` bytes: a text that a workbook holds once may
    stand in any number of its cells."""
    lines = bytearray()
    for row in rows:
        lines += json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        if len(lines) > most:
            raise DataError(f"the rows are too long: at most {most} bytes of them are taken; split the file")
    return bytes(lines)


@router.get("/train/{file}")
def propose(request: Request, library: OwnLibrary, _: Trainer, file: str, job: str | None = None) -> Response:
    """What a table's task may be, or that of a job which is to be changed."""
    if job is None:
        return _form(request, library, file, None)
    found = Jobs(library).get(job)
    values = _values(found.config) | {"task": found.task, "model": str(found.request["model"])}
    values["validation_file"] = found.validation_file or ""
    return _form(request, library, file, values, cloned=job)


@router.post("/train/{file}")
def start(
    request: Request,
    library: OwnLibrary,
    _: Trainer,
    file: str,
    task: Annotated[str, Form()] = "",
    model: Annotated[str, Form()] = "",
    input: Annotated[str, Form()] = "",
    target: Annotated[str, Form()] = "",
    labels: Annotated[str, Form()] = "",
    num_virtual_tokens: Annotated[str, Form()] = "",
    max_steps: Annotated[str, Form()] = "",
    learning_rate: Annotated[str, Form()] = "",
    seed: Annotated[str, Form()] = "",
    more: Annotated[str, Form()] = "",
    validation_file: Annotated[str, Form()] = "",
) -> Response:
    """Queue the training, or say what is wrong with what was filled in."""
    training = _training(request)
    values = {
        "task": task, "model": model, "input": input, "target": target, "labels": labels, "more": more,
        "num_virtual_tokens": num_virtual_tokens, "max_steps": max_steps, "learning_rate": learning_rate, "seed": seed,
        "validation_file": validation_file,
    }  # fmt: skip
    values = {name: text.replace("\r\n", "\n") for name, text in values.items()}
    try:
        job = _jobs(library, training).create(_request(file, values), training.bases, fingerprint=training.fingerprint)
    except (ConfigError, NotFound) as error:
        return _form(request, library, file, values, problem=problem_of(error), status=400)
    if training.starter is not None:
        try:
            training.starter.ensure()
        except (LibraryError, OSError) as error:  # the job is queued, and it is looked after again soon
            log.warning("no worker can be started: %s", error)
    return go("jobs", job.name)


def _request(file: str, values: Mapping[str, str]) -> JobRequest:
    """The form as a client of the API would send it.

    Raises:
        ConfigError: a field cannot be read.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(values["more"], yaml.SafeLoader)):
            # A few lines of names for names stand for more values than any memory has.
            raise ConfigError("more keys: a name stands for a value (&name, *name), which is not read; write the value out")
        config = yaml.safe_load(values["more"]) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"more keys: this is no YAML ({str(error).splitlines()[0]}); mend it") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ConfigError("more keys: these are no keys; write KEY: VALUE on each line")
    for name in ("input", "target"):
        if values[name]:
            config[name] = values[name]
    if labels := [line for line in values["labels"].split("\n") if line.strip()]:
        config["labels"] = labels
    for name, kind in _NUMBERS.items():
        if text := values[name].strip():
            try:
                config[name] = kind(text)
            except ValueError:
                raise ConfigError(f"{name}: {text!r} is no number; give one, or leave it empty") from None
    given = {
        "model": values["model"], "training_file": file, "validation_file": values["validation_file"] or None,
        "suffix": values["task"].strip() or None, "softprompt": config,
    }  # fmt: skip
    try:
        return JobRequest.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{where}: {problem['msg']}" if where else problem["msg"]) from None


def _values(config: Mapping[str, Any]) -> dict[str, str]:
    """A task file as the fields of the form; what has no field stands in `more`."""
    rest = {name: value for name, value in config.items() if name not in _OF_SERVER}
    values = {name: str(rest.pop(name, "")) for name in ("input", "target", *_NUMBERS)}
    labels = rest.get("labels") or []
    plain = all(isinstance(one, str) and one == one.strip() and one and "\n" not in one for one in labels)
    values["labels"] = "\n".join(rest.pop("labels", None) or []) if plain else ""
    return values | {"more": yaml.safe_dump(rest, sort_keys=False, allow_unicode=True) if rest else ""}


def _begin(request: Request, library: Library, *, problem: str | None = None, status: int = 200) -> Response:
    _training(request)
    uploads = Uploads(library).page(purpose="fine-tune", limit=10).rows
    return render(request, "train.html", status=status, uploads=uploads, problem=problem, kinds=tables.KINDS)


def _form(
    request: Request,
    library: Library,
    name: str,
    values: Mapping[str, str] | None,
    *,
    cloned: str | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    """The table, and the form for its task: as it was filled in, or as it is proposed."""
    training = _training(request)
    uploads = Uploads(library)
    file = uploads.get(name)
    rows = uploads.read_rows(file).rows
    draft, told = _draft(uploads, file)
    if values is None:
        values = _values(yaml.safe_load(draft.yaml)) if draft is not None else _values({})
        values |= {"task": name_of(Path(file.filename)), "model": next(iter(training.bases)), "validation_file": ""}
        problem = problem or told
    columns = list(dict.fromkeys(str(column) for row in rows for column in row))
    return render(
        request, "train-form.html", status=status, file=file, rows=len(rows), sample=rows[:SAMPLE], columns=columns,
        draft=draft, values=values, bases=list(training.bases), problem=problem, cloned=cloned,
    )  # fmt: skip


def _draft(uploads: Uploads, file: UploadedFile) -> tuple[Draft | None, str | None]:
    """What is proposed for a table; or why nothing is."""
    try:
        with tables.as_file(uploads.read(file), file.filename) as path:
            return draft_task(path), None
    except (ConfigError, LibraryError) as error:
        return None, f"No task is proposed: {sentence(str(error))}"


def _jobs(library: Library, training: Training) -> Jobs:
    return Jobs(library, most_trained=training.most_trained, context=training.context)


def _training(request: Request) -> Training:
    """What jobs may train on here. Raises `ApiError` 404 where this server takes none."""
    training = state_of(request).training
    if training is None:
        raise ApiError(404, "this server trains nothing; open the console of one that `softprompt serve` has started")
    return training
