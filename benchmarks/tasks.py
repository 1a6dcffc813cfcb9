"""The tasks of the benchmarks, with the default recipe. Data from SOFTPROMPT_DATA (default ../shared/data)."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.rows.sources import Row
from softprompt.tasks import samples
from softprompt.tasks.config.config import TaskConfig, parse_config, read_config
from softprompt.tasks.form import missing_start
from softprompt.tasks.task import Task
from softprompt.tasks.wording.template import literal

HERE = Path(__file__).resolve().parent
os.environ.setdefault("SOFTPROMPT_DATA", str(HERE.parent.parent / "shared" / "data"))

REAL = ("trec6", "subjectivity", "sentence_polarity")


def make_tasks(names: Sequence[str], seed: int, overrides: dict[str, Any]) -> list[Task]:
    """The tasks with the default recipe and a seed; headword is made by program."""
    tasks = []
    for name in names:
        if name == "headword":
            rows = samples.write_rows(samples.headwords(), HERE / "out" / "headwords.jsonl")
            config = parse_config(
                {
                    "task": "headword",
                    "data": {"train": str(rows)},
                    "input": "Definition: {definition}\nWord:",
                    "target": " {headword}",
                    "max_new_tokens": 8,
                }
            )
        else:
            config = read_config(HERE.parent / "examples" / f"{name}.yaml")
        tasks.append(Task(TaskConfig.model_validate(config.model_dump(exclude_unset=True) | overrides | {"seed": seed})))
    return tasks


def begun(task: Task, base: FrozenBase) -> Task:
    """The task with an input that begins as texts of the base do, as `softprompt init` writes it."""
    token = missing_start(base, task.form)
    return task if token is None else task.variant(input=literal(token) + task.config.input)


def first_rows(task: Task, count: int) -> Task:
    """The task with so many training rows, drawn once and for all; its validation and test rows stay."""
    rows = list(task.train)
    random.Random(0).shuffle(rows)
    return task.variant(data={"train": rows[:count], "validation": list(task.validation), "test": list(task.test)})


def drawn_rows(task: Task, count: int) -> list[Row]:
    """So many of its training rows, drawn by its seed."""
    return random.Random(f"few {task.config.seed}").sample(list(task.train), count)


def few_rows(task: Task, count: int, *, validates: bool) -> Task:
    """The task with so many training rows in all, drawn by its seed. A method that validates must make do with those, as the
    recipe does by itself; for others the task's own validation rows stand there, which they do not look at."""
    own = {} if validates else {"validation": list(task.validation)}
    return task.variant(data={"train": drawn_rows(task, count), "test": list(task.test), **own})
