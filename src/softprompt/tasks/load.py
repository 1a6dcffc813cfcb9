"""Tasks from whatever names them, and all that can be wrong with them before a base is loaded. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.bases.folder import check_options
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.names import base_name, check_new_task
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.task import Task

TaskLike = Task | TaskConfig | Mapping[str, Any] | str | os.PathLike[str]


def load_tasks(tasks: TaskLike | Sequence[TaskLike]) -> list[Task]:
    """Tasks from files, dictionaries, configs or themselves.

    Raises:
        ConfigError: none was given, one is wrong, or two have the same name.
        NameRefused: a task has a name that the library would refuse once it is trained.
        BaseModelError: a base is by its name of another kind than its task says, or of none that is tuned.
    """
    single = isinstance(tasks, Task | TaskConfig | Mapping | str | os.PathLike)
    many: Sequence[Any] = [tasks] if single else tasks  # type: ignore[assignment]
    if not many:
        raise ConfigError("no task was given; name at least one task file")
    loaded = [_load_task(task) for task in many]
    names = [task.name for task in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the task name {twice[0]!r} is used twice; give each file a `task:` of its own")
    for task in loaded:
        check_new_task(task.name, [base_name(task.base_options.source or "")])
        task.check_base_name()
    return loaded


def _load_task(task: TaskLike) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, TaskConfig):
        return Task(task)
    if isinstance(task, Mapping):
        return Task(**dict(task))
    return Task.load(Path(task))


def one_base(tasks: Sequence[Task]) -> BaseOptions:
    """The base that all tasks share.

    Raises:
        ConfigError: they do not share one.
    """
    bases = {task.base_options: task.name for task in tasks}
    if len(bases) > 1:
        named = ", ".join(f"{name} on {base.shown}" for base, name in bases.items())
        raise ConfigError(f"tasks trained together share one base, and these do not: {named}; train them apart")
    return next(iter(bases))


def check_before_loading(tasks: Sequence[Task], base: BaseOptions) -> None:
    """Read the rows of tasks, and look at the folder of their base, so that what is wrong is told before it is loaded, as
    `base` says, and that takes seconds.

    Raises:
        ConfigError, DataError: the tasks share no base, or rows are wrong.
        BaseModelError: there is no such base.
    """
    check_options(base.over(one_base(tasks)))
    for task in tasks:
        len(task.train)  # every row of every split is read with it
