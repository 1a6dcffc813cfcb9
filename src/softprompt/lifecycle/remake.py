"""A task as a version of it was trained, from what the library keeps: to train it again. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.rows.sources import digest_rows
from softprompt.tasks.config.config import TaskConfig, parse_config
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Origin, Version

OF_THE_BASE = ("base", "base_adapter", "trust_remote_code", "task_type")
"""Keys of a task file that say which base it is, or follow from that."""


def remake(
    library: Library,
    version: Version,
    given: Task | None = None,
    left_out: Sequence[str] = (),
    *,
    data: Path | None = None,
) -> tuple[Task, list[str]]:
    """The task that a version was trained for, and what is to be said of it: which rows have changed since. A prompt that it
    was started from is left out.

    Args:
        given: the task, for a version whose task file the library does not keep, or in the place of that.
        left_out: keys that are to be as if nobody had given them.
        data: a file of training rows in the place of those that it names.

    Raises:
        ConfigError: the version is an ensemble; or the library does not keep its task file, and none is given; or that is
            wrong.
        DataError: its rows cannot be read.
    """
    if version.card.members:
        raise ConfigError(
            f"{version.ref} is an ensemble, and no task file trains one; take those that it was made from, and combine them"
        )
    origin = library.registry.origin(version.ref)
    if given is not None:
        gone = {*left_out, *_starts_of(given.config.model_dump(exclude_unset=True))}
        fields = TaskConfig.model_fields
        task = given.variant(**{name: fields[name].get_default(call_default_factory=True) for name in gone})
    elif origin is not None:
        gone = {*left_out, *_starts_of(origin.task_file)}
        task = Task(parse_config({name: value for name, value in origin.task_file.items() if name not in gone}))
    else:
        raise ConfigError(
            f"{version.ref} came without the task file that it was trained from; give one of this task with --task-file FILE"
        )
    if data is not None:
        own = task.config.data.model_dump(exclude_unset=True) if task.config.data is not None else {}
        own = {name: value for name, value in own.items() if name not in ("dataset", "name")}
        task = task.variant(data=own | {"train": str(data)})
    return task, _told(origin, task)


def _starts_of(kept: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that name prompts to start from."""
    other = kept.get("prompt_tuning_init") == "PROMPT" or kept.get("prompt_tuning_init_prompt")
    return ("prompt_tuning_init", "prompt_tuning_init_prompt") if other else ()


def _told(origin: Origin | None, task: Task) -> list[str]:
    """Of which splits the rows are others than those of then."""
    rows = {"train": task.train, "validation": task.validation if not task.folds else [], "test": task.test}
    then = {one["split"]: one["digest"] for one in (origin.data if origin is not None else ())}
    changed = [split for split, now in rows.items() if split in then and then[split] != digest_rows(now)]
    return [f"data changed since: {', '.join(changed)}"] if changed else []


def named_base(library: Library, version: Version) -> BaseOptions | None:
    """How its task file loads its base, where that is the one that the library names."""
    origin = library.registry.origin(version.ref)
    if origin is None or origin.task_file.get("base") != version.base:
        return None
    return BaseOptions(
        source=version.base,
        adapter=origin.task_file.get("base_adapter") if "adapter" in version.card.recipe else None,
        trust_remote_code=origin.task_file.get("trust_remote_code", False),
    )
