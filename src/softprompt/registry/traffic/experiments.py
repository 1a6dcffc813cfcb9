"""Experiments: two versions of a task that share its requests, one at a time for a task.

Whatever begins or ends one locks the task's row, so that of many servers one alone does it. An experiment is about what the
task's bare name means, so it ends with every move of the alias that says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import ConfigError, LibraryError
from softprompt.names import Ref, check_task
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Record, now
from softprompt.registry.scope import Scope

RUNNING, STOPPED = "running", "stopped"
CONTROL, CANDIDATE, UNDECIDED = "control", "candidate", "undecided"

_t, _e, _v = tables.tasks.c, tables.experiments.c, tables.versions.c
_of_task = tables.experiments.join(tables.tasks, _t.id == _e.task_id)
_EVERY = sa.select(*_e, _t.tenant, _t.name.label("task")).select_from(_of_task)


@dataclass(frozen=True)
class Experiment(Record):
    """An experiment as it stands."""

    id: int
    tenant: str
    task: str
    seed: str
    """What a user's share is drawn by; the same for all experiments between two versions, so that another weight moves the
    users that it must and no others."""
    control: int
    candidate: int
    weight: float
    """The share of the candidate."""
    lowest_weight: float
    highest_weight: float
    """Between which it has been."""
    shadow: bool
    """Whether all get the control's answers, and the candidate's are only compared with them."""
    level: float
    auto: bool
    """Whether the better version is promoted without being asked for."""
    max_outcomes: int | None
    state: str
    """`running` or `stopped`."""
    decision: str | None
    """`control`, `candidate`, or `undecided` where it ended without a clear winner; None as long as nothing is decided."""
    reason: str | None
    """Why it ended."""
    control_outcomes: int
    control_total: float
    candidate_outcomes: int
    candidate_total: float
    compared: int
    """Answers of the candidate in the shadow."""
    agreed: int
    """How many of them were the control's."""
    actor: str
    created_at: str
    ended_at: str | None

    def version_of(self, arm: str) -> int:
        """The version that an arm is."""
        return self.control if arm == CONTROL else self.candidate

    def ref_of(self, arm: str) -> str:
        """The same as a reference."""
        return f"{self.task}@{self.version_of(arm)}"


class Experiments:
    """The experiments of one tenant's tasks. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def start(
        self,
        task: str,
        control: int,
        candidate: int,
        *,
        weight: float,
        shadow: bool,
        level: float,
        auto: bool,
        max_outcomes: int | None,
    ) -> Experiment:
        """Begin an experiment between two versions.

        Raises:
            NotFound: no such task or version, or one is deleted.
            ConfigError: both are the same version, or of different bases; or a number is out of its range.
            LibraryError: the task has one that runs.
        """
        check_task(task)
        for name, share in (("weight", weight), ("level", level)):
            _check_share(name, share)
        if max_outcomes is not None and max_outcomes < 1:
            raise ConfigError(f"an experiment of {max_outcomes} outcomes decides nothing; give 1 or more, or leave it out")
        if control == candidate:
            raise ConfigError(f"{task}@{control} would be compared with itself; name another version as the candidate")
        with self._scope.database.write() as connection:
            row = queries.task_row(connection, self._scope.tenant, task, lock=True)
            first, second = (
                queries.find(connection, self._scope.tenant, Ref(task, number=number)) for number in (control, candidate)
            )
            if first.fingerprint != second.fingerprint:
                raise ConfigError(
                    f"{first.ref} is of base {first.card.exact_base} and {second.ref} of {second.card.exact_base}, and a "
                    "server has one base; compare versions of one base"
                )
            if (there := _running(connection, row.id)) is not None:
                raise LibraryError(
                    f"task {task!r} has an experiment that runs, {there.id} between versions {there.control} and "
                    f"{there.candidate}; end it first (`softprompt ab stop {task}`)"
                )
            pair = sa.and_(_e.task_id == row.id, _e.control == control, _e.candidate == candidate)
            seed = connection.execute(sa.select(_e.seed).where(pair).order_by(_e.id.desc()).limit(1)).scalar()
            values: dict[str, Any] = {
                "task_id": row.id, "seed": seed or secrets.token_hex(16), "control": control, "candidate": candidate,
                "weight": weight, "shadow": shadow, "level": level, "auto": auto, "max_outcomes": max_outcomes,
                "state": RUNNING, "actor": self._scope.actor, "created_at": now(),
            }  # fmt: skip
            made = connection.execute(sa.insert(tables.experiments).values(values).returning(_e.id)).scalar_one()
            kept = ("control", "candidate", "weight", "shadow", "level", "auto", "max_outcomes")
            after = {"experiment": made} | {name: values[name] for name in kept}
            self._scope.record(connection, "experiment-start", task, after=after)
            return _experiment(connection.execute(_EVERY.where(_e.id == made)).one())

    def weigh(self, experiment: Experiment, weight: float) -> Experiment | None:
        """Give the candidate of an experiment that runs another share: the experiment as it stands then; None, and nothing
        changes, where it runs no more.

        Raises:
            ConfigError: the weight is no share, or all get the control.
        """
        _check_share("weight", weight)
        if experiment.shadow:
            raise ConfigError(
                f"experiment {experiment.id} of task {experiment.task!r} runs in the shadow, where all get the control "
                "whatever the weight; end it, and start one without --shadow"
            )
        with self._scope.database.write() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, experiment.task, lock=True).id
            there = _running(connection, task_id)
            if there is None or there.id != experiment.id:
                return None
            if weight == there.weight:
                return there
            bounds = {"lowest_weight": min(weight, there.lowest_weight), "highest_weight": max(weight, there.highest_weight)}
            this = sa.update(tables.experiments).where(_e.id == there.id)
            connection.execute(this.values(weight=weight, **bounds))
            before, after = ({"experiment": there.id, "weight": one} for one in (there.weight, weight))
            self._scope.record(connection, "experiment-weight", there.task, before=before, after=after)
            return _experiment(connection.execute(_EVERY.where(_e.id == there.id)).one())

    def latest(self, task: str) -> Experiment | None:
        """The experiment of a task that runs, else the one that ended last; None where there was none.

        Raises:
            NotFound: no such task.
        """
        check_task(task)
        with self._scope.database.read() as connection:
            task_id = queries.task_row(connection, self._scope.tenant, task).id
            row = connection.execute(_EVERY.where(_e.task_id == task_id).order_by(_e.id.desc()).limit(1)).first()
            return None if row is None else _experiment(row)

    def newest(self, limit: int) -> list[Experiment]:
        """Those of all this tenant's tasks, the ones that run first, then the newest."""
        order = (sa.case((_e.state == RUNNING, 0), else_=1), _e.id.desc())
        statement = _EVERY.where(_t.tenant == self._scope.tenant).order_by(*order).limit(limit)
        with self._scope.database.read() as connection:
            return [_experiment(row) for row in connection.execute(statement)]

    def get(self, number: int) -> Experiment | None:
        """An experiment of this tenant."""
        with self._scope.database.read() as connection:
            row = connection.execute(_EVERY.where(_e.id == number, _t.tenant == self._scope.tenant)).first()
            return None if row is None else _experiment(row)

    def running_on(self, fingerprints: Container[str]) -> dict[tuple[str, str], Experiment]:
        """Those that run on a base with one of these fingerprints, by tenant and task, whatever the tenant."""
        control = sa.and_(_v.task_id == _e.task_id, _v.number == _e.control)
        statement = _EVERY.add_columns(_v.fingerprint).join(tables.versions, control).where(_e.state == RUNNING)
        with self._scope.database.read() as connection:
            rows = connection.execute(statement).fetchall()
        return {(row.tenant, row.task): _experiment(row) for row in rows if row.fingerprint in fingerprints}

    def decide(self, number: int, decision: str) -> bool:
        """Keep which arm is better, of an experiment that goes on; the first decision stays. Whether this was it."""
        first = sa.and_(_e.id == number, _e.state == RUNNING, _e.decision.is_(None))
        with self._scope.database.write() as connection:
            return bool(connection.execute(sa.update(tables.experiments).where(first).values(decision=decision)).rowcount)

    def end(self, experiment: Experiment, decision: str | None, reason: str) -> bool:
        """End an experiment that runs. False, and nothing changes, where another was quicker."""
        with self._scope.database.write() as connection:
            queries.task_row(connection, self._scope.tenant, experiment.task, lock=True)
            return self.end_in(connection, experiment, decision, reason)

    def end_in(self, connection: Connection, experiment: Experiment, decision: str | None, reason: str) -> bool:
        """The same in the caller's transaction, which has locked the task."""
        return _end(connection, self._scope, experiment, decision, reason)

    def took_comparisons(self, number: int, compared: int, agreed: int) -> None:
        """Count answers of the candidate in the shadow, and those that were the control's."""
        more = {"compared": _e.compared + compared, "agreed": _e.agreed + agreed}
        with self._scope.database.write() as connection:
            connection.execute(sa.update(tables.experiments).where(_e.id == number, _e.state == RUNNING).values(more))


def end_running(connection: Connection, scope: Scope, task_id: int, reason: str) -> None:
    """End the experiment of a task whose row is locked, where one runs."""
    there = _running(connection, task_id)
    if there is not None:
        _end(connection, scope, there, there.decision or UNDECIDED, reason)


def refuse_if_compared(connection: Connection, task: AnyRow, number: int) -> None:
    """Refuse to take a version away from an experiment that runs.

    Raises:
        LibraryError: it is one of its arms.
    """
    there = _running(connection, task.id)
    if there is not None and number in (there.control, there.candidate):
        raise LibraryError(
            f"{task.name}@{number} is not deleted: an experiment runs with it; end that first "
            f"(`softprompt ab stop {task.name}`)"
        )


def count_outcome(connection: Connection, number: int, arm: str, outcome: float) -> Experiment | None:
    """Count an outcome of an arm: the experiment as it stands then; None where it runs no more."""
    outcomes, total = tables.experiments.c[f"{arm}_outcomes"], tables.experiments.c[f"{arm}_total"]
    more = {outcomes.name: outcomes + 1, total.name: total + outcome}
    here = sa.update(tables.experiments).where(_e.id == number, _e.state == RUNNING).values(more)
    if not connection.execute(here).rowcount:
        return None
    return _experiment(connection.execute(_EVERY.where(_e.id == number)).one())


def _running(connection: Connection, task_id: int) -> Experiment | None:
    row = connection.execute(_EVERY.where(_e.task_id == task_id, _e.state == RUNNING)).first()
    return None if row is None else _experiment(row)


def _end(connection: Connection, scope: Scope, experiment: Experiment, decision: str | None, reason: str) -> bool:
    values = {"state": STOPPED, "decision": decision, "reason": reason, "ended_at": now()}
    running = sa.and_(_e.id == experiment.id, _e.state == RUNNING)
    if not connection.execute(sa.update(tables.experiments).where(running).values(values)).rowcount:
        return False
    after = {"experiment": experiment.id, "decision": decision}
    scope.record(connection, "experiment-stop", experiment.task, after=after, reason=reason)
    return True


def _experiment(row: AnyRow) -> Experiment:
    values = {name: getattr(row, name) for name in Experiment.__dataclass_fields__}
    for bound in ("lowest_weight", "highest_weight"):
        values[bound] = row.weight if values[bound] is None else values[bound]
    return Experiment(**values)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"{name} {share:g} is no share; give a number between 0 and 1, such as 0.5")
