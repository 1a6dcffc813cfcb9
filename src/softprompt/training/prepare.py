"""From a task to a run: its rows encoded, its vectors at their start, and what is to be said of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.names import check_task
from softprompt.prompts import initialize
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.task import Examples, Task
from softprompt.training.reparameterize import weight_rows
from softprompt.training.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

TaskLike = Task | TaskConfig | Mapping[str, Any] | str | os.PathLike[str]

SHORT, LONG = 5, 150
"""Prompt lengths outside of which a warning is due: too little capacity, and an input that drowns."""


def load_tasks(tasks: TaskLike | Sequence[TaskLike]) -> list[Task]:
    """Tasks from files, dictionaries, configs or themselves.

    Raises:
        ConfigError: none was given, one is wrong, or two have the same name.
        NameRefused: a task has a name that the library would refuse once it is trained.
        BaseModelError: a base is by its name no causal model.
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
        check_task(task.name)
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


class Preparer:
    """Makes runs on one base. Tasks that share their rows and form, as candidates of a sweep do, share their encoding."""

    def __init__(self, base: FrozenBase) -> None:
        self._base = base
        self._encoded: dict[tuple[Any, ...], list[Examples]] = {}
        self._kept: list[Any] = []  # what the keys above name by its id lives as long as they do

    def prepare(self, task: Task, library: Library | None) -> tuple[Run, Examples]:
        """A run ready to train, its rows encoded and its vectors at their start, and the rows that will judge it.

        Raises:
            ConfigError, DataError: the task, or a row of any split, is wrong.
            ContextError: a row, the prompt and the answer have no room.
            NotFound, FingerprintMismatch: a prompt to start from is not there, or of another base.
        """
        base, length = self._base, task.config.num_virtual_tokens
        key = (id(task.train), task.form, length)
        if key not in self._encoded:
            self._kept.append(task.train)
            splits = {"training": task.train, "validation": task.validation, "test": task.test}
            self._encoded[key] = [task.encode(base, rows, length, split=split) for split, rows in splits.items()]
        train, validation, test = self._encoded[key]
        labels = task.form.encode_labels(base) if task.form.labels else None
        parents = _parents(base, task.config, library)
        start_PD = _start(base, task, parents)
        return Run(task, start_PD, train, validation, labels, tuple(parent.digest for parent in parents)), test


def remarks_on(base: FrozenBase, run: Run) -> Iterator[tuple[str, bool]]:
    """What people should know of a run before it trains, and whether it is a warning."""
    task, length = run.task, run.config.num_virtual_tokens
    if length < SHORT:
        yield f"{task.name}: {length} virtual tokens have little capacity; 20 to 100 is usual", True
    if length > LONG:
        yield f"{task.name}: {length} virtual tokens can drown the input; 20 to 100 is usual", True
    longest, output = max(len(ids) for ids in run.train.inputs), task.form.output_length(base)
    limit = "no limit" if base.context is None else f"of {base.context}"
    yield (
        f"{task.name}: {len(run.train)} training rows; context: {length} virtual + up to {longest} input + {output} output "
        f"= {length + longest + output} tokens {limit}",
        False,
    )
    rows = len(run.train) + len(run.validation)
    if cut := run.train.truncated + run.validation.truncated:
        yield f"{task.name}: {cut} of {rows} inputs were cut to fit the context", True
    if cut := run.train.answers_cut + run.validation.answers_cut:
        bound = run.config.max_new_tokens
        yield (
            f"{task.name}: {cut} of {rows} answers are longer than max_new_tokens ({bound}), and can never be given whole; "
            "raise it",
            True,
        )
    if run.rule.network is not None:  # trained with the vectors and not kept, so no row or card counts it
        kept = run.start_PD.numel()
        trained = kept + weight_rows(run.rule.network.hidden) * base.width
        yield f"{task.name}: {trained} numbers are trained, of which {kept} are kept", False


def _start(base: FrozenBase, task: Task, parents: Sequence[SoftPrompt]) -> Tensor:
    """The vectors that a task's prompt starts from, P x D; for PROMPT, from its parents."""
    config, length = task.config, task.config.num_virtual_tokens
    match config.initializer:
        case "RANDOM":
            return initialize.random_vectors(base, length, config.seed)
        case "SAMPLE_VOCAB":
            return initialize.sample_vocabulary(base, length, config.seed)
        case "TEXT":
            return initialize.from_text(base, length, config.prompt_tuning_init_text or "")
        case "LABELS":
            return initialize.from_labels(base, length, task.form.encode_labels(base), config.seed)
        case "PROMPT":
            return initialize.from_prompts([parent.vectors_PD for parent in parents], length)


def _parents(base: FrozenBase, config: TaskConfig, library: Library | None) -> list[SoftPrompt]:
    """The prompts that PROMPT starts from; none for other initialisers."""
    if config.initializer != "PROMPT":
        return []
    if library is None:
        raise ConfigError("prompt_tuning_init PROMPT takes prompts from a library; give one")
    prompts = [SoftPrompt.from_bytes(library.read(ref)) for ref in config.prompt_tuning_init_prompt]
    for prompt in prompts:
        prompt.check_base(base)
    return prompts
