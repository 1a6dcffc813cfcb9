"""What would be learnt from a training file of OpenAI's, line by line, and the task file that it becomes. No torch.

An upload is refused at its first wrong line. Here every line is looked at, and what cannot be learnt is told with a reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from softprompt.errors import ConfigError, DataError
from softprompt.files import write_whole
from softprompt.jobs.plan import Plan, make_plan
from softprompt.jobs.request import DPO, SUPERVISED, JobRequest, Method
from softprompt.jobs.rows import NAMES, READERS, Shape, UploadedRows, lines_of, parse_line, shape_of
from softprompt.rows.openai_files import MESSAGES, PAIR, unlearnt
from softprompt.rows.sources import Row
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.config.schedule import total_steps
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.tasks.wording.chat import ChatFrame

_READ: Mapping[Shape, tuple[str, ...]] = {"completion": ("prompt", "completion"), "chat": (MESSAGES,), "preference": PAIR}
_WITHOUT_TOOLS = ("tools", "functions", "function_call", "parallel_tool_calls")
"""Keys that ask for nothing where there are no tools, which are refused elsewhere."""


@dataclass(frozen=True)
class TrainingFile:
    """A training file, and what can be learnt from it."""

    name: str
    lines: int
    """Those that are not blank."""
    learnt: UploadedRows
    """Its rows: of a conversation each answer that is to be learnt."""
    refused: dict[int, str]
    """Lines of which nothing can be learnt, with the reason."""
    left_out: int = 0
    """Answers of weight 0, which are context alone."""
    context: int = 0
    """Messages that are read and not learnt: all but the answers."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Keys of lines and of messages that are not read, with the number of lines that have them."""

    @property
    def method(self) -> str:
        """The method of a job that learns from it."""
        return DPO if self.learnt.shape == "preference" else SUPERVISED

    def row(self) -> dict[str, Any]:
        """What is learnt and what not, as one row."""
        rows = self.learnt.rows
        return {
            "file": self.name,
            "method": self.method,
            "lines": self.lines,
            "learnt": len(set(self.learnt.lines)),
            "refused": len(self.refused),
            "answers": len(rows),
            "answers_left_out": self.left_out,
            "context_messages": self.context,
            "repeated": len(rows) - len({json.dumps(row, sort_keys=True) for row in rows}),
            "not_read": self.ignored,
        }


def read_training_file(file: Path) -> TrainingFile:
    """Look at every line of a file.

    Raises:
        DataError: it cannot be read, or is no training file, or nothing of it can be learnt.
    """
    texts = dict(lines_of(_text_of(file)))
    refused: dict[int, str] = {}
    parsed: dict[int, Row] = {}
    for number, text in texts.items():
        try:
            parsed[number] = parse_line(text)
        except DataError as error:
            refused[number] = str(error)
    shapes = Counter(shape_of(row) for row in parsed.values())
    if not shapes:
        why = f" (line {min(refused)} is {refused[min(refused)]})" if refused else " (it has no rows)"
        raise DataError(f"{file} is no training file{why}; name a file of JSON Lines")
    shape: Shape = shapes.most_common(1)[0][0]
    if shape == "columns":
        columns = ", ".join(sorted(map(str, next(iter(parsed.values()))))[:8])
        raise DataError(
            f"{file} has the columns {columns}, and training files have messages, or preferred_output and "
            "non_preferred_output; `softprompt init` reads tables"
        )
    rows, lines = list[Row](), list[int]()
    ignored = Counter[str]()
    left_out = context = 0
    for number, line in parsed.items():
        if (own := shape_of(line)) != shape:
            refused[number] = f"it has {NAMES[own]}, and most lines have {NAMES[shape]}; keep to one shape"
            continue
        try:
            made = READERS[shape](line)
        except DataError as error:
            refused[number] = str(error)
            continue
        rows += made
        lines += [number] * len(made)
        ignored.update(set(_not_read(shape, line)))
        if shape == "chat":
            left_out += unlearnt(line)
            context += sum(message["role"] != "assistant" for message in line[MESSAGES])
        elif shape == "preference":
            context += len(made[0][MESSAGES])
    if not rows:
        first = min(refused)
        raise DataError(f"nothing of {file} can be learnt; the first reason is that of line {first}: {refused[first]}")
    learnt = UploadedRows(shape, rows, lines)
    return TrainingFile(file.name, len(texts), learnt, dict(sorted(refused.items())), left_out, context, dict(ignored))


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror or error}; name a file of JSON Lines") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error.reason}); convert the file") from None


def _not_read(shape: Shape, line: Row) -> Iterator[str]:
    for key in line:
        if key not in _READ[shape] and not (shape == "chat" and key in _WITHOUT_TOOLS):
            yield str(key)
    if shape == "chat" and any(message.get("name") for message in line[MESSAGES]):
        yield f"{MESSAGES}.name"


def plan_file(
    file: TrainingFile,
    task: str,
    base: str,
    *,
    validation: TrainingFile | None = None,
    settings: Mapping[str, Any] | None = None,
    frame: ChatFrame | None = None,
    context: int | None = None,
) -> Plan:
    """The plan of the job that would learn from a file.

    Args:
        task: its name.
        base: the base's name.
        settings: keys of a task file.
        frame, context: of the base's chat template, and its tokens, where they are known.

    Raises:
        FieldError: a setting is wrong or does not go with the rows.
    """
    request = JobRequest(
        model=base,
        training_file=file.name,
        suffix=task,
        method=Method(type=file.method),
        softprompt=dict(settings or {}),
    )
    own = validation.learnt if validation is not None else None
    return make_plan(request, file.name, file.learnt, own, frame=frame, context=context)


def task_of(plan: Plan, file: TrainingFile, base: str, validation: TrainingFile | None = None) -> Task:
    """The task of a plan, its rows in memory."""
    data: dict[str, Any] = {"train": file.learnt.rows}
    if validation is not None:
        data["validation"] = validation.learnt.rows
    return Task(**plan.config, base=base, data=data | _group(file))


def _group(file: TrainingFile) -> dict[str, str]:
    return {"group": file.learnt.group} if file.learnt.group else {}


def steps_of(task: Task) -> int:
    """How many steps its training takes."""
    return total_steps(task.config, len(task.train))


def check_free(target: Path) -> None:
    """Refuse a task file that is there already, or whose rows are.

    Raises:
        ConfigError: the file is named.
    """
    for one in (target, *(_rows_beside(target, split) for split in ("train", "validation"))):
        if one.exists():
            raise ConfigError(f"{one} is there already; name another --output, or write it anew with --force")


def _rows_beside(target: Path, split: str) -> Path:
    return target.with_name(f"{target.stem}.{split}.jsonl")


def write_task(
    plan: Plan, target: Path, file: TrainingFile, base: str | None, validation: TrainingFile | None = None
) -> list[Path]:
    """Write a task file, and its rows beside it.

    Raises:
        ConfigError: it cannot be written.
    """
    rows = {"train": file} | ({"validation": validation} if validation is not None else {})
    files = {split: _rows_beside(target, split) for split in rows}
    data = {split: one.name for split, one in files.items()} | _group(file)
    config = plan.config | ({"base": base} if base is not None else {}) | {"data": data}
    first = ("task", "base", "data")
    config = {key: config[key] for key in (*(key for key in first if key in config), *(k for k in config if k not in first))}
    parse_config(config, where=str(target))
    try:
        for split, one in files.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split].learnt.rows)
            write_whole(one, "".join(lines).encode())
        write_whole(target, yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100).encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(target)!r}: {error.strerror or error}; mend that, or name another --output"
        ) from None
    return [target, *files.values()]
