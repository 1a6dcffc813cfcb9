"""From a written instruction to a soft prompt that answers as the base does behind it, and what that saves."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, base_of
from softprompt.engines.batch import score_jobs
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import GenerateJob, Sampling, ScoreJob, Vectors
from softprompt.errors import ConfigError
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.lines import Ids
from softprompt.model.splice import no_prompt, split_head, with_front
from softprompt.progress import Progress, Silent
from softprompt.tasks.config.instruction import read_instruction
from softprompt.tasks.load import TaskLike, load_tasks
from softprompt.tasks.task import Task
from softprompt.training.member import Tuned
from softprompt.training.objectives.teacher import asked, instruction_before
from softprompt.training.train import train

if TYPE_CHECKING:
    from softprompt.library.library import Library

_TIMED = 8
"""Test rows that are answered one by one to see how long one takes."""


@dataclass(frozen=True)
class Distilled:
    """A prompt that was tuned to answer as the base behind a written instruction, and what a request costs with either."""

    tuned: Tuned
    instruction_tokens: int
    """Of the instruction, which the prompt stands for."""
    latency_ms: float
    """A request alone with the prompt, which is run anew."""
    teacher_latency_ms: float
    """A request alone with the instruction, which is run anew."""
    cached_latency_ms: float
    """A request alone behind the prompt's keys and values, as a server keeps them."""
    teacher_cached_latency_ms: float
    """A request alone behind the instruction's, as a server may keep them too."""
    kept_bytes: int
    """Keys and values of the prompt, which such a server keeps for the task; 0 where it can keep none, as of an encoder or
    behind columns of a row."""
    teacher_kept_bytes: int
    """Keys and values of the instruction."""

    @property
    def agreement(self) -> float:
        """The share of test rows that get the instructed base's answer."""
        return self.tuned.prompt.card.metrics["agreement"]

    def __repr__(self) -> str:
        return f"Distilled({self.tuned!r}, agreement {self.agreement:.4g})"

    def row(self) -> dict[str, Any]:
        """One flat row, as the command prints it."""
        length = self.tuned.prompt.card.num_virtual_tokens
        return self.tuned.row() | {
            "instruction_tokens": self.instruction_tokens,
            "tokens_saved": self.instruction_tokens - length,
            "latency_ms": round(self.latency_ms, 2),
            "teacher_latency_ms": round(self.teacher_latency_ms, 2),
            "cheaper": round(self.teacher_latency_ms / self.latency_ms, 2),
            "cached_latency_ms": round(self.cached_latency_ms, 2),
            "teacher_cached_latency_ms": round(self.teacher_cached_latency_ms, 2),
            "kept_bytes": self.kept_bytes,
            "teacher_kept_bytes": self.teacher_kept_bytes,
            "columns": length,
            "teacher_columns": self.instruction_tokens,
        }


def distill(
    task: TaskLike,
    instruction: str | os.PathLike[str] | None = None,
    *,
    base: BaseLike = None,
    library: Library | None = None,
    publish: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Distilled:
    """Tune a soft prompt to answer as the base does behind a written instruction, examples in it or not, and measure what a
    request costs with either. Rows need no answers: the instructed base gives them. Its keys and values for the instruction
    are computed once, and what it says is kept in the home.

    Args:
        task: as for :func:`softprompt.train`.
        instruction: the text, or the path of a file that holds it; by default what the task has as `instruction`.
        base, library, publish, progress, stop: as for :func:`softprompt.train`.

    Raises:
        ConfigError, DataError: the task is wrong, or has no instruction; nothing was trained.
        ContextError: the instruction leaves no room for an input; nothing was trained.
        BaseModelError, TrainingError, TrainingStopped: as for :func:`softprompt.train`.
    """
    (given,) = load_tasks(task)
    own, shown = instructed(given, instruction), progress or Silent()
    frozen = base_of(base, own.base_options, shown)
    (tuned,) = train(own, base=frozen, library=library, publish=publish, progress=shown, stop=stop)
    with shown.stage("measure", 1) as advance:
        found = measure(architecture_of(frozen), own, tuned)
        advance(1, "")
    return found


def instructed(task: Task, instruction: str | os.PathLike[str] | None) -> Task:
    """A task whose objective is to answer as behind an instruction.

    Raises:
        ConfigError: there is none, its file cannot be read, or the task is trained in subsets.
    """
    if isinstance(instruction, os.PathLike):
        instruction = read_instruction(Path(instruction), os.fspath(instruction))
    text = instruction if instruction is not None else task.config.instruction
    if not (text or "").strip():
        raise ConfigError(
            f"task {task.name!r}: there is no instruction to distill; give its text, or a file of it (--instruction FILE)"
        )
    if task.config.data is not None and task.config.data.subsets:
        raise ConfigError(f"task {task.name!r}: data.subsets is of `softprompt train` alone; leave it out here")
    return task.variant(objective="distillation", instruction=text)


def measure(architecture: Architecture, task: Task, tuned: Tuned) -> Distilled:
    """What a request costs with a tuned prompt and with the instruction that it stands for."""
    base, prompt = architecture.base, tuned.prompt
    rows = task.test.part(range(min(1 + _TIMED, len(task.test))))
    own = task.encode(base, rows, len(prompt.vectors_PD), split="test", unanswered=True)
    behind = asked(base, task, rows, "test").inputs
    count = len(base.encode([instruction_before(task.form)])[0])
    vectors_PD = prompt.vectors_PD.to(base.dtype)
    whole_PD, rest = split_head(base, behind)
    requests = _Requests(architecture, task)
    prefixes = PrefixCache(architecture, sys.maxsize) if architecture.shares_prefix else None
    shared = None if task.form.front_varies else prefixes
    prompts = [with_front(base, own.front(row), vectors_PD) for row in range(len(rows))]
    kept, taught = [Vectors("prompt", prompt_PD) for prompt_PD in prompts], Vectors("instruction", whole_PD)
    calls: list[Callable[[int], object]] = [
        lambda row: requests.anew(prompts[row], own.inputs[row]),
        lambda row: requests.anew(no_prompt(base), behind[row]),
        lambda row: requests.behind(kept[row], shared, own.inputs[row]),
        lambda row: requests.behind(taught, prefixes, rest[row]),
    ]
    taken: list[list[float]] = [[] for _ in calls]
    for row in range(len(rows)):
        for times, call in zip(taken, calls, strict=True):
            began = time.perf_counter()
            call(row)
            times.append(1000 * (time.perf_counter() - began))
    medians = [statistics.median(times[1:] or times) for times in taken]
    ours = 0 if shared is None else shared.fetch(kept[:1])[0].bytes
    theirs = 0 if prefixes is None else prefixes.fetch([taught])[0].bytes
    anew, taught_anew, behind_own, behind_taught = medians
    return Distilled(tuned, count, anew, taught_anew, behind_own, behind_taught, ours, theirs)


class _Requests:
    """Requests of a task, one at a time."""

    def __init__(self, architecture: Architecture, task: Task) -> None:
        self._architecture, self._engine = architecture, OfflineEngine(architecture)
        self._labels = task.form.encode_labels(architecture.base) if task.form.labels else None
        self._most = task.form.max_new_tokens

    def anew(self, vectors_PD: Any, ids: Ids) -> object:
        """With nothing kept from one request to the next."""
        if self._labels is not None:
            return result_of(self._engine.score([vectors_PD], [0], [ids], [self._labels]))
        return result_of(self._engine.generate([vectors_PD], [0], [ids], [self._most]))

    def behind(self, prompt: Vectors, prefixes: PrefixCache | None, ids: Ids) -> object:
        """Behind keys and values that are kept from the first request on."""
        if self._labels is not None:
            return score_jobs(self._architecture, prefixes, [ScoreJob(prompt, tuple(ids), self._labels)])
        job = GenerateJob(prompt, tuple(ids), Sampling(max_tokens=self._most))
        return self._engine.run_jobs([job], prefixes)
