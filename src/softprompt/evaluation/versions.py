"""Judging versions of the library on rows with answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import FrozenBase
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
    dtype: str = "auto",
    device: str | None = None,
    quantization: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Judge the prompts of task files on their test rows.

    Args:
        version: number or alias to judge; by default production, else the newest.

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
    return _judge(library, pairs, dtype, device, quantization, progress or Silent())


def judge_on(
    library: Library,
    refs: Sequence[str],
    data: Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    quantization: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Judge versions on the rows of one file.

    Raises:
        NotFound: no such version.
        ConfigError: a version, made elsewhere, has a form that is not known here.
        DataError: the rows are wrong.
    """
    pairs = []
    for ref in refs:
        card = library.resolve(ref).card
        fields = form_fields(Form.of_card(card)) | {"data": str(data.resolve())}
        task = Task(parse_config(fields, where=f"the card of {ref}"))
        pairs.append((ref, task, task.rows_of(str(data.resolve()))))
    return _judge(library, pairs, dtype, device, quantization, progress or Silent())


def _judge(
    library: Library,
    pairs: Sequence[tuple[str, Task, list[Row]]],
    dtype: str,
    device: str | None,
    quantization: str | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    versions: list[Version] = [library.resolve(ref) for ref, _, _ in pairs]
    rows: list[dict[str, Any]] = []
    for source in dict.fromkeys(version.base for version in versions):
        base = FrozenBase.load(source, dtype=dtype, device=device, quantization=quantization)
        mine = [(v, task, test) for v, (_, task, test) in zip(versions, pairs, strict=True) if v.base == source]
        trials = []
        for version, task, test in mine:
            prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
            prompt.check_base(base)
            # Judged in the form it was tuned with, whatever the task file says by now.
            task.form = Form.of_card(prompt.card)
            examples = task.encode(base, test, len(prompt.vectors_PD), split="test")
            trials.append(Trial(task.form, prompt.vectors_PD.to(base.dtype), examples))
        with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
            engine = OfflineEngine(architecture_of(base), warn=progress.warn)
            reports = result_of(evaluate(engine, trials), advance)
        for (version, _, _), trial, report in zip(mine, trials, reports, strict=True):
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
