"""What driver and workers say to each other: a bank to train, and what happens to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softprompt.bases.options import BaseOptions
from softprompt.registry.records import Origin
from softprompt.rows.sources import digest_rows
from softprompt.tasks.task import Task
from softprompt.training.checkpoint import EVERY_SECONDS, name_of
from softprompt.training.member import Tuned

if TYPE_CHECKING:
    from softprompt.library.library import Library

BANK = 16
"""Tasks of a bank at most, where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A bank to train."""

    name: str
    """Of its checkpoint: equal for equal tasks and bases."""
    tasks: tuple[Task, ...]
    prompts: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Files of those that its tasks start from, by the references there."""
    every: float = EVERY_SECONDS
    """Seconds between checkpoints."""
    checkpoint: bytes | None = field(default=None, repr=False)
    """Where it goes on."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A worker has the base."""

    base: str
    address: str
    fingerprint: str
    package: str
    """Its version of softprompt."""
    machine: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint of the bank, whole."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Reached:
    """How far a stage of the bank is."""

    stage: str
    share: float
    """Between 0 and 1."""
    text: str


@dataclass(frozen=True)
class Said:
    """Something worth reading."""

    message: str
    warning: bool


@dataclass(frozen=True)
class Made:
    """A prompt is trained and judged, and not published yet."""

    task: str
    tuned: Tuned
    origin: Origin


@dataclass(frozen=True)
class Wrong:
    """A task came to an end of its own, or all that are left of a bank did."""

    task: str | None
    error: Exception
    diverged: bool = False
    """Whether its own steps failed, which they would again."""
    keeps: bool = False
    """Whether what it has trained is of use to who calls again."""


@dataclass(frozen=True)
class Ended:
    """The worker is done with the bank."""

    stopped: bool
    """Whether it was told to stop before."""


Told = Saved | Reached | Said | Made | Wrong | Ended


def cut(
    tasks: Sequence[Task],
    workers: int,
    size: int | None,
    *,
    base: BaseOptions,
    library: Library,
    every: float = EVERY_SECONDS,
) -> list[Work]:
    """Tasks in banks, in their order: of `size`, else in equal parts for the workers, none larger than :data:`BANK`. What
    each goes by is there already: rows, addresses of files, prompts to start from, checkpoints.

    Raises:
        NotFound: a prompt to start from is not there.
        DataError: a file of rows is gone.
    """
    size = size or min(BANK, -(-len(tasks) // workers))
    works = []
    for first in range(0, len(tasks), size):
        own = tuple(tasks[first : first + size])
        for task in own:
            _take_along(task)
        refs = {ref for task in own if task.config.initializer == "PROMPT" for ref in task.config.prompt_tuning_init_prompt}
        name = name_of([_key(task) for task in own], f"workers {base}")
        file = library.runs / f"{name}.checkpoint"
        works.append(
            Work(
                name=name,
                tasks=own,
                prompts={ref: library.read(ref) for ref in refs},
                every=every,
                checkpoint=file.read_bytes() if file.is_file() else None,
            )
        )
    return works


def _key(task: Task) -> str:
    known = [task.config.model_dump(mode="json"), task.data_digest, digest_rows(task.validation), digest_rows(task.test)]
    return json.dumps(known, sort_keys=True)


def _take_along(task: Task) -> None:
    """Let a task find out what it could not where its files are not."""
    data = task.config.data
    for split in (data.train, data.validation, data.test) if data is not None else ():
        if isinstance(split, str):
            task.address_of(split)
