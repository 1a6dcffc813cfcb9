"""Training claimed jobs at once on one base: each is judged and published for its own tenant, and fails alone."""

from __future__ import annotations

import csv
import io
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.errors import FieldError, NotFound, RegistryError, StoreError, TrainingError
from softprompt.evaluation.evaluate import Report
from softprompt.jobs.queue import Claim, Lost, Queue, checkpoints_of
from softprompt.jobs.rows import read_upload
from softprompt.jobs.uploads import Files
from softprompt.jobs.watch import Teller, Watch, fail, tell
from softprompt.library.library import Library
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.tasks.config import parse_config
from softprompt.tasks.rows import Row
from softprompt.tasks.task import Examples, Task
from softprompt.training.bank import Bank
from softprompt.training.checkpoint import EVERY_SECONDS, Keeper
from softprompt.training.loop import train_bank
from softprompt.training.prepare import prepare
from softprompt.training.run import Run
from softprompt.training.schedule import steps_per_epoch
from softprompt.training.tune import finish, judge_runs, make_prompt, measure_baselines

log = logging.getLogger("softprompt.jobs")

TELL_SECONDS = 1.0
MOST_TOLD = 200
"""Events of progress come at most so often; beside those of validations at most so many in a job."""

FORETOLD_SECONDS = 1e9
"""An end that is further away is not foretold; no calendar has them all."""

PUBLISH_TRIES = 6
"""Each after twice as long as the one before: a minute in all, in which a server may be started again."""


class JobTask(Task):
    """A task whose rows come from uploaded files."""

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, list[Row]]) -> None:
        self._files = files
        super().__init__(parse_config(dict(config)))

    def rows_of(self, name: str) -> list[Row]:
        """The rows of an upload, by its id."""
        return self._files[name]


@dataclass
class Seat:
    """A job's place in the bank."""

    claim: Claim
    library: Library
    """That of its tenant."""
    files: Files
    run: Run
    test: Examples
    baselines: dict[str, float]


def run_jobs(queue: Queue, claims: Sequence[Claim], base: FrozenBase, *, every: float = EVERY_SECONDS) -> None:
    """Do claimed jobs of one base to their ends; `every` so many seconds there is a checkpoint.

    Where training them at once fails as a whole, each is trained alone: an error of one, foreseen or not, takes no other
    along.
    """
    architecture = architecture_of(base)
    with Watch(queue, [claim.id for claim in claims]) as watch:
        seats = [seat for claim in claims if (seat := _seat(queue, claim, architecture)) is not None]
        try:
            _train(queue, seats, architecture, watch, every)
        except Exception as error:
            if len(seats) == 1:
                fail(queue, seats[0].claim, error)
                return
            log.warning("training of %d jobs: %s", len(seats), error, exc_info=error)
            for seat in seats:
                tell(queue, seat.claim, "training several jobs at once failed; this one is trained alone now", level="warn")
                alone = _seat(queue, seat.claim, architecture)
                if alone is not None:
                    try:
                        _train(queue, [alone], architecture, watch, every)
                    except Exception as again:
                        fail(queue, alone.claim, again)


def _seat(queue: Queue, claim: Claim, architecture: Architecture) -> Seat | None:
    """A job ready to train; None where it failed before, or where the registry is away, and it is left to the next claim."""
    library = queue.library.for_tenant(claim.tenant, claim.actor)
    files = Files(library)
    progress = Teller(queue, [claim])
    try:
        task = _task(claim, files)
        task.check_base_name()
        (run,) = prepare([task], architecture.base, library, progress)
        test = task.encode(architecture.base, task.test, task.config.num_virtual_tokens, split="test")
        (baselines,) = measure_baselines(architecture, [run], [test], progress)
    except RegistryError as error:
        log.warning("job %s has to wait: %s", claim.name, error)
        return None
    except Exception as error:
        fail(queue, claim, error)
        return None
    return Seat(claim, library, files, run, test, baselines)


def _task(claim: Claim, files: Files) -> Task:
    rows: dict[str, list[Row]] = {}
    for field, name in (("training_file", claim.training_file), ("validation_file", claim.validation_file)):
        if name is None:
            continue
        try:
            file = files.get(name)
            rows[name] = read_upload(files.read_bytes(file), file.filename).rows
        except NotFound as error:
            raise FieldError(f"{field} was deleted before the job was done: {error}", field) from None
    data: dict[str, Any] = {"train": claim.training_file}
    if claim.validation_file is not None:
        data["validation"] = claim.validation_file
    return JobTask({**claim.config, "base": claim.base, "data": data}, rows)


def _train(queue: Queue, seats: Sequence[Seat], architecture: Architecture, watch: Watch, every: float) -> None:
    if not seats:
        return
    started = time.perf_counter()
    progress = Teller(queue, [seat.claim for seat in seats])
    runs = [seat.run for seat in seats]
    keeper = _Stoppable(checkpoints_of(queue.library), architecture.base, runs, progress, every)
    with keeper.heeding():
        train_bank(architecture, runs, _Reporter(queue, seats, watch), keeper, progress)
    good: list[Seat] = []
    for seat in seats:
        if seat.run.failure is not None:
            fail(queue, seat.claim, TrainingError(f"{seat.run.failure}; lower learning_rate"))
        elif not seat.run.dropped and seat.run.best_PD is not None:
            good.append(seat)
    reports = judge_runs(architecture, [seat.run for seat in good], [seat.test for seat in good], progress)
    for seat, report in zip(good, reports, strict=True):
        try:
            _publish(queue, seat, architecture, report, started)
        except Exception as error:
            fail(queue, seat.claim, error)
    keeper.discard()


class _Stoppable(Keeper):
    """Where the process is told to end (SIGTERM), the step is finished and a checkpoint written before it does."""

    _told = False

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """While training: the signal waits for the step. Outside of it, nothing would be saved by waiting."""
        if threading.current_thread() is not threading.main_thread():  # others may not set handlers
            yield
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if self._told:
                signal.raise_signal(signal.SIGTERM)

    def save_if_due(self, bank: Bank, runs: Sequence[Run]) -> None:
        """Save when the last time is long ago, or was the last."""
        if self._told:
            self.save(bank, runs)
            log.info("told to end; a checkpoint is written")
            raise SystemExit(128 + signal.SIGTERM)
        super().save_if_due(bank, runs)

    def _hear(self, *_: object) -> None:
        self._told = True


class _Reporter:
    """Called after each step: tells how far each job is, and drops those that are no longer wanted."""

    def __init__(self, queue: Queue, seats: Sequence[Seat], watch: Watch) -> None:
        self._queue = queue
        self._seats = seats
        self._watch = watch
        self._told = {seat.claim.id: (0.0, 0) for seat in seats}
        self._validations = {seat.claim.id: 0 for seat in seats}
        self._started = time.monotonic()
        self._first = {seat.claim.id: 0 for seat in seats}

    def __call__(self, took: Sequence[Run]) -> None:
        if not took:  # goes on from a checkpoint
            self._first = {seat.claim.id: seat.run.step for seat in self._seats}
            self._validations = {seat.claim.id: len(seat.run.history) for seat in self._seats}
        for seat in self._seats:
            if seat.claim.id not in self._watch.wanted:
                seat.run.dropped = True
        for seat in self._seats:
            if not seat.run.dropped and any(seat.run is run for run in took):
                self._report(seat)

    def _report(self, seat: Seat) -> None:
        run, job = seat.run, seat.claim.id
        at, step = self._told[job]
        news = run.history[self._validations[job] :]
        worth = news or run.step - step >= run.total / MOST_TOLD
        if run.running and not (worth and time.monotonic() - at >= TELL_SECONDS):
            return
        data: dict[str, Any] = {"step": run.step, "total_steps": run.total, "train_loss": _number(run.loss)}
        message = f"step {run.step} of {run.total}: training loss {run.loss:.4f}"
        if news:
            self._validations[job] = len(run.history)
            row = news[-1]
            data |= {"train_loss": _number(row["loss"]), f"valid_{run.task.form.metric}": _number(row["value"])}
            message = (
                f"step {run.step} of {run.total}: training loss {row['loss']:.4f}, "
                f"validation {run.task.form.metric} {row['value']:.4f}"
            )
        self._told[job] = (time.monotonic(), run.step)
        tell(self._queue, seat.claim, message, data=data, step=run.step, estimated_finish=self._finish(seat))

    def _finish(self, seat: Seat) -> str | None:
        done = max(1, seat.run.step - self._first[seat.claim.id])
        left = (time.monotonic() - self._started) / done * (seat.run.total - seat.run.step)
        if left > FORETOLD_SECONDS:
            return None
        return (datetime.now(UTC) + timedelta(seconds=left)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _publish(queue: Queue, seat: Seat, architecture: Architecture, report: Report, started: float) -> None:
    run, claim = seat.run, seat.claim
    prompt = make_prompt(architecture, run, report, seat.baselines)
    card = prompt.card
    outcome = {
        "digest": prompt.digest,
        "steps": run.total,
        "best_step": run.best_step,
        "metric": card.metric,
        "metrics": card.metrics,
        "truncated": run.train.truncated + run.validation.truncated + seat.test.truncated,
    }
    table = _table(run)
    also = queue.succeeded(
        claim.id,
        outcome,
        _trained_tokens(run),
        lambda connection: seat.files.add_result(connection, table, "step_metrics.csv").name,
    )
    for attempt in range(1, PUBLISH_TRIES + 1):
        try:
            finish(
                architecture.base,
                [run],
                [seat.test],
                [prompt],
                [report],
                seat.library,
                started,
                Teller(queue, [claim]),
                also,
            )
        except Lost:
            log.info("job %s is no longer wanted; nothing was published", claim.name)
        except (StoreError, RegistryError) as error:
            if attempt == PUBLISH_TRIES:
                raise
            log.warning("job %s cannot be published: %s", claim.name, error)
            time.sleep(2.0**attempt)
            continue
        return


def _trained_tokens(run: Run) -> int:
    """Tokens of inputs and answers that went through training, to the nearest row."""
    whole, rest = divmod(run.step, steps_per_epoch(run.config, len(run.train)))
    rows = whole * len(run.train) + min(len(run.train), rest * run.config.per_device_train_batch_size)
    tokens = sum(map(len, run.train.inputs)) + sum(map(len, run.train.targets))
    return round(tokens / len(run.train) * rows)


def _table(run: Run) -> bytes:
    """The validations as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "learning_rate", "train_loss", f"valid_{run.task.form.metric}"])
    for row in run.history:
        writer.writerow([row["step"], row["learning_rate"], row["loss"], row["value"]])
    return text.getvalue().encode()


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value and abs(value) != float("inf") else None
