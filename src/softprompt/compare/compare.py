"""Comparing methods: each trained on the same rows, within the same steps, and judged on the same test rows alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.compare.method import Method, Trained
from softprompt.compare.names import NAMES, WITH_HEADS, WITH_PEFT, check_methods
from softprompt.compare.peft_prompts import PeftPrefixTuning, PeftPromptTuning, PeftPromptTuningOurs
from softprompt.compare.soft_prompt import Ours
from softprompt.compare.text_prompts import FewShot, ZeroShot
from softprompt.compare.weights import Full, Lora
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, SoftPromptError
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.meter import Meter
from softprompt.model.splice import with_front
from softprompt.progress import Progress, Silent, loading
from softprompt.tasks.answers import SET
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.tasks.schema import grammar_of
from softprompt.tasks.task import Task
from softprompt.text import plural

METHODS: dict[str, Method] = {
    "zero_shot": ZeroShot(),
    "few_shot": FewShot(),
    "ours": Ours(),
    "peft_prompt_tuning": PeftPromptTuning(),
    "peft_prompt_tuning_ours": PeftPromptTuningOurs(),
    "prefix": Ours(prompt_type="prefix"),
    "peft_prefix_tuning": PeftPrefixTuning(),
    "lora": Lora(),
    "full": Full(),
}
"""By their names."""

_TIMED = 8
"""Rows that are answered one by one to see how long one takes."""


def compare(
    task: TaskLike,
    *,
    methods: Sequence[str] = NAMES,
    max_steps: int | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Fit a base to a task by several methods, each on the same training rows and within the same steps, and judge each on
    the test rows by the same evaluation. Nothing is published.

    The methods: `zero_shot` (the task's text prompt), `few_shot` (with 8 training rows as examples), `ours` (a soft prompt
    by the task's recipe), `peft_prompt_tuning` (as PEFT and the Trainer come), `peft_prompt_tuning_ours` (with our rate,
    batch and schedule, and a start from text), `prefix` (a prefix by the task's recipe), `peft_prefix_tuning`, `lora` (of
    rank 8, on queries and values), and `full`
    fine-tuning.

    Args:
        task: a task file, dictionary, config or :class:`Task`.
        methods: which, in the order in which they are to be done; by default all.
        max_steps: of each method that trains; by default as the task says.
        base: a base that is loaded already, or how to load one; by default as the task names it.
        progress: where to report to.

    Returns a row for each method: on the test split `metric`, `value`, `stderr` and `rows`; `trainable` numbers, `bytes` to
    keep beside the base, `seconds` of training, `peak_mb` at most, `latency_ms` of one answer alone; and which `method`,
    `task`, `steps`, `train_rows`, `seed`, `base`, `fingerprint`, `dtype` and `settings` they are of.

    Raises:
        ConfigError: a method is unknown, lacks a package or does not work on such a base; or the task is wrong.
        BaseModelError: the base cannot be used.
        TrainingError: a method could not be trained.
    """
    check_methods(methods)
    (loaded,) = load_tasks(task)
    return list(compare_task(loaded, methods, max_steps, base, progress or Silent()))


def compare_task(
    task: Task, methods: Sequence[str], max_steps: int | None, base: BaseLike, progress: Progress
) -> Iterator[dict[str, Any]]:
    """The rows of :func:`compare`, each as soon as it is known."""
    if max_steps is not None:
        task = task.variant(max_steps=max_steps)
    with loading(progress, (options := one_base([task])).shown):
        frozen = base_of(base, options)
    check_all(methods, task, frozen)
    for number, name in enumerate(methods, 1):
        progress.note(f"{name}, {number} of {plural(len(methods), 'method')}")
        yield run_method(name, task, frozen, progress)


def check_all(methods: Sequence[str], task: Task, base: FrozenBase) -> None:
    """Refuse methods that do not work with a task on a base, with those that do.

    Raises:
        ConfigError: there is one.
    """
    refused = {name: error for name in methods if (error := refusal(name, task, base)) is not None}
    if refused:
        name, error = next(iter(refused.items()))
        works = [other for other in METHODS if other not in refused and refusal(other, task, base) is None]
        mend = f"name others: --methods {','.join(works)}" if works else "no method works there"
        raise ConfigError(f"{name} cannot be compared here: {error}; {mend}")


def refusal(name: str, task: Task, base: FrozenBase) -> SoftPromptError | None:
    """Why a method does not work with a task on a base; None where it does."""
    try:
        if task.form.is_set:
            raise ConfigError(
                f"task {task.name!r} has sets of labels as answers (problem_type {SET}), and methods are compared on tasks "
                "with one answer a row; take one label"
            )
        if base.task_type == "SEQ_CLS" and name not in WITH_HEADS:
            raise ConfigError(
                f"{base.name} answers through a head, which {' and '.join(WITH_HEADS)} alone train here; "
                "take a base with words"
            )
        METHODS[name].check(task, base)
    except SoftPromptError as error:
        return error
    return None


def run_method(name: str, task: Task, base: FrozenBase, progress: Progress) -> dict[str, Any]:
    """One row of :func:`compare`.

    Raises:
        ConfigError, TrainingError: the method does not work on such a base, or could not be trained.
    """
    method = METHODS[name]
    if (error := refusal(name, task, base)) is not None:
        raise error
    if name in WITH_PEFT:
        import peft  # noqa: F401
        import transformers.trainer  # noqa: F401  (what is imported later would count as memory of the training)
    with Meter(base) as meter:
        trained = method.train(task, base, progress)
        meter.lap()
        engine = OfflineEngine(trained.architecture, warn=progress.warn)
        with progress.stage("test", len(trained.test)) as advance:
            (report,) = result_of(judge(engine, [Trial(task.form, trained.vectors_PD, trained.test)]), advance)
    return {
        "method": name,
        "task": task.name,
        "metric": report.metric,
        "value": report.value,
        "stderr": report.stderr,
        "rows": report.rows,
        "trainable": trained.trainable,
        "bytes": trained.bytes,
        "seconds": round(meter.seconds, 2),
        "peak_mb": round(meter.peak_mb, 1),
        "latency_ms": round(latency_ms(engine, task, trained), 2),
        "steps": trained.steps,
        "train_rows": len(task.train),
        "seed": task.config.seed,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "settings": method.settings(task, base),
    }


def latency_ms(engine: OfflineEngine, task: Task, trained: Trained) -> float:
    """Milliseconds from an input to its answer, alone and with nothing kept from row to row: the median over a few rows."""
    base = trained.architecture.base
    labels = task.form.encode_labels(base) if task.form.labels else None
    taken = []
    for row in range(min(1 + _TIMED, len(trained.test))):
        inputs, began = [trained.test.inputs[row]], time.perf_counter()
        prompts = [with_front(base, trained.test.front(row), trained.vectors_PD)]
        if labels is not None:
            result_of(engine.score(prompts, [0], inputs, [labels]))
        else:
            grammars = [grammar_of(task.form, base)]
            result_of(engine.generate(prompts, [0], inputs, [task.form.max_new_tokens], grammars=grammars))
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[1:] or taken)
