"""Tuning prompts from tasks to versions in the library: what `softprompt.train` and the command do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt import initialize
from softprompt.base import FrozenBase
from softprompt.card import Card
from softprompt.config import TaskConfig
from softprompt.engines.local import LocalEngine
from softprompt.errors import ConfigError, TrainingError
from softprompt.evaluation import Report, Trial, evaluate
from softprompt.form import form_fields
from softprompt.metrics import measure
from softprompt.progress import Progress, Silent
from softprompt.prompt import SoftPrompt
from softprompt.task import Examples, Task
from softprompt.training.loop import train_bank
from softprompt.training.run import Run

if TYPE_CHECKING:
    from softprompt.library import Library

TaskLike = Task | TaskConfig | Mapping[str, Any] | str | os.PathLike[str]

SHORT, LONG = 5, 150
"""Prompt lengths outside of which a warning is due: too little capacity, and an input that drowns."""

BARELY = 0.02
"""A prompt that has moved by less than this share of its start's length has barely moved."""


@dataclass(frozen=True)
class Tuned:
    """A tuned prompt, with its scores on the test split."""

    prompt: SoftPrompt
    report: Report
    version: int | None
    """Its number in the library; None when it was not published."""
    seconds: float
    """Wall-clock time of the whole training, which all prompts of a bank share."""
    truncated: int
    """Inputs and answers that were cut to fit the context, over all splits."""
    total: int
    """Weights of base and prompt."""
    moved: float
    """Distance from the start relative to the start's length (L2)."""
    history: list[dict[str, float]]
    """A row for each validation: step, learning rate, loss, value."""

    def row(self) -> dict[str, Any]:
        """One flat row, as the command prints it."""
        card = self.prompt.card
        trainable = card.num_virtual_tokens * card.token_dim
        return {
            "task": card.task,
            "version": self.version,
            "digest": self.prompt.digest,
            "metric": card.metric,
            "value": card.metrics["value"],
            "majority": card.metrics["majority"],
            "zero_shot": card.metrics["zero_shot"],
            "untrained": card.metrics["untrained"],
            "validation": card.metrics["validation"],
            "seconds": round(self.seconds, 2),
            "prompt_bytes": len(self.prompt.to_bytes()),
            "trainable": trainable,
            "total": self.total,
            "truncated": self.truncated,
            "moved": round(self.moved, 4),
        }


def train(
    tasks: TaskLike | Sequence[TaskLike],
    *,
    base: FrozenBase | None = None,
    library: Library | None = None,
    dtype: str = "auto",
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Tuned]:
    """Tune a soft prompt for each task, all at once on one frozen base.

    Args:
        tasks: task files, dictionaries, configs or :class:`Task` objects, with distinct names and one base.
        base: a base that is loaded already; by default the one that the tasks name.
        library: where the prompts are published, each as a new version, once all are done. Without one nothing is kept.
        dtype: of the base, when it is loaded here.
        device: likewise.
        progress: where to report to.

    Raises:
        ConfigError, DataError: a task is wrong; nothing was trained.
        BaseModelError: the base cannot be used.
        TrainingError: some prompt could not be trained. Those that could be are published first.
    """
    progress = progress or Silent()
    loaded = _load_tasks(tasks)
    for task in loaded:
        task.check_base_name()
    if base is None:
        base = FrozenBase.load(_one_base(loaded), dtype=dtype, device=device)
    started = time.perf_counter()
    runs, tests = _prepare(loaded, base, library, progress)
    baselines = _baselines(base, runs, tests, progress)
    total = sum(run.total for run in runs)
    with progress.stage("train", total) as advance:
        train_bank(base, runs, lambda took: advance(len(took), _said(runs)))
        advance(sum(run.total - run.step for run in runs), "")
    good = [index for index, run in enumerate(runs) if run.best_PD is not None and run.failure is None]
    trials = [Trial(loaded[i].form, _best(runs[i]).to(base.dtype), tests[i]) for i in good]
    with progress.stage("test", sum(len(trial.examples) for trial in trials)) as advance:
        reports = evaluate(LocalEngine(base), trials, lambda rows: advance(rows, ""))
    tuned = []
    for index, report in zip(good, reports, strict=True):
        prompt = _prompt(base, runs[index], report, baselines[index], library)
        tuned.append(_finish(base, runs[index], tests[index], prompt, report, library, started, progress))
    failed = [f"task {run.task.name!r}: {run.failure}" for run in runs if run.failure is not None]
    if failed:
        kept = f"; {', '.join(t.prompt.card.task for t in tuned)} went well" if tuned else "; nothing was published"
        raise TrainingError(f"{'; '.join(failed)}; lower learning_rate or use float32{kept}")
    return tuned


def _load_tasks(tasks: TaskLike | Sequence[TaskLike]) -> list[Task]:
    single = isinstance(tasks, Task | TaskConfig | Mapping | str | os.PathLike)
    many: Sequence[Any] = [tasks] if single else tasks  # type: ignore[assignment]
    if not many:
        raise ConfigError("no task was given; name at least one task file")
    loaded = [_load_task(task) for task in many]
    names = [task.name for task in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the task name {twice[0]!r} is used twice; give each file a `task:` of its own")
    return loaded


def _load_task(task: TaskLike) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, TaskConfig):
        return Task(task)
    if isinstance(task, Mapping):
        return Task(**dict(task))
    return Task.load(Path(task))


def _one_base(tasks: Sequence[Task]) -> str:
    sources = {task.config.base_source: task.name for task in tasks}
    if len(sources) > 1:
        told = ", ".join(f"{name} on {source}" for source, name in sources.items())
        raise ConfigError(f"tasks trained together share one base, and these do not: {told}; train them apart")
    source = next(iter(sources))
    beside = tasks[0].folder / source
    return str(beside) if not Path(source).is_dir() and beside.is_dir() else source


def _prepare(
    tasks: Sequence[Task], base: FrozenBase, library: Library | None, progress: Progress
) -> tuple[list[Run], list[Examples]]:
    runs: list[Run] = []
    tests: list[Examples] = []
    rows = sum(len(task.train) + len(task.validation) + len(task.test) for task in tasks)
    with progress.stage("read", rows) as advance:
        for task in tasks:
            length = task.config.num_virtual_tokens
            if length < SHORT:
                progress.warn(f"{task.name}: {length} virtual tokens have little capacity; 20 to 100 is usual")
            if length > LONG:
                progress.warn(f"{task.name}: {length} virtual tokens can drown the input; 20 to 100 is usual")
            train, validation, test = (
                task.encode(base, part, length, split=name)
                for name, part in (
                    ("training", task.train),
                    ("validation", task.validation),
                    ("test", task.test),
                )
            )
            labels = task.form.encode_labels(base) if task.form.labels else None
            runs.append(Run(task, start_vectors(base, task, library), train, validation, labels))
            tests.append(test)
            _tell_budget(base, task, runs[-1], progress)
            advance(len(train) + len(validation) + len(test), task.name)
    return runs, tests


def start_vectors(base: FrozenBase, task: Task, library: Library | None) -> Tensor:
    """The vectors that a task's prompt starts from, P x D.

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
        return initialize.from_prompts([p.vectors_PD for p in _parents(base, config, library)], length)
    return initialize.sample_vocabulary(base, length, config.seed)


def _parents(base: FrozenBase, config: TaskConfig, library: Library | None) -> list[SoftPrompt]:
    if config.initializer != "PROMPT":
        return []
    if library is None:
        raise ConfigError("prompt_tuning_init PROMPT takes prompts from a library; give one")
    prompts = [SoftPrompt.from_bytes(library.read(ref)) for ref in config.prompt_tuning_init_prompt]
    for prompt in prompts:
        prompt.check_base(base)
    return prompts


def _tell_budget(base: FrozenBase, task: Task, run: Run, progress: Progress) -> None:
    longest = max(len(ids) for ids in run.train.inputs)
    output = task.form.output_length(base)
    length = task.config.num_virtual_tokens
    limit = "no limit" if base.context is None else f"of {base.context}"
    progress.note(
        f"{task.name}: {len(run.train)} training rows; context: {length} virtual + up to {longest} input + {output} output "
        f"= {length + longest + output} tokens {limit}"
    )
    if cut := run.train.truncated + run.validation.truncated:
        progress.warn(f"{task.name}: {cut} of {len(run.train) + len(run.validation)} rows were cut to fit the context")


def _baselines(
    base: FrozenBase, runs: Sequence[Run], tests: Sequence[Examples], progress: Progress
) -> list[dict[str, float]]:
    """Scores on the test split of the most frequent answer, of a text prompt, and of the prompt before training."""
    nothing_PD = torch.zeros(0, base.width, dtype=base.dtype)
    trials: list[Trial] = []
    for run, test in zip(runs, tests, strict=True):
        form = run.task.form
        told = form.zero_shot_text()
        asked = run.task.encode(base, run.task.test, 0, split="test", prepend=told + "\n" if told else "")
        trials += [Trial(form, nothing_PD, asked), Trial(form, run.start_PD.to(base.dtype), test)]
    with progress.stage("baselines", sum(len(trial.examples) for trial in trials)) as advance:
        reports = evaluate(LocalEngine(base), trials, lambda rows: advance(rows, ""))
    scores = []
    for index, (run, test) in enumerate(zip(runs, tests, strict=True)):
        constant = [run.task.majority()] * len(test)
        scores.append(
            {
                "majority": measure(run.task.form.metric, constant, test.answers),
                "zero_shot": reports[2 * index].value,
                "untrained": reports[2 * index + 1].value,
            }
        )
    return scores


def _best(run: Run) -> Tensor:
    assert run.best_PD is not None
    return run.best_PD.cpu()


def _said(runs: Sequence[Run]) -> str:
    values = [f"{run.task.name[:12]} {run.best.value:.3f}" for run in runs if run.best is not None]
    return " ".join(values[:3]) if values else f"loss {sum(run.loss for run in runs) / len(runs):.3f}"


def _prompt(
    base: FrozenBase, run: Run, report: Report, baselines: Mapping[str, float], library: Library | None
) -> SoftPrompt:
    assert run.best is not None
    vectors_PD = _best(run)
    card = Card(
        base=base.name,
        fingerprint=base.fingerprint,
        num_virtual_tokens=len(vectors_PD),
        token_dim=base.width,
        recipe=run.config.recipe() | {"steps": run.total, "best_step": run.best_step, "dtype": str(base.dtype)[6:]},
        data_digest=run.task.data_digest,
        metrics={"value": report.value, "rows": report.rows, "validation": run.best.value, **baselines},
        parents=tuple(parent.digest for parent in _parents(base, run.config, library)),
        **form_fields(run.task.form),
    )
    return SoftPrompt(vectors_PD, card)


def _finish(
    base: FrozenBase,
    run: Run,
    test: Examples,
    prompt: SoftPrompt,
    report: Report,
    library: Library | None,
    started: float,
    progress: Progress,
) -> Tuned:
    moved = float((prompt.vectors_PD - run.start_PD).norm() / run.start_PD.norm().clamp_min(1e-12))
    if moved < BARELY:
        progress.warn(
            f"{run.task.name}: the prompt has barely moved (L2 distance {moved:.2%} of its start's length); "
            f"raise learning_rate from {run.config.learning_rate:g} (0.03 to 0.3 is usual) or train longer"
        )
    number = None
    if library is not None:
        version = library.publish(prompt.to_bytes(), base=base.address)
        number = version.number
        _keep_history(library.runs, version.ref, run)
    return Tuned(
        prompt=prompt,
        report=report,
        version=number,
        seconds=time.perf_counter() - started,
        truncated=run.train.truncated + run.validation.truncated + test.truncated,
        total=base.params + prompt.vectors_PD.numel(),
        moved=moved,
        history=run.history,
    )


def _keep_history(folder: Path, ref: str, run: Run) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{ref}.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in run.history), encoding="utf-8")
    partial.replace(folder / f"{ref}.jsonl")
