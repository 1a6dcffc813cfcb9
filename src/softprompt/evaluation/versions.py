"""Judging versions of the library on rows with answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.evaluate import Trial, evaluate, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.config import parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.rows import Row
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


def judge(
    library: Library,
    files: Sequence[str],
    version: str | None = None,
    *,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Judge the prompts of task files on their test rows.

    Args:
        version: number or alias to judge; by default production, else the newest.
        base: a base that is loaded already, or how to load one; where nothing is said, as versions and task files name it.

    Raises:
        ConfigError: a task file is wrong.
        NotFound: a task has no such version.
    """
    pairs = []
    for file in files:
        if not file.endswith((".yaml", ".yml")):
            raise ConfigError(f"{file!r} is no task file (.yaml); for a task of the library give its rows with --data FILE")
        task = Task.load(file)
        pairs.append((f"{task.name}@{version}" if version else task.name, task, task.test))
    return _judge(library, pairs, base, progress or Silent())


def judge_on(
    library: Library,
    refs: Sequence[str],
    data: Path,
    *,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Judge versions on the rows of one file. `base` is as for :func:`judge`.

    Raises:
        NotFound: no such version.
        ConfigError: a version, made elsewhere, has a form that is not known here.
        DataError: the rows are wrong.
    """
    pairs = []
    for ref in refs:
        card = library.registry.resolve(ref).card
        fields = form_fields(Form.of_card(card)) | {"data": str(data.resolve())}
        task = Task(parse_config(fields, where=f"the card of {ref}"))
        pairs.append((ref, task, task.rows_of(str(data.resolve()))))
    return _judge(library, pairs, base, progress or Silent())


def _judge(
    library: Library,
    pairs: Sequence[tuple[str, Task, list[Row]]],
    base: BaseLike,
    progress: Progress,
) -> list[dict[str, Any]]:
    groups: dict[BaseOptions, list[tuple[Version, Task, list[Row]]]] = {}
    for ref, task, test in pairs:
        version = library.registry.resolve(ref)
        groups.setdefault(_options(version, task), []).append((version, task, test))
    rows: list[dict[str, Any]] = []
    for options, group in groups.items():
        loaded = base_of(base, options)
        trials = []
        for version, task, test in group:
            prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
            prompt.check_base(loaded)
            # Judged in the form it was tuned with, whatever the task file says by now.
            task.form = Form.of_card(prompt.card)
            examples = task.encode(loaded, test, len(prompt.vectors_PD), split="test")
            trials.append(Trial(task.form, prompt.vectors_PD.to(loaded.dtype), examples))
        with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
            engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
            reports = result_of(evaluate(engine, trials), advance)
        for (version, _, _), trial, report in zip(group, trials, reports, strict=True):
            rows.append(
                {
                    "task": version.task,
                    "version": version.number,
                    "digest": version.digest,
                    "metric": report.metric,
                    "value": report.value,
                    "rows": report.rows,
                    "loss": report.loss,
                    "truncated": trial.examples.truncated,
                }
            )
    return rows


def _options(version: Version, task: Task) -> BaseOptions:
    """The base of a version; where the task file names the same one, loaded as the file says. A version that was tuned
    without an adapter gets none."""
    named = task.base_options
    if version.base not in (named.address, str(Path(named.address).resolve())):
        return BaseOptions(source=version.base)
    adapter = named.adapter if "adapter" in version.card.recipe else None
    return BaseOptions(source=version.base, adapter=adapter, trust_remote_code=named.trust_remote_code)
