"""Tuning prompts from tasks to versions in the library: what `softprompt.train` and the command do."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ContextError, TrainingError
from softprompt.evaluation.evaluate import Report, Trial, evaluate, result_of
from softprompt.evaluation.metrics import measure
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.embedding import centroid_of, raw_text
from softprompt.progress import Mute, Progress, Silent
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import form_fields
from softprompt.tasks.task import Examples, Task
from softprompt.training.checkpoint import Keeper
from softprompt.training.loop import train_bank
from softprompt.training.parallel import Group
from softprompt.training.prepare import TaskLike, load_tasks, one_base, prepare
from softprompt.training.run import Run

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.library.library import Library, Version

BARELY = 0.02
"""A prompt that has moved by less than this share of its start's length has barely moved."""

CENTROID_ROWS = 200
"""Training rows that say where a task's inputs lie."""


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
    quantization: str | None = None,
    progress: Progress | None = None,
) -> list[Tuned]:
    """Tune a soft prompt for each task, all at once on one frozen base.

    Where `accelerate launch` has started several processes, each runs its share of every step's rows; the first one
    judges, publishes and returns the prompts, the others return none.

    Args:
        tasks: task files, dictionaries, configs or :class:`Task` objects, with distinct names and one base.
        base: a base that is loaded already; by default the one that the tasks name.
        library: where the prompts are published, each as a new version, once all are done. Without one nothing is kept.
        dtype: of the base, when it is loaded here.
        device: likewise.
        quantization: likewise; `int8`, or on a GPU `4bit`.
        progress: where to report to.

    Raises:
        ConfigError, DataError: a task is wrong; nothing was trained.
        BaseModelError: the base cannot be used.
        TrainingError: some prompt could not be trained. Those that could be are published first.
    """
    group = Group.current()
    progress = (progress or Silent()) if group.leads else Mute()
    loaded = load_tasks(tasks)
    if base is None:
        base = FrozenBase.load(one_base(loaded), dtype=dtype, device=device, quantization=quantization)
    architecture = architecture_of(base)
    started = time.perf_counter()
    runs = prepare(loaded, base, library, progress)
    tests = [task.encode(base, task.test, task.config.num_virtual_tokens, split="test") for task in loaded]
    baselines = measure_baselines(architecture, runs, tests, progress) if group.leads else []
    with progress.stage("train", sum(run.total for run in runs)) as advance:
        counted = 0

        def on_step(took: Sequence[Run]) -> None:
            nonlocal counted
            done = sum(run.step for run in runs)
            advance(done - counted, said(runs))
            counted = done

        keeper = Keeper(library.runs, base, runs, progress) if library is not None else None
        train_bank(architecture, runs, on_step, keeper, progress, group)
        advance(sum(run.total - run.step for run in runs), "")
    failed = [f"task {run.task.name!r}: {run.failure}" for run in runs if run.failure is not None]
    if not group.leads:
        return []
    whole = [index for index, run in enumerate(runs) if run.best_PD is not None and run.failure is None]
    good, good_tests = [runs[index] for index in whole], [tests[index] for index in whole]
    reports = judge_runs(architecture, good, good_tests, progress)
    made = zip(good, reports, [baselines[index] for index in whole], strict=True)
    prompts = [make_prompt(architecture, run, report, baseline) for run, report, baseline in made]
    tuned = finish(base, good, good_tests, prompts, reports, library, started, progress)
    if keeper is not None:
        keeper.discard()
    if failed:
        kept = f"; {', '.join(t.prompt.card.task for t in tuned)} went well" if tuned else "; nothing was published"
        raise TrainingError(f"{'; '.join(failed)}; lower learning_rate or use float32{kept}")
    return tuned


def judge_runs(
    architecture: Architecture, runs: Sequence[Run], tests: Sequence[Examples], progress: Progress
) -> list[Report]:
    """Judge each run's best vectors on its test rows."""
    dtype = architecture.base.dtype
    trials = [Trial(run.task.form, _best(run).to(dtype), test) for run, test in zip(runs, tests, strict=True)]
    with progress.stage("test", sum(len(trial.examples) for trial in trials)) as advance:
        return result_of(evaluate(OfflineEngine(architecture, warn=progress.warn), trials), advance)


def measure_baselines(
    architecture: Architecture, runs: Sequence[Run], tests: Sequence[Examples], progress: Progress
) -> list[dict[str, float]]:
    """Scores on the test split of the most frequent answer, of a text prompt, and of the prompt before training."""
    base = architecture.base
    nothing_PD = torch.zeros(0, base.width, dtype=base.dtype)
    trials: list[Trial] = []
    for run, test in zip(runs, tests, strict=True):
        form = run.task.form
        asked = _ask(base, run.task, progress)
        trials += [Trial(form, nothing_PD, asked), Trial(form, run.start_PD.to(base.dtype), test)]
    with progress.stage("baselines", sum(len(trial.examples) for trial in trials)) as advance:
        engine = OfflineEngine(architecture, warn=progress.warn)
        reports = result_of(evaluate(engine, trials), advance)
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


def _ask(base: FrozenBase, task: Task, progress: Progress) -> Examples:
    """The test rows behind the text prompt, or alone where both do not fit the context."""
    told = task.form.zero_shot_text()
    try:
        return task.encode(base, task.test, 0, split="test", prepend=told + "\n" if told else "")
    except ContextError:
        progress.warn(f"{task.name}: the text prompt of the zero-shot baseline does not fit the context, and is left out")
        return task.encode(base, task.test, 0, split="test")


def _best(run: Run) -> Tensor:
    assert run.best_PD is not None
    return run.best_PD.cpu()


def said(runs: Sequence[Run]) -> str:
    """How the runs stand, in a few words."""
    values = [f"{run.task.name[:12]} {run.best.value:.3f}" for run in runs if run.best is not None]
    return " ".join(values[:3]) if values else f"loss {sum(run.loss for run in runs) / len(runs):.3f}"


def make_prompt(
    architecture: Architecture,
    run: Run,
    report: Report,
    baselines: Mapping[str, float],
    more: Mapping[str, Any] | None = None,
) -> SoftPrompt:
    """A run's best vectors with their card; `more` joins its recipe."""
    assert run.best is not None
    base = architecture.base
    vectors_PD = _best(run)
    card = Card(
        base=base.name,
        fingerprint=base.fingerprint,
        num_virtual_tokens=len(vectors_PD),
        token_dim=base.width,
        recipe=run.config.recipe()
        | {"steps": run.total, "best_step": run.best_step, "dtype": str(base.dtype)[6:]}
        | ({"quantization": base.quantization} if base.quantization else {})
        | dict(more or {}),
        data_digest=run.task.data_digest,
        metrics={"value": report.value, "rows": report.rows, "validation": run.best.value, **baselines},
        parents=run.parents,
        **form_fields(run.task.form),
    )
    return SoftPrompt(vectors_PD, card, _centroid(architecture, run.task))


def _centroid(architecture: Architecture, task: Task) -> Tensor | None:
    """Of the raw texts of training rows, at most 200, spread over all of them."""
    fields = task.form.input.fields
    rows = task.train[:: -(-len(task.train) // CENTROID_ROWS)]
    return centroid_of(architecture, [raw_text(fields, row) for row in rows])


def finish(
    base: FrozenBase,
    runs: Sequence[Run],
    tests: Sequence[Examples],
    prompts: Sequence[SoftPrompt],
    reports: Sequence[Report],
    library: Library | None,
    started: float,
    progress: Progress,
    also: Callable[[Connection, list[Version]], object] | None = None,
) -> list[Tuned]:
    """Publish prompts, all or none, with what is `also` to be done in that transaction; warn of those that have barely
    moved; gather what is to be told of each."""
    moved = [_distance(prompt, run) for prompt, run in zip(prompts, runs, strict=True)]
    for run, distance in zip(runs, moved, strict=True):
        if distance < BARELY:
            progress.warn(
                f"{run.task.name}: the prompt has barely moved (L2 distance {distance:.2%} of its start's length); "
                f"raise learning_rate from {run.config.learning_rate:g} (0.03 to 0.3 is usual) or train longer"
            )
    numbers: list[int | None] = [None] * len(prompts)
    if library is not None and prompts:
        lost: dict[str, OSError] = {}

        def also_keep(connection: Connection, versions: list[Version]) -> None:
            if also is not None:
                also(connection, versions)
            # Before the versions are there for good, so that a kill leaves none without its history.
            for version, run in zip(versions, runs, strict=True):
                try:
                    _keep_history(_history_file(library, version.ref), run)
                except OSError as error:
                    lost[version.ref] = error

        versions = library.publish_all([prompt.to_bytes() for prompt in prompts], base=base.address, also=also_keep)
        numbers = [version.number for version in versions]
        for ref, error in lost.items():  # told only now: who hears it may write to the registry
            progress.warn(f"the history of {ref} cannot be written ({error}); the version is published without it")
    seconds = time.perf_counter() - started
    return [
        Tuned(
            prompt=prompt,
            report=report,
            version=number,
            seconds=seconds,
            truncated=run.train.truncated + run.validation.truncated + test.truncated,
            total=base.params + prompt.vectors_PD.numel(),
            moved=distance,
            history=run.history,
        )
        for prompt, report, number, run, test, distance in zip(prompts, reports, numbers, runs, tests, moved, strict=True)
    ]


def _distance(prompt: SoftPrompt, run: Run) -> float:
    return float((prompt.vectors_PD - run.start_PD).norm() / run.start_PD.norm().clamp_min(1e-12))


def _history_file(library: Library, ref: str) -> Path:
    """Other tenants of a home have folders of their own, for their tasks may have the same names."""
    folder = library.runs if library.tenant == "default" else library.runs / library.tenant
    return folder / f"{ref}.jsonl"


def _keep_history(file: Path, run: Run) -> None:
    """Write a run's history, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.stem}.partial")
    try:
        partial.write_text("".join(json.dumps(row) + "\n" for row in run.history), encoding="utf-8")
        partial.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
