"""From a request and its rows to a task file, each row tried against it before anything is queued. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import ConfigError, FieldError, NameRefused
from softprompt.jobs.request import DPO, SUPERVISED, JobRequest, hyperparameters_of, is_preference, refuse_unsupported
from softprompt.jobs.rows import UploadedRows
from softprompt.names import base_name, check_new_task
from softprompt.rows.openai_files import MESSAGES
from softprompt.tasks.answers.kinds import NUMBER, SET
from softprompt.tasks.answers.labels import infer_labels, named
from softprompt.tasks.config.config import OF_LABELS, parse_config
from softprompt.tasks.draft.draft import answer_bound
from softprompt.tasks.form import Form
from softprompt.tasks.splits import Source, cut
from softprompt.tasks.wording.chat import ChatFrame
from softprompt.tasks.wording.template import literal

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
_TEMPLATES = {
    "chat": ("{prompt}\nAnswer:", " {completion}"),
    "completion": ("{prompt}", " {completion}"),
    "preference": ("{prompt}\nAnswer:", " {chosen}"),
}

LONGEST_ANSWER = 1024
"""Most tokens of a generated answer where the request does not say."""


@dataclass(frozen=True)
class Plan:
    """What a request becomes."""

    config: dict[str, Any]
    """A task file without its data."""
    notes: list[str] = field(default_factory=list)
    """What was chosen where the request is silent."""


def make_plan(
    request: JobRequest,
    filename: str,
    train: UploadedRows,
    validation: UploadedRows | None,
    *,
    frame: ChatFrame | None = None,
    context: int | None = None,
) -> Plan:
    """The task file for a request and its rows; each row is tried against it.

    Args:
        frame: how the base's chat template words an answer, where it has one.
        context: tokens that the base takes, where that has a bound.

    Raises:
        FieldError: a setting is wrong, or does not go with the rows.
    """
    refuse_unsupported(request)
    config = dict(request.softprompt or {})
    for key, mend in _FORBIDDEN.items():
        if key in config:
            raise FieldError(f"softprompt.{key} is refused; {mend}", f"softprompt.{key}")
    config["task"] = _task_name(request, config.get("task"), filename)
    config |= hyperparameters_of(request, config) | _of_shape(request, train, config)
    if train.group is not None:  # whole conversations are its inputs, and so they are when it is served
        serving = config.get("serving") or {}
        config["serving"] = {"chat_input": "conversation", **serving} if isinstance(serving, dict) else serving
    notes = _choose_form(config, train, frame, context)
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
        if validation.rows == train.rows:
            raise FieldError(
                "validation_file has the rows of training_file, which cannot tell how well a prompt does on others; "
                "leave it out, and a tenth of the rows is held out, or give other rows",
                "validation_file",
            )
        if validation.shape != train.shape:
            raise FieldError(
                f"validation_file: its rows are of the shape {validation.shape!r}, and those of training_file of "
                f"{train.shape!r}; use one shape",
                "validation_file",
            )
        _try_rows(form, validation, "validation_file")
    return Plan(config, notes)


def _of_shape(request: JobRequest, train: UploadedRows, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the shape of the rows asks for; the method must go with it."""
    pairs, method = train.shape == "preference", DPO if is_preference(request) else SUPERVISED
    if pairs != (method == DPO):
        fits = "preferred_output and non_preferred_output" if method == DPO else "messages"
        raise FieldError(
            f"the method is {method!r}, and the rows of training_file are of the shape {train.shape!r}; give rows with "
            f"{fits}, or use the method {SUPERVISED if method == DPO else DPO!r}",
            "method",
        )
    if not pairs:
        return {}
    if config.get("objective", "preference") != "preference":
        raise FieldError(f"softprompt.objective says {config['objective']!r} and the method {DPO!r}; leave it out", "method")
    return {"objective": "preference"}


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


def _choose_form(config: dict[str, Any], train: UploadedRows, frame: ChatFrame | None, context: int | None) -> list[str]:
    """Fill in templates and labels where the request has none; tell what was chosen."""
    notes = []
    default = _TEMPLATES.get(train.shape)
    answer = "chosen" if train.shape == "preference" else "completion"
    worded = train.group is not None and frame is not None and not {"input", "target"} & config.keys()
    if frame is not None and worded:
        default = (f"{{{MESSAGES}}}", f"{literal(frame.lead)}{{{answer}}}")
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
    if config.get("labels") is not None or config.get("id2label") is not None:
        return notes
    if train.shape == "preference":
        _bound_answers(config, train, frame if worded else None, context)
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
    free = "labels" in config  # as null: there are to be none
    generates = free or config.get("metric") not in (None, *OF_LABELS) or kind == NUMBER
    if labels is not None and not generates:
        config["labels"] = list(labels)
        notes.append(f"labels were inferred from the answers: {named(labels)}; give softprompt.labels to choose others")
    else:
        if train.shape != "columns" and kind != NUMBER:
            _bound_answers(config, train, frame if worded else None, context)
        asks = "problem_type" if kind == NUMBER else "labels" if free else "the metric"
        notes.append(f"the answers are {why}" if labels is None else f"the answers are generated: {asks} asks so")
    return notes


def _bound_answers(config: dict[str, Any], train: UploadedRows, frame: ChatFrame | None, context: int | None) -> None:
    """Let generated answers be as long as those of the rows, as far as the context has room for it; and end them as the chat
    template does."""
    if frame is not None:
        config["target"] += literal(frame.end)
    if "max_new_tokens" not in config:
        room = LONGEST_ANSWER if context is None else max(32, context // 2)
        answers = [row[key] for row in train.rows for key in ("completion", "chosen", "rejected") if key in row]
        config["max_new_tokens"] = answer_bound(answers, min(LONGEST_ANSWER, room))


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
        return Source.read(form, upload.placed(field), field, group=upload.group)
    except ConfigError as error:
        raise FieldError(str(error), field) from None
