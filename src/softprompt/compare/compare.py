"""Comparing methods: each trained on the same rows, within the same budget, and judged on the same test rows alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.compare.adapters import Adapters
from softprompt.compare.budget import Budget
from softprompt.compare.decision import decide
from softprompt.compare.fit import head_of
from softprompt.compare.method import Method, Trained
from softprompt.compare.names import RATES, USUAL, WITH_PEFT, check_methods
from softprompt.compare.peft_prompts import PeftPrefixTuning, PeftPromptTuning, PeftPromptTuningOurs, PTuning
from softprompt.compare.search import find, ranged
from softprompt.compare.soft_prompt import Ours
from softprompt.compare.text_prompts import FewShot, ZeroShot, bare
from softprompt.compare.weights import Full, Ia3, Lora
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, SoftPromptError
from softprompt.evaluation.metrics import score
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.meter import Meter
from softprompt.model.splice import with_front
from softprompt.progress import Progress, Silent
from softprompt.tasks.answers.kinds import SET
from softprompt.tasks.answers.schema import grammar_of
from softprompt.tasks.load import TaskLike, load_tasks, one_base
from softprompt.tasks.task import Task
from softprompt.text import plural

METHODS: dict[str, Method] = {
    "zero_shot": ZeroShot(),
    "few_shot": FewShot(),
    "ours": Ours(),
    "peft_prompt_tuning": PeftPromptTuning(),
    "peft_prompt_tuning_ours": PeftPromptTuningOurs(),
    "p_tuning": PTuning(),
    "ia3": Ia3(),
    "prefix": Ours(prompt_type="prefix"),
    "peft_prefix_tuning": PeftPrefixTuning(),
    "lora": Lora(),
    "adapters": Adapters(),
    "full": Full(),
}
"""By their names."""

_TIMED = 8
"""Rows that are answered one by one to see how long one takes."""


def compare(
    task: TaskLike,
    *,
    methods: Sequence[str] | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    rates: int = RATES,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Fit a base to a task by several methods, each on the same training rows and within the same budget, and judge each on
    the test rows by the same evaluation. Nothing is published.

    The methods: `zero_shot` (the task's text prompt; on bases that answer through a head, the head as it starts), `few_shot`
    (with 8 training rows as examples), `ours` (a soft prompt by the task's recipe), `p_tuning` (vectors made by a small
    network), `ia3`, `prefix` (a prefix by the task's recipe), `lora` (of rank 8, on queries and values), `adapters` (a
    bottleneck behind each feed-forward part) and `full` fine-tuning; by name also `peft_prompt_tuning` (as PEFT and the
    Trainer come), `peft_prompt_tuning_ours` (with our rate, batch and schedule, and a start from text) and
    `peft_prefix_tuning`.

    Args:
        task: a task file, dictionary, config or :class:`Task`.
        methods: which, in the order in which they are to be done; by default one of each kind that works there.
        max_steps: of each method that trains; by default as the task says.
        max_seconds: instead of steps, about so many seconds of each one's training.
        rates: learning rates that are tried of each method that trains, each for a quarter of its steps, on the validation
            rows: a factor of 3 apart, around its usual one, or the one that the task names. 1 tries none beside it.
        base: a base that is loaded already, or how to load one; by default as the task names it.
        progress: where to report to.

    Returns a row for each method: on the test split `metric`, `value`, `stderr` and `rows`; `trainable` numbers, `bytes` to
    keep beside the base, `seconds` of training, `peak_mb` at most, `latency_ms` of one answer alone and `added_latency_ms`
    over the base's own with nothing in front; `learning_rate`, the `rates` that were tried and `search_seconds` of it; and
    which `method`, `task`, `steps`, `train_rows`, `seed`, `base`, `fingerprint`, `dtype` and `settings` they are of. The
    last row's `decision` has in words what the rule (prompt tuning, then prefix tuning, then LoRA) says to all of them, and
    `take` the method that it comes to; those of others are null.

    Raises:
        ConfigError: a method is unknown, lacks a package or does not work on such a base; or the task or budget is wrong.
        BaseModelError: the base cannot be used.
        TrainingError: a method could not be trained.
    """
    check_methods(USUAL if methods is None else methods)
    budget = Budget(max_steps, max_seconds, rates)
    (loaded,) = load_tasks(task)
    return list(compare_task(loaded, methods, budget, base, progress or Silent()))


def compare_task(
    task: Task, methods: Sequence[str] | None, budget: Budget, base: BaseLike, progress: Progress
) -> Iterator[dict[str, Any]]:
    """The rows of :func:`compare`, each as soon as it is known."""
    if budget.max_steps is not None:
        task = task.variant(max_steps=budget.max_steps)
    frozen = base_of(base, one_base([task]), progress)
    named = check_all(methods, task, frozen, progress)
    task = ranged(task)
    rows, values = list[dict[str, Any]](), dict[str, tuple[float, ...]]()
    for number, name in enumerate(named, 1):
        progress.note(f"{name}, {number} of {plural(len(named), 'method')}")
        row, report = measure_method(name, task, frozen, progress, budget)
        rows.append(row)
        values[name] = report.values
        if number == len(named):
            decision = decide(rows, values, _majority(task))
            row |= {"decision": decision.words, "take": decision.method}
        yield row


def check_all(methods: Sequence[str] | None, task: Task, base: FrozenBase, progress: Progress) -> list[str]:
    """The methods that are to be compared. Refuse one that is named and does not work with the task on the base, with those
    that do; where none is named, leave it out, and say so.

    Raises:
        ConfigError: there is one that is named, or none works.
    """
    asked = USUAL if methods is None else methods
    refused = {name: error for name in asked if (error := refusal(name, task, base)) is not None}
    if refused and (methods is not None or len(refused) == len(asked)):
        name, error = next(iter(refused.items()))
        works = [other for other in METHODS if other not in refused and refusal(other, task, base) is None]
        mend = f"name others: --methods {','.join(works)}" if works else "no method works there"
        raise ConfigError(f"{name} cannot be compared here: {error}; {mend}")
    for name, error in refused.items():
        progress.warn(f"{name} is left out: {error}")
    return [name for name in asked if name not in refused]


def refusal(name: str, task: Task, base: FrozenBase) -> SoftPromptError | None:
    """Why a method does not work with a task on a base; None where it does."""
    try:
        if task.form.is_set:
            raise ConfigError(
                f"task {task.name!r} has sets of labels as answers (problem_type {SET}), and methods are compared on tasks "
                "with one answer a row; take one label"
            )
        METHODS[name].check(task, base)
    except SoftPromptError as error:
        return error
    return None


def run_method(
    name: str, task: Task, base: FrozenBase, progress: Progress, budget: Budget = Budget(rates=1)
) -> dict[str, Any]:
    """One row of :func:`compare`; by default at the method's usual rate.

    Raises:
        ConfigError, TrainingError: the method does not work on such a base, or could not be trained.
    """
    return measure_method(name, task, base, progress, budget)[0]


def measure_method(
    name: str, task: Task, base: FrozenBase, progress: Progress, budget: Budget
) -> tuple[dict[str, Any], Report]:
    """One row of :func:`compare`, and the report that it tells of."""
    method = METHODS[name]
    if (error := refusal(name, task, base)) is not None:
        raise error
    if name in WITH_PEFT:
        import peft  # noqa: F401
        import transformers.trainer  # noqa: F401  (what is imported later would count as memory of the training)
    found = find(method, task, base, budget, progress)
    if found.at_edge:
        progress.warn(f"{name}: the best of the rates that were tried is the last on its side; try more (--rates 5)")
    with Meter(base) as meter:
        trained = method.train(found.task, base, progress, found.factor)
        meter.lap()
        engine = OfflineEngine(trained.architecture, warn=progress.warn)
        with progress.stage("test", len(trained.test)) as advance:
            trial = Trial(found.task.form, trained.vectors_PD, trained.test)
            (report,) = result_of(judge(engine, [trial]), advance)
    for remark in report.remarks(name):
        progress.warn(remark)
    latency, added = latencies(engine, found.task, base, trained)
    settings = method.settings(found.task, base)
    if trained.rate is not None and task.config.class_weights is not None:
        settings["class_weights"] = task.config.class_weights
    used = {"learning_rate": trained.rate, "shots": trained.shots}
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
        "latency_ms": round(latency, 2),
        "added_latency_ms": round(added, 2),
        "steps": trained.steps,
        "learning_rate": trained.rate,
        "rates": list(found.tried),
        "search_seconds": round(found.seconds, 2),
        "train_rows": len(task.train),
        "seed": task.config.seed,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "settings": settings | {key: value for key, value in used.items() if value is not None},
        "decision": None,
        "take": None,
    }, report


def latencies(engine: OfflineEngine, task: Task, base: FrozenBase, trained: Trained) -> tuple[float, float]:
    """Milliseconds from an input to its answer, alone and with nothing kept from row to row: the median over a few rows; and
    how much more that is than the base takes for the same rows with nothing in front, each row once by either in turn."""
    count = min(1 + _TIMED, len(trained.test))
    plain = bare(task, base, task.test.part(range(count)), head_of(architecture_of(base), task))
    other = OfflineEngine(plain.architecture, warn=lambda message: None)
    taken, without = list[float](), list[float]()
    for row in range(count):
        taken.append(_milliseconds(engine, task, trained, row))
        without.append(_milliseconds(other, task, plain, row))
    one, two = (statistics.median(each[1:] or each) for each in (taken, without))
    return one, one - two


def _milliseconds(engine: OfflineEngine, task: Task, trained: Trained, row: int) -> float:
    base = trained.architecture.base
    labels = task.form.encode_labels(base) if task.form.labels else None
    inputs, began = [trained.test.inputs[row]], time.perf_counter()
    prompts = [with_front(base, trained.test.front(row), trained.vectors_PD)]
    if labels is not None:
        result_of(engine.score(prompts, [0], inputs, [labels]))
    else:
        grammars = [grammar_of(task.form, base)]
        result_of(engine.generate(prompts, [0], inputs, [task.form.max_new_tokens], grammars=grammars))
    return 1000 * (time.perf_counter() - began)


def _majority(task: Task) -> float:
    """The value of the most frequent answer of the training rows on the test rows."""
    form = task.form.answered
    answers = [form.answer(row, "a test row") for row in task.test]
    return score(task.form.metric, *task.form.judged([task.majority()] * len(answers), answers)).value
