"""Training claimed jobs at once on one base: a session whose events become those of the jobs, and which later ones
join. Each is published for its own tenant, and fails alone."""

from __future__ import annotations

import csv
import io
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from softprompt.errors import FieldError, NotFound, RegistryError, TrainingError
from softprompt.evaluation.baselines import beside_baselines, untaught
from softprompt.evaluation.findings import remarks_on_scores
from softprompt.jobs.door import Door
from softprompt.jobs.queue import Claim, Lost, Queue, checkpoints_of
from softprompt.jobs.records import add_event
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.watch import Watch, fail, record
from softprompt.model.architecture import Architecture
from softprompt.registry.gate import rival
from softprompt.rows.places import PlacedRows
from softprompt.signals import handling
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.config.schedule import steps_per_epoch
from softprompt.tasks.task import Task
from softprompt.training.checkpoint import EVERY_SECONDS
from softprompt.training.events import Event, Failed, Judged, Noted, Resumed, Stepped, Stopped
from softprompt.training.member import Member
from softprompt.training.publish import found
from softprompt.training.session import Session
from softprompt.training.steps.run import Run

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.prompts.prompt import SoftPrompt
    from softprompt.registry.records import Version

log = logging.getLogger("softprompt.jobs")

REPORT_SECONDS = 1.0
MOST_REPORTS = 200
"""Events of progress come at most so often; beside those of validations at most so many in a job."""

FORETOLD_SECONDS = 1e9
"""An end that is further away is not foretold; no calendar has them all."""

PUBLISH_TRIES = 6
"""Each after twice as long as the one before: a minute in all, in which a server may be started again."""


class JobTask(Task):
    """A task whose rows come from uploaded files."""

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, PlacedRows]) -> None:
        self._files = files
        super().__init__(parse_config(dict(config)))

    def rows_of(self, name: str) -> PlacedRows:
        """The rows of an upload, by its id."""
        return self._files[name]

    def address_of(self, name: str) -> str:
        """An upload is addressed by its id."""
        return name


def run_jobs(queue: Queue, claims: Sequence[Claim], architecture: Architecture, *, every: float = EVERY_SECONDS) -> None:
    """Do claimed jobs of one base to their ends, and those that join them; `every` so many seconds there is a checkpoint.

    Where training them at once fails as a whole, each is trained alone: an error of one, foreseen or not, takes no other
    along.
    """
    with Watch(queue, [claim.id for claim in claims]) as watch:
        training = _Training(queue, architecture, watch, every, claims[0].bank, joins=True)
        try:
            training.run(claims)
        except Exception as error:
            left = training.unfinished()
            if len(left) == 1:
                fail(queue, left[0], error)
                return
            log.warning("training of %d jobs: %s", len(left), error, exc_info=error)
            for claim in left:
                record(queue, claim, "training several jobs at once failed; this one is trained alone now", level="warn")
                try:
                    _Training(queue, architecture, watch, every, claim.bank).run([claim])
                except Exception as again:
                    fail(queue, claim, again)


class _Training:
    """One session for claimed jobs."""

    def __init__(
        self, queue: Queue, architecture: Architecture, watch: Watch, every: float, bank: str, *, joins: bool = False
    ) -> None:
        """`joins` says whether others may join, as long as none of them has to wait."""
        self._queue, self._watch, self._bank, self._joins = queue, watch, bank, joins
        self._door = Door()
        folder = checkpoints_of(queue.library)
        self._session = Session(architecture, checkpoints=folder, name=bank, every=every, tries=PUBLISH_TRIES)
        self._claims: dict[Member, Claim] = {}
        self._reports: dict[Member, _Report] = {}
        self._warned: set[tuple[int, str]] = set()
        self._given_up: set[Member] = set()

    def unfinished(self) -> list[Claim]:
        """The jobs that are neither published nor failed, nor given up."""
        return [claim for member, claim in self._claims.items() if not self._is_over(member)]

    def _is_over(self, member: Member) -> bool:
        return member.tuned is not None or member.error is not None or member in self._given_up

    def run(self, claims: Sequence[Claim]) -> None:
        """Train, judge and publish them."""
        for claim in claims:
            self._add(claim)
        # Where the process is told to end, the step is finished and a checkpoint written before it does.
        with handling(lambda *_: self._session.stop(), signal.SIGTERM):
            for event in self._session.run():
                self._take(event)
                self._door.count(step=isinstance(event, Stepped))
                lost = self._watch.lost
                for member, claim in self._claims.items():
                    if claim.id in lost and not self._is_over(member):
                        self._given_up.add(member)
                        self._give_up(member, claim)
                if isinstance(event, Stepped) and self._joins and self._watch.waits and self._door.open:
                    self._let_in()

    def _let_in(self) -> None:
        """Let jobs that wait join; what those before them held that are over is given back."""
        self._watch.waits = False
        beside = [claim.id for claim in self.unfinished()]
        try:
            claims = self._queue.join(beside, self._bank, self._session.base.fingerprints)
        except RegistryError as error:
            log.warning("the queue cannot be read: %s", error)
            return
        if not claims:
            return
        for member in [member for member in self._claims if self._is_over(member)]:
            self._session.release(member)
            self._reports.pop(member, None)
            self._given_up.discard(member)
            self._warned = {(job, message) for job, message in self._warned if job != self._claims[member].id}
            del self._claims[member]
        self._watch.add([claim.id for claim in claims])
        self._door.shut()
        for claim in claims:
            self._add(claim)

    def _give_up(self, member: Member, claim: Claim) -> None:
        """Drop a job that is not this worker's any more; what one has trained that is paused, or may be, is kept."""
        try:
            paused = self._queue.paused(claim.id)
        except RegistryError:
            paused = True
        (self._session.pause if paused else self._session.drop)(member)

    def _add(self, claim: Claim) -> None:
        library = self._queue.library.for_tenant(claim.tenant, claim.actor)
        files = Uploads(library)

        def succeed(connection: Connection, version: Version, member: Member, prompt: SoftPrompt) -> None:
            run, card = member.run, prompt.card
            outcome = {
                "digest": prompt.digest,
                "steps": run.step,
                "best_step": run.best_step,
                "metric": card.metric,
                "metrics": card.metrics,
                "losses": _losses(run),
                "truncated": member.truncated,
            }
            # Read beside the transaction, which it does not see: what the name meant until now.
            if (before := found(library, version.task)) is not None and before.number != version.number:
                production = found(library, f"{version.task}@production") is not None
                add_event(connection, claim.id, _taken_over(version, before, production))
            result = files.add_result(connection, _table(run), "step_metrics.csv").name
            self._queue.succeed(connection, claim.id, version, outcome, _trained_tokens(run), result)

        try:
            task = _task(claim, files)
            task.check_base_name()
        except RegistryError as error:
            self._wait(claim, error)
        except Exception as error:
            fail(self._queue, claim, error)
        else:
            self._claims[self._session.add(task, library=library, also=succeed, salt=claim.name)] = claim

    def _wait(self, claim: Claim, error: RegistryError) -> None:
        """Leave a job to the next claim, for which nobody must join this training."""
        self._joins = False
        log.warning("job %s has to wait: %s", claim.name, error)

    def _take(self, event: Event) -> None:
        """Write an event down for the jobs that it is about."""
        if isinstance(event, Noted):
            about = list(self._claims.values()) if event.member is None else [self._claims[event.member]]
            for claim in about:
                if not event.warning or (claim.id, event.message) not in self._warned:
                    self._warned.add((claim.id, event.message))
                    record(self._queue, claim, event.message, level="warn" if event.warning else "info")
        elif isinstance(event, Resumed):
            for member in self._claims:
                if member.resumed and member not in self._reports:
                    self._reports[member] = _Report(member.run)
        elif isinstance(event, Stepped):
            for member in event.members:
                report = self._reports.setdefault(member, _Report(member.run, first=0))
                if not member.run.dropped and (news := report.due()) is not None:
                    record(self._queue, self._claims[member], **news)
        elif isinstance(event, Judged):
            member = event.member
            scores = beside_baselines(member.task, member.test, event.report, member.baselines)
            kept = member.run.best_step == 0
            for remark in remarks_on_scores(event.report.metric, untaught(member.task, scores), keeps_start=kept):
                record(self._queue, self._claims[member], remark, level="warn")
        elif isinstance(event, Failed):
            self._fail(event)
        elif isinstance(event, Stopped):
            log.info("told to end; a checkpoint is written")
            raise SystemExit(128 + signal.SIGTERM)

    def _fail(self, event: Failed) -> None:
        claim, error = self._claims[event.member], event.error
        if isinstance(error, Lost):
            log.info("job %s is no longer wanted; nothing was published", claim.name)
        elif isinstance(error, RegistryError) and not event.trained:
            self._wait(claim, error)
        elif event.trained and event.member.run.failure is not None:
            fail(self._queue, claim, TrainingError(f"{error}; lower learning_rate"))
        else:
            fail(self._queue, claim, error)


class _Report:
    """How far a job's run is, as its events say."""

    def __init__(self, run: Run, *, first: int | None = None) -> None:
        self._run = run
        self._first = run.step if first is None else first
        self._validations = len(run.history) if first is None else 0
        self._at, self._step = 0.0, 0
        self._started = time.monotonic()

    def due(self) -> dict[str, Any] | None:
        """What is to be said now; None for nothing."""
        run = self._run
        validations = run.history[self._validations :]
        worth = validations or run.step - self._step >= run.total / MOST_REPORTS
        if run.running and not (worth and time.monotonic() - self._at >= REPORT_SECONDS):
            return None
        loss, more, worded = run.loss, {}, ""
        if validations:
            self._validations = len(run.history)
            row, metric = validations[-1], run.task.form.metric
            loss = row["loss"]
            more, worded = {f"valid_{metric}": _number(row["value"])}, f", validation {metric} {row['value']:.4f}"
        self._at, self._step = time.monotonic(), run.step
        return {
            "message": f"step {run.step} of {run.total}: training loss {loss:.4f}{worded}",
            "data": {"step": run.step, "total_steps": run.total, "train_loss": _number(loss), **more},
            "step": run.step,
            "estimated_finish": self._finish(),
        }

    def _finish(self) -> str | None:
        run = self._run
        left = (time.monotonic() - self._started) / max(1, run.step - self._first) * (run.total - run.step)
        if left > FORETOLD_SECONDS:
            return None
        return (datetime.now(UTC) + timedelta(seconds=left)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _task(claim: Claim, files: Uploads) -> Task:
    names = {"train": claim.training_file, "validation": claim.validation_file}
    data = {split: name for split, name in names.items() if name is not None}
    rows: dict[str, PlacedRows] = {}
    group = None
    for split, name in data.items():
        field = "training_file" if split == "train" else "validation_file"
        try:
            upload = files.read_rows(files.get(name))
        except NotFound as error:
            raise FieldError(f"{field} was deleted before the job was done: {error}", field) from None
        rows[name], group = upload.placed(field), upload.group
    return JobTask({**claim.config, "base": claim.base, "data": data | ({"group": group} if group else {})}, rows)


def _taken_over(version: Version, before: Version, production: bool) -> str:
    """What a task's bare name means behind a version that is published, where it meant another before."""
    task, how = version.task, rival(before, version.card).comparison
    if production:
        return f"{task!r} goes on meaning {before.ref}, its production version; {version.ref} is {how}"
    return f"{task!r} means {version.ref} from now on and not {before.ref}; the new one is {how}"


def _trained_tokens(run: Run) -> int:
    """Tokens of inputs and answers that went through training, to the nearest row."""
    whole, rest = divmod(run.step, steps_per_epoch(run.config, len(run.train)))
    rows = whole * len(run.train) + min(len(run.train), rest * run.config.per_device_train_batch_size)
    tokens = sum(map(len, run.train.inputs)) + sum(map(len, run.train.targets))
    return round(tokens / len(run.train) * rows)


def _losses(run: Run) -> dict[str, float | None]:
    """The losses at the best step, of a token, or of a label among the labels."""
    best = next((row for row in run.history if row["step"] == run.best_step), None)
    names = {"train_loss": "loss", "valid_loss": "validation_loss"}
    return {} if best is None else {name: _number(best[key]) for name, key in names.items()}


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
    return value if math.isfinite(value) else None
