"""From tasks to runs: loading, checking, encoding, starting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.names import check_task
from softprompt.progress import Progress
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


def prepare(tasks: Sequence[Task], base: FrozenBase, library: Library | None, progress: Progress) -> list[Run]:
    """A run for each task, its rows encoded and its vectors at their start."""
    runs: list[Run] = []
    encoded: dict[tuple[Any, ...], tuple[Examples, Examples]] = {}  # candidates of a sweep mostly share their rows
    with progress.stage("read", sum(len(task.train) + len(task.validation) for task in tasks)) as advance:
        for task in tasks:
            length = task.config.num_virtual_tokens
            if length < SHORT:
                progress.warn(f"{task.name}: {length} virtual tokens have little capacity; 20 to 100 is usual")
            if length > LONG:
                progress.warn(f"{task.name}: {length} virtual tokens can drown the input; 20 to 100 is usual")
            key = (id(task.train), task.form, length)
            if key not in encoded:
                encoded[key] = (
                    task.encode(base, task.train, length, split="training"),
                    task.encode(base, task.validation, length, split="validation"),
                )
                _tell_budget(base, task, *encoded[key], progress)
            train, validation = encoded[key]
            labels = task.form.encode_labels(base) if task.form.labels else None
            parents = parents_of(base, task.config, library)
            start_PD = start_vectors(base, task, parents)
            runs.append(Run(task, start_PD, train, validation, labels, tuple(parent.digest for parent in parents)))
            _tell_network(runs[-1], base.width, progress)
            advance(len(train) + len(validation), task.name)
    return runs


def start_vectors(base: FrozenBase, task: Task, parents: Sequence[SoftPrompt]) -> Tensor:
    """The vectors that a task's prompt starts from, P x D; for PROMPT, from its parents.

    Raises:
        ConfigError: the initialiser lacks what it needs.
    """
    config = task.config
    length = config.num_virtual_tokens
    if config.initializer == "RANDOM":
        return initialize.random_vectors(base, length, config.seed)
    if config.initializer == "TEXT":
        return initialize.from_text(base, length, config.prompt_tuning_init_text or "")
    if config.initializer == "LABELS":
        return initialize.from_labels(base, length, task.form.encode_labels(base), config.seed)
    if config.initializer == "PROMPT":
        return initialize.from_prompts([parent.vectors_PD for parent in parents], length)
    return initialize.sample_vocabulary(base, length, config.seed)


def parents_of(base: FrozenBase, config: TaskConfig, library: Library | None) -> list[SoftPrompt]:
    """The prompts that PROMPT starts from; none for other initialisers.

    Raises:
        ConfigError: PROMPT without a library.
        NotFound: the library has no such prompt.
        FingerprintMismatch: one was made for another base.
    """
    if config.initializer != "PROMPT":
        return []
    if library is None:
        raise ConfigError("prompt_tuning_init PROMPT takes prompts from a library; give one")
    prompts = [SoftPrompt.from_bytes(library.read(ref)) for ref in config.prompt_tuning_init_prompt]
    for prompt in prompts:
        prompt.check_base(base)
    return prompts


def _tell_network(run: Run, width: int, progress: Progress) -> None:
    """A network in front of the vectors is trained with them and is not kept, so no row or card counts it."""
    network = run.rule.network
    if network is not None:
        kept = run.start_PD.numel()
        trained = kept + weight_rows(network.hidden) * width
        progress.note(f"{run.task.name}: {trained} numbers are trained, of which {kept} are kept")


def _tell_budget(base: FrozenBase, task: Task, train: Examples, validation: Examples, progress: Progress) -> None:
    longest = max(len(ids) for ids in train.inputs)
    output = task.form.output_length(base)
    length = task.config.num_virtual_tokens
    limit = "no limit" if base.context is None else f"of {base.context}"
    progress.note(
        f"{task.name}: {len(train)} training rows; context: {length} virtual + up to {longest} input + {output} output "
        f"= {length + longest + output} tokens {limit}"
    )
    if cut := train.truncated + validation.truncated:
        progress.warn(f"{task.name}: {cut} of {len(train) + len(validation)} rows were cut to fit the context")
