"""Fine-tuning jobs of a tenant, as clients see them: made, listed, read, cancelled. No torch."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import FieldError, NameRefused, NotFound, nearest
from softprompt.jobs.plan import make_plan
from softprompt.jobs.records import (
    CANCELLED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    UNFINISHED,
    WANTED,
    Event,
    Job,
    Page,
    add_event,
    event_of,
    fetch_page,
    find_row,
    job_of,
    place_of,
)
from softprompt.jobs.request import DPO, SUPERVISED, JobRequest, is_preference, shown_hyperparameters
from softprompt.jobs.rows import UploadedRows
from softprompt.jobs.uploads import TRAINING, UploadedFile, Uploads
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import now
from softprompt.tasks.config.config import TaskConfig, parse_config
from softprompt.tasks.config.schedule import total_steps
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.tasks.wording.chat import ChatFrame

MOST_TRAINED = 2_000_000
"""Rows that a job may train on: nobody else's is done meanwhile, but for those beside it in the bank."""

_STANDS = {
    QUEUED: "waits already",
    RUNNING: "runs already",
    PAUSED: "is paused already",
    SUCCEEDED: "has succeeded",
    FAILED: "has failed",
    CANCELLED: "is cancelled already",
}
_DONE = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}

_j, _e = tables.jobs.c, tables.job_events.c


class Jobs:
    """One tenant's jobs. Safe to share between threads."""

    def __init__(
        self,
        library: Library,
        *,
        most_trained: int = MOST_TRAINED,
        context: int | None = None,
        frame: ChatFrame | None = None,
    ) -> None:
        """`most_trained` rows may a job train on, each counted as often as it is seen; `context` is the tokens that the base
        takes, None where that has no bound or is not known, and `frame` how its chat template words an answer, where it has
        one."""
        self.library = library
        self._most_trained, self._context, self._frame = most_trained, context, frame
        self.files = Uploads(library)
        self._database = library.registry.database

    def create(self, request: JobRequest, bases: Mapping[str, str], *, fingerprint: str | None = None) -> Job:
        """Check a request against its rows and queue it.

        Args:
            request: what the client asks for: of a base, or of a version to go on from.
            bases: names of bases that may be asked for, and what to load for each.
            fingerprint: of the base that is asked for: no other is trained on, if one lies there by then.

        Raises:
            FieldError: no such base or file, or a setting or row is wrong; nothing is queued.
            StoreError: a file cannot be read.
        """
        asked, request = request.model, self._on_base(request, bases)
        if request.validation_file == request.training_file:
            raise FieldError(
                f"validation_file is training_file, {request.training_file!r}; leave it out, and a tenth is held out",
                "validation_file",
            )
        file, train = self._rows(request.training_file, "training_file")
        validation = None
        if request.validation_file is not None:
            _, validation = self._rows(request.validation_file, "validation_file")
        plan = make_plan(request, file.filename, train, validation, frame=self._frame, context=self._context)
        try:
            self.library.registry.check_names([plan.config["task"]], request.model)
        except NameRefused as error:
            raise FieldError(f"{error}; name the task with suffix", "suffix") from None
        config = parse_config(plan.config)
        self._check_length(config, len(train.rows))
        self._check_room(config)
        parents = plan.config.get("prompt_tuning_init_prompt", ())
        for ref in [parents] if isinstance(parents, str) else parents:
            self._check_parent(ref)
        shown = request.model_dump(mode="json", include={"suffix", "metadata"}) | {
            "model": asked,
            "method": DPO if is_preference(request) else SUPERVISED,
            "hyperparameters": shown_hyperparameters(request),
            "seed": plan.config.get("seed", 0),
            "softprompt": plan.config,
            "fingerprint": fingerprint,
        }
        at = now()
        values = {
            "name": f"ftjob-{secrets.token_hex(12)}",
            "tenant": self.library.tenant,
            "task": plan.config["task"],
            "base": bases[request.model],
            "request": json.dumps(shown),
            "config": json.dumps(plan.config),
            "training_file": request.training_file,
            "validation_file": request.validation_file,
            "place": place_of(self.library.home),
            "status": QUEUED,
            "actor": self.library.registry.actor,
            "created_at": at,
        }
        with self._database.write() as connection:
            queries.add_missing(connection, tables.tenants, name=self.library.tenant, created_at=at)
            row = connection.execute(sa.insert(tables.jobs).values(values).returning(tables.jobs)).one()
            add_event(connection, row.id, f"created job {row.name} for task {row.task}, {plural(len(train.rows), 'row')}")
            for note in plan.notes:
                add_event(connection, row.id, note)
        return job_of(row)

    def _on_base(self, request: JobRequest, bases: Mapping[str, str]) -> JobRequest:
        """The same request of a base: one of a version goes on from its prompt, on its base."""
        if request.model in bases:
            return request
        try:
            version = self.library.registry.resolve(request.model)
        except (NotFound, NameRefused):
            hint = nearest(request.model, bases)
            raise FieldError(
                f"there is no base {request.model!r} to train on, and no model to go on from{hint}", "model"
            ) from None
        card, given = version.card, request.softprompt or {}
        if len(bases) != 1 and card.base not in bases:
            raise FieldError(
                f"{version.ref} was made for the base {card.base}, on which no jobs train here; name a base", "model"
            )
        if "prompt_tuning_init_prompt" in given:
            raise FieldError(
                f"model ({request.model!r}) and softprompt.prompt_tuning_init_prompt both say where to start; leave one out",
                "softprompt.prompt_tuning_init_prompt",
            )
        kind = {"prompt_type": card.prompt_type, "num_virtual_tokens": card.num_virtual_tokens}
        start = {"prompt_tuning_init_prompt": version.ref, **kind, **given}
        base = card.base if card.base in bases else next(iter(bases))
        return request.model_copy(update={"model": base, "softprompt": start})

    def _check_length(self, config: TaskConfig, rows: int) -> None:
        """Refuse what would keep the worker for too long."""
        steps, size = total_steps(config, rows), min(config.per_device_train_batch_size, rows)
        if steps * size > self._most_trained:
            raise FieldError(
                f"{steps} steps of {size} rows are {steps * size} rows to train on; a job may have {self._most_trained}: "
                "lower n_epochs or max_steps",
                "softprompt.max_steps" if config.max_steps is not None else "hyperparameters",
            )

    def _check_room(self, config: TaskConfig) -> None:
        """Refuse a prompt beside which no input has room, whatever it is."""
        answer = 1 if config.labels or config.id2label else config.max_new_tokens
        if self._context is not None and config.num_virtual_tokens + answer >= self._context:
            raise FieldError(
                f"{config.num_virtual_tokens} virtual tokens and an answer of {answer} leave no room for an input in the "
                f"context of the base ({self._context} tokens); lower num_virtual_tokens or max_new_tokens",
                "softprompt.num_virtual_tokens",
            )

    def page(self, *, after: str | None = None, limit: int = 20, every: bool = True) -> Page[Job]:
        """A page of jobs, newest first; `every` one, or those unfinished.

        Raises:
            NotFound: `after` names no job.
        """
        statement = sa.select(tables.jobs).where(_j.tenant == self.library.tenant)
        if not every:
            statement = statement.where(_j.status.in_(UNFINISHED))
        with self._database.read() as connection:
            if after is not None:
                statement = statement.where(_j.id < self._row(connection, after).id)
            return fetch_page(connection, statement.order_by(_j.id.desc()), limit, job_of)

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            NotFound: this tenant has none.
        """
        with self._database.read() as connection:
            return job_of(self._row(connection, name))

    def events(self, name: str, *, after: int | None = None, limit: int = 20) -> Page[Event]:
        """A page of what happened in a job, newest first.

        Raises:
            NotFound: this tenant has no such job.
        """
        with self._database.read() as connection:
            statement = sa.select(tables.job_events).where(_e.job_id == self._row(connection, name).id)
            if after is not None:
                statement = statement.where(_e.number < after)
            return fetch_page(connection, statement.order_by(_e.number.desc()), limit, event_of)

    def cancel(self, name: str) -> Job:
        """Cancel a job that waits, runs or is paused; what it has trained is lost.

        Raises:
            NotFound: this tenant has no such job.
            FieldError: it is finished already.
        """
        return self._change(name, "cancel", UNFINISHED, {"status": CANCELLED, "finished_at": now()})

    def pause(self, name: str) -> Job:
        """Pause a job that waits or runs: its worker keeps what it has trained and goes on with others.

        Raises:
            NotFound: this tenant has no such job.
            FieldError: it is paused or finished already.
        """
        return self._change(name, "pause", WANTED, {"status": PAUSED})

    def resume(self, name: str) -> Job:
        """Let a paused job wait for a worker again, which goes on from where it was paused.

        Raises:
            NotFound: this tenant has no such job.
            FieldError: it is not paused.
        """
        return self._change(name, "resume", (PAUSED,), {"status": QUEUED, "attempts": 0})

    def _change(self, name: str, verb: str, allowed: Sequence[str], changes: Mapping[str, Any]) -> Job:
        """Give a job a new status where it has an allowed one."""
        with self._database.write() as connection:
            row = self._row(connection, name, lock=True)
            which = sa.and_(_j.id == row.id, _j.status.in_(allowed))
            statement = sa.update(tables.jobs).where(which).values(estimated_finish=None, **changes)
            changed = connection.execute(statement.returning(tables.jobs)).first()
            if changed is None:
                raise FieldError(f"job {name!r} {_STANDS[row.status]}; there is nothing to {verb}", "fine_tuning_job_id")
            add_event(connection, row.id, _DONE[verb])
        return job_of(changed)

    def _rows(self, name: str, field: str) -> tuple[UploadedFile, UploadedRows]:
        try:
            file = self.files.get(name)
            if file.purpose != TRAINING:
                raise FieldError(f"{field}: file {name!r} is for {file.purpose!r}; upload one for {TRAINING!r}", field)
            return file, self.files.read_rows(file)
        except NotFound as error:
            raise FieldError(f"{field}: {error}", field) from None

    def _check_parent(self, ref: str) -> None:
        try:
            self.library.registry.resolve(ref)
        except (NotFound, NameRefused) as error:
            raise FieldError(str(error), "softprompt.prompt_tuning_init_prompt") from None

    def _row(self, connection: Connection, name: str, *, lock: bool = False) -> AnyRow:
        row = find_row(connection, tables.jobs, self.library.tenant, name, lock=lock)
        if row is None:
            raise NotFound(
                f"there is no job {name!r}; `softprompt jobs list` or GET /v1/fine_tuning/jobs lists those there are"
            )
        return row
