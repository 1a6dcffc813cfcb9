"""From the body of a request to a task file, checked against the rows before anything is queued. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from softprompt.errors import ConfigError, FieldError, NameRefused, nearest
from softprompt.jobs.rows import UploadedRows
from softprompt.names import base_name, check_new_task
from softprompt.tasks.answers import NUMBER, SET
from softprompt.tasks.config import OF_LABELS, TaskConfig, parse_config
from softprompt.tasks.form import Form
from softprompt.tasks.labels import infer_labels, named
from softprompt.tasks.splits import Source, cut
from softprompt.text import lone_surrogate

LONGEST_SUFFIX = 64

_FORBIDDEN = {
    "data": "give rows by training_file and validation_file",
    "base": "name the base by model",
    "tokenizer_name_or_path": "name the base by model",
    "base_adapter": "name the base by model",
    "instruction_file": "give the text as instruction",
    "retrieve": "give each row its passages, as the column passages",
    "trust_remote_code": "leave it out, as the server loads the base",
}
_TEMPLATES = {"chat": ("{prompt}\nAnswer:", " {completion}"), "completion": ("{prompt}", " {completion}")}


class _Strict(BaseModel):
    """Takes no key that it does not know, and tells the nearest one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                hint = nearest(str(name), cls.model_fields)
                if cls in (JobRequest, Hyperparameters) and name in TaskConfig.model_fields:
                    hint = "; keys of a task file go into `softprompt`"
                context = {"message": f"unknown key {name!r}{hint}", "code": "unknown_parameter", "param": str(name)}
                raise PydanticCustomError("refused", "{message}", context)
        return data


class Hyperparameters(_Strict):
    """The hyperparameters that OpenAI's clients send."""

    n_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """By default three, and more where that makes fewer than 200 steps, or 100 with 64 rows or fewer."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rows in a step; by default 64."""
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Of the usual learning rate of a soft prompt."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The learning rate itself."""

    @field_validator("*", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value


class Supervised(_Strict):
    """Settings of the supervised method."""

    hyperparameters: Hyperparameters | None = None


class Method(_Strict):
    """How to train."""

    type: str
    """`supervised`."""
    supervised: Supervised | None = None
    dpo: Any = None
    reinforcement: Any = None


class JobRequest(_Strict):
    """The body of a request for a fine-tuning job."""

    model: str
    """Name of the base."""
    training_file: str
    """Id of an uploaded file."""
    validation_file: str | None = None
    """Id of an uploaded file; by default a tenth of the training rows is held out."""
    suffix: str | None = None
    """Name of the task; by default that of the training file."""
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Any] | None = None
    softprompt: dict[str, Any] | None = None
    """Any key of a task file."""


@dataclass(frozen=True)
class Plan:
    """What a request becomes."""

    config: dict[str, Any]
    """A task file without its data."""
    notes: list[str] = field(default_factory=list)
    """What was chosen where the request is silent."""


def make_plan(request: JobRequest, filename: str, train: UploadedRows, validation: UploadedRows | None) -> Plan:
    """The task file for a request and its rows; each row is tried against it.

    Raises:
        FieldError: a setting is wrong, or does not go with the rows.
    """
    _refuse_unsupported(request)
    config = dict(request.softprompt or {})
    for key, mend in _FORBIDDEN.items():
        if key in config:
            raise FieldError(f"softprompt.{key} is refused; {mend}", f"softprompt.{key}")
    config["task"] = _task_name(request, config.get("task"), filename)
    config |= _hyperparameters(request, config)
    if train.shape == "chat":  # whole conversations are its inputs, and so they are when it is served
        serving = config.get("serving") or {}
        config["serving"] = {"chat_input": "conversation", **serving} if isinstance(serving, dict) else serving
    notes = _choose_form(config, train)
    try:
        checked = parse_config(config, where="softprompt")
        form = Form.of_config(checked)
        check_new_task(form.task, [base_name(request.model)])
    except NameRefused as error:
        raise FieldError(str(error), "suffix") from None
    except ConfigError as error:
        raise FieldError(str(error), "softprompt") from None
    _try_splits(_try_rows(form, train, "training_file"), held_out=validation is None)
    if validation is not None:
        if validation.shape != train.shape:
            raise FieldError(
                f"validation_file: its rows are of the shape {validation.shape!r}, and those of training_file of "
                f"{train.shape!r}; use one shape",
                "validation_file",
            )
        _try_rows(form, validation, "validation_file")
    return Plan(config, notes)


def shown_hyperparameters(request: JobRequest) -> dict[str, Any]:
    """The hyperparameters of a request as an answer shows them."""
    return {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"} | _requested(request)


def _requested(request: JobRequest) -> dict[str, Any]:
    chosen = _of_method(request) or request.hyperparameters
    return {} if chosen is None else chosen.model_dump(exclude_none=True)


def _refuse_unsupported(request: JobRequest) -> None:
    try:
        half = lone_surrogate(json.dumps(request.model_dump(mode="python"), ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise FieldError("the body is nested too deeply; mend it") from None
    except ValueError:
        raise FieldError("a number in the body is too large (such as 1e999), and none may be infinite; mend it") from None
    if half is not None:
        raise FieldError(f"{half!a} in the body is half of a surrogate pair and no character; mend it")
    if request.integrations:
        raise FieldError("integrations are not supported; leave them out", "integrations")
    for key, value in (request.metadata or {}).items():
        if len(key) > 64 or len(value) > 512 or len(request.metadata or ()) > 16:
            raise FieldError("metadata is too large; give at most 16 keys of 64 characters, with values of 512", "metadata")
    method = request.method
    if method is not None and (method.type != "supervised" or method.dpo is not None or method.reinforcement is not None):
        raise FieldError(f"the method {method.type!r} is not supported; use 'supervised'", "method")
    if request.hyperparameters is not None and _of_method(request) is not None:
        raise FieldError("hyperparameters are given twice; keep those in method.supervised", "hyperparameters")


def _of_method(request: JobRequest) -> Hyperparameters | None:
    supervised = request.method.supervised if request.method is not None else None
    return supervised.hyperparameters if supervised is not None else None


def _task_name(request: JobRequest, given: Any, filename: str) -> str:
    suffix = request.suffix
    if suffix is not None and len(suffix) > LONGEST_SUFFIX:
        raise FieldError(f"suffix has {len(suffix)} characters; at most {LONGEST_SUFFIX} are taken", "suffix")
    if suffix is not None and given is not None and suffix != given:
        raise FieldError(f"suffix says {suffix!r} and softprompt.task {given!r}; give the task one name", "suffix")
    name = given if suffix is None else suffix
    if name is None:
        stem = filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:LONGEST_SUFFIX]
    try:
        return check_new_task(name, [base_name(request.model)])
    except NameRefused as error:
        raise FieldError(f"{error}; name the task with suffix", "suffix") from None


def _hyperparameters(request: JobRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters in the words of a task file."""
    requested = _requested(request)
    if "learning_rate" in requested and "learning_rate_multiplier" in requested:
        raise FieldError(
            "learning_rate and learning_rate_multiplier are both given; leave one of them out", "hyperparameters"
        )
    if requested.get("learning_rate", 0.0) >= 100:
        raise FieldError(
            f"a learning rate of {requested['learning_rate']:g} is too high; 0.03 to 0.3 is usual", "hyperparameters"
        )
    names = {"n_epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}
    keys = {names.get(key, key): value for key, value in requested.items()}
    if request.seed is not None:
        keys["seed"] = request.seed
    for key, value in keys.items():
        if key in config and config[key] != value:
            raise FieldError(f"softprompt.{key} says {config[key]!r} and the request {value!r}; say it once", "softprompt")
    return keys


def _choose_form(config: dict[str, Any], train: UploadedRows) -> list[str]:
    """Fill in templates and labels where the request has none; tell what was chosen."""
    notes = []
    default = _TEMPLATES.get(train.shape)
    if default is None and all("text" in row and "label" in row for row in train.rows):
        default = ("{text}\nLabel:", " {label}")
    for key, place in (("input", 0), ("target", 1)):
        if key not in config:
            if default is None:
                columns = ", ".join(sorted(map(str, train.rows[0])))
                raise FieldError(
                    f"softprompt.{key} is missing: the file has the columns {columns}, not text and label; "
                    'give templates such as {"input": "{question}", "target": " {answer}"}',
                    f"softprompt.{key}",
                )
            config[key] = default[place]
            notes.append(f"{key} is {default[place]!r}")
    if "labels" in config or "id2label" in config:
        return notes
    kind = config.get("problem_type")
    if kind == SET:
        raise FieldError(f"softprompt.labels is missing: {SET} chooses among labels; list them", "softprompt.labels")
    templates = {"task": "x", "input": config["input"], "target": config["target"]}
    try:
        form = Form.of_config(parse_config(templates))
    except ConfigError as error:
        raise FieldError(str(error), "softprompt") from None
    labels, why = infer_labels(_try_rows(form, train, "training_file").answers, fold=config.get("fold_labels") is True)
    generates = config.get("metric") not in (None, *OF_LABELS) or kind == NUMBER
    if labels is not None and not generates:
        if config.get("labels") is None:
            config["labels"] = list(labels)
        notes.append(f"labels were inferred from the answers: {named(labels)}; give softprompt.labels to choose others")
    else:
        asks = "problem_type" if kind == NUMBER else "the metric"
        notes.append(f"the answers are {why}" if labels is None else f"the answers are generated: {asks} asks so")
    return notes


def _try_splits(source: Source, *, held_out: bool) -> None:
    """Split rows as training will; without a file for it, some are `held_out` for validation."""
    parts = cut(source, [(0.0, 0.1), (0.1, 0.2)] if held_out else [(0.0, 0.1)], by_label=False)
    if not all(part.rows for part in parts):
        blank = f" ({source.blank} are blank)" if source.blank else ""
        raise FieldError(
            f"training_file has {source.different} different rows{blank}, too few to split into training, validation and "
            "test; give more",
            "training_file",
        )


def _try_rows(form: Form, upload: UploadedRows, field: str) -> Source:
    """Read each row as training will."""
    try:
        return Source.read(form, upload.placed(field), field)
    except ConfigError as error:
        raise FieldError(str(error), field) from None
