"""From users' histories to prompts of their own: a few steps from the shared prompt, many users in a bank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, FingerprintMismatch, TrainingError
from softprompt.evaluation.trials import Report, Trial, answer, report_tuned, result_of
from softprompt.library import personal
from softprompt.library.binding import options_for
from softprompt.library.library import library_or_current
from softprompt.library.passages import Passages
from softprompt.lifecycle.histories import History, read_histories, read_source
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.progress import Advance, Progress, Silent
from softprompt.prompts.card import REFERENCE, SCORED, TEMPERATURE, Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record, Version
from softprompt.rows.sources import digest_rows
from softprompt.tasks.config.config import TaskConfig, parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.splits import Source
from softprompt.tasks.task import Task
from softprompt.training.prepare import chosen
from softprompt.training.steps.bank import Banks
from softprompt.training.steps.loop import Stepper
from softprompt.training.steps.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

STEPS = 30
BATCH = 8
RATE = 0.3
"""Of the default learning rate: the start is good already."""
BANK = 64
"""Users that are trained at once: their prompts' keys and values must have room beside each other."""
OF_OTHERS = (REFERENCE, TEMPERATURE, "test_digest", "validation_rows", "folds", "sweep", "upgrade", "correct")
"""What the recipe of the shared prompt says of its own rows and training: a user's version has others."""
HELD_OUT = 4
"""One row in so many chooses between the prompt as it was, half-way and at the end."""
CALIBRATING = 10
"""So many rows held out calibrate a user's version; fewer would make its probabilities worse than they are without."""


@dataclass(frozen=True)
class Personalized(Record):
    """A user's own version of a task."""

    task: str
    user: str
    version: int
    digest: str
    parent: str
    """The version that it started from."""
    metric: str
    value: float
    """On the user's rows that were held out, where the best prompt was chosen by them."""
    shared: float
    """Of the prompt that it started from, on the same rows."""
    rows: int
    """Held out."""
    train_rows: int
    steps: int
    best_step: int
    """0 where the start was as good as anything behind it: then that is the user's version."""
    seconds: float
    """Of the user's bank, shared out among its users."""
    prompt_bytes: int


@dataclass(eq=False)
class _User:
    name: str
    run: Run
    shared: Report = field(init=False)


def personalize(
    task: str,
    history: History,
    *,
    user: str | None = None,
    like: str | None = None,
    steps: int = STEPS,
    library: Library | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[Personalized]:
    """Give users prompts of their own of a task, each tuned in a few steps from the shared prompt on what the user has said,
    in the place of the one that the user had.

    Args:
        task: its name in the library. What that means to all others does not change.
        history: rows with the task's columns and the answers that the user wants: a file, rows, or for many users rows with
            a column `user`, a mapping of users to rows, or a folder with a file for each.
        user: whose rows they are; by default as they say.
        like: the version to start from, TASK, TASK@N or TASK@ALIAS; by default what `task` means.
        steps: of each user.
        library: by default the one in the current home.
        base: a base that is loaded already, or how to load one; by default as the version names it.
        progress: where to report to.

    Raises:
        NotFound: there is no such task or version.
        NameRefused: the id of a user is none.
        DataError: a history is wrong, or of one row.
        ConfigError: the prompt to start from is an ensemble, or is no start for this task.
        FingerprintMismatch: the prompt to start from is of another base than the task's.
        TrainingError: the prompt of a user could not be trained; nothing of its bank is published.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps train nothing; give 1 or more")
    shown = progress or Silent()
    with library_or_current(library) as opened:
        opened.registry.database.check_writable()
        shared, start = opened.registry.resolve(task), opened.registry.resolve(like or task)
        if shared.task != task:
            raise ConfigError(f"{task!r} names a version, and a user's own is of a task; give {shared.task!r}")
        check_alike(shared, start)
        histories = read_histories(history, user)
        form = Passages(tell=shown.warn).form_of(opened, shared)
        sources = {name: read_source(form, name, rows) for name, rows in histories.items()}
        prompt = SoftPrompt.from_bytes(opened.read(start), digest=start.digest)
        prompt.check_single("no personal version can start from")
        options = BaseOptions() if isinstance(base, FrozenBase) else options_for(shared, BaseOptions.of(base))
        architecture = architecture_of(base_of(base, options, shown))
        prompt.check_base(architecture.base)
        found: list[Personalized] = []
        names = iter(sources.items())
        with shown.stage("personalize", len(sources) * steps) as advance:
            while some := dict(islice(names, BANK)):
                found += _personalize(architecture, opened, shared, start, prompt, form, some, steps, shown, advance)
    return found


def check_alike(shared: Version, start: Version) -> None:
    """Refuse a start of another base, or another kind, than the task's.

    Raises:
        FingerprintMismatch, ConfigError: it is one.
    """
    if start.fingerprint != shared.fingerprint:
        raise FingerprintMismatch(
            f"{start.ref} was made for base {start.card.exact_base} with fingerprint {start.fingerprint}, and {shared.ref} "
            f"for {shared.card.exact_base} with {shared.fingerprint}; start from a prompt of the task's own base"
        )
    if shared.card.task_type == "SEQ_CLS":
        raise ConfigError(f"{shared.ref} answers through a head, and no personal version has one; take a base that writes")
    if start.card.members or shared.card.members:
        ref = (start if start.card.members else shared).ref
        raise ConfigError(f"{ref} is an ensemble, and no personal version can start from it; name one prompt with like")


def few_steps(form: Form, prompt: SoftPrompt, steps: int, batch: int, rate: float) -> TaskConfig:
    """The recipe of a few steps from a prompt, at a share of the default learning rate."""
    card = prompt.card
    said = {
        "prompt_type": card.prompt_type,
        "num_virtual_tokens": card.num_virtual_tokens,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate_multiplier": rate,
        "prompt_tuning_init": "SAMPLE_VOCAB",  # not used: the start is at hand
    }
    return parse_config(form_fields(form) | form.kind() | said, where=f"the card of {card.task!r}")


def _run(base: FrozenBase, task: Task, config: TaskConfig, prompt: SoftPrompt, source: Source) -> Run:
    """A user's run, one row in HELD_OUT held out by what the inputs hold; equal inputs stay together."""
    order = sorted(set(source.inputs), key=lambda text: source.positions[source.inputs.index(text)])
    held = set(order[::HELD_OUT]) if len(order) > HELD_OUT else {order[0]}
    places = {kept: [at for at, text in enumerate(source.inputs) if (text in held) is not kept] for kept in (True, False)}
    length = prompt.columns
    encoded = [task.encode(base, source.rows.part(places[kept]), length, split="history") for kept in (True, False)]
    labels = task.form.encode_labels(base) if task.form.labels else None
    return Run(task, config, prompt.vectors_PD, encoded[0], encoded[1], labels, (prompt.digest,))


def _personalize(
    architecture: Architecture,
    library: Library,
    shared: Version,
    start: Version,
    prompt: SoftPrompt,
    form: Form,
    sources: dict[str, Source],
    steps: int,
    progress: Progress,
    advance: Advance,
) -> list[Personalized]:
    """A bank of users."""
    began, base = time.perf_counter(), architecture.base
    task = Task(few_steps(form, prompt, steps, BATCH, RATE))
    task.form = form
    config = chosen(task.config, base, prompt.vectors_PD)
    users = [_User(name, _run(base, task, config, prompt, source)) for name, source in sources.items()]
    for user in users:
        for part in (user.run.train, user.run.validation):
            for remark in part.remarks(f"user {user.name!r}"):
                progress.warn(remark)
    runs = [user.run for user in users]
    bank = Banks([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    stepper, engine = Stepper(architecture, warn=progress.warn), OfflineEngine(architecture, warn=progress.warn)
    for user, report in zip(users, _judged(engine, runs, [run.start_PD for run in runs]), strict=True):
        user.shared = report
        user.run.took_start(report)
    for step in range(1, steps + 1):
        stepper.take(bank, runs)
        if failed := [f"user {user.name!r}: {user.run.failure}" for user in users if user.run.failure]:
            raise TrainingError(f"{'; '.join(failed[:3])}; use float32")
        if step in (steps // 2, steps):
            vectors = [bank.prompt(place) for place in range(len(runs))]
            for run, own, report in zip(runs, vectors, _judged(engine, runs, vectors), strict=True):
                run.took_validation(report, own)
        advance(len(runs), f"{len(runs)} users" if len(runs) > 1 else users[0].name)
    files = [
        (user.name, _prompt_of(user, shared, prompt, source).to_bytes())
        for user, source in zip(users, sources.values(), strict=True)
    ]
    versions = personal.publish(library, shared.task, files, base=shared.base)
    seconds = round((time.perf_counter() - began) / len(users), 4)
    return list(_rows(users, versions, files, start, seconds))


def _judged(engine: OfflineEngine, runs: Sequence[Run], vectors: Sequence[torch.Tensor]) -> list[Report]:
    dtype, pairs = engine.architecture.base.dtype, zip(runs, vectors, strict=True)
    trials = [Trial(run.task.form, own.to(dtype), run.validation, keeps_chances=True) for run, own in pairs]
    given = zip(trials, result_of(answer(engine, trials)), strict=True)
    return [report_tuned(trial, answers, fixed=True) for trial, answers in given]


def _temperature(run: Run, best: Report, start: Card, shared: Card) -> float | None:
    """What calibrates a user's version: the one that fits the rows held out, where these are enough; of a prompt that is the
    start as it was, that of the start, if it is asked alike."""
    if run.best_step:
        return best.temperature if best.rows >= CALIBRATING else None
    alike = all(getattr(start, name) == getattr(shared, name) for name in SCORED)
    return start.recipe.get(TEMPERATURE) if alike else None


def _prompt_of(user: _User, shared: Version, prompt: SoftPrompt, source: Source) -> SoftPrompt:
    """Nothing of who the user is goes into the file: equal histories make equal bytes."""
    run, best = user.run, user.run.best
    assert best is not None
    assert run.best_PD is not None
    recipe = shared.card.recipe | run.config.recipe() | {"steps": run.step, "best_step": run.best_step, "personal": True}
    recipe["prompt_tuning_init"] = "PROMPT"
    for name in OF_OTHERS:
        recipe.pop(name, None)
    if (temperature := _temperature(run, best, prompt.card, shared.card)) is not None:
        recipe[TEMPERATURE] = temperature
    metrics = {"value": best.value, "stderr": best.stderr, "rows": best.rows, "shared": user.shared.value}
    card = prompt.card.model_copy(
        update={
            **shared.card.form(),
            "task": shared.task,
            "recipe": recipe,
            "metrics": {name: value for name, value in metrics.items() if value == value},
            "data_digest": digest_rows(source.rows),
            "parents": (prompt.digest,),
            "dtype": "float32",
        }
    )
    return SoftPrompt(run.best_PD.float().cpu(), card)


def _rows(
    users: Sequence[_User], versions: Sequence[Version], files: Sequence[tuple[str, bytes]], start: Version, seconds: float
) -> Iterator[Personalized]:
    for user, version, (_, data) in zip(users, versions, files, strict=True):
        run, best = user.run, user.run.best
        assert best is not None
        yield Personalized(
            task=version.task,
            user=user.name,
            version=version.number,
            digest=version.digest,
            parent=start.ref,
            metric=best.metric,
            value=best.value,
            shared=user.shared.value,
            rows=best.rows,
            train_rows=len(run.train),
            steps=run.step,
            best_step=run.best_step,
            seconds=seconds,
            prompt_bytes=len(data),
        )
