"""What the registry answers with: plain frozen rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from softprompt.prompts.card import Card


class Record:
    """A record that is shown as it is."""

    def row(self) -> dict[str, Any]:
        """Its fields as a row for people and machines."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Version:
    """A numbered prompt of a task."""

    task: str
    number: int
    digest: str
    base: str
    """The base as the user named it: an id or an absolute folder."""
    fingerprint: str
    card_text: str
    created_at: str
    actor: str
    tags: tuple[str, ...] = ()
    deleted: bool = False
    purged: bool = False
    """Deleted, and its bytes given up by a garbage collection."""
    user: str | None = None
    """Whose it is, where it is a personal one, which no reference means."""

    def __repr__(self) -> str:
        return f"Version({self.ref}, base {self.base!r}, digest {self.digest[:12]}{', deleted' if self.deleted else ''})"

    @property
    def ref(self) -> str:
        """How to name this version: `task@3`; of a user's `task~user@1`, which is no reference."""
        return f"{self.task}@{self.number}" if self.user is None else f"{self.task}~{self.user}@{self.number}"

    @cached_property
    def card(self) -> Card:
        """What is known of the prompt. Parsed when first asked for: a listing of thousands does not need it."""
        return Card.parse(self.card_text)


@dataclass(frozen=True)
class Origin(Record):
    """What a version was trained from, so that it can be trained again without the files of then."""

    run: str | None
    """The training run, at most 64 characters: it publishes a task once. None for what no run has made."""
    task_file: dict[str, Any]
    """The resolved task file: every key with the value it had."""
    data: list[dict[str, Any]]
    """The rows, split by split: `split`, `address`, `digest` and `rows`."""


class Entry(NamedTuple):
    """A line of a listing: a version, with its task's counts. A named tuple, as there may be ten thousand of them."""

    task: str
    version: int
    versions: int
    digest: str
    base: str
    fingerprint: str
    metric: str
    value: float | None
    created_at: str
    aliases: tuple[str, ...]
    """Aliases of the task as `name` where they point here, as `name@N` where they point to another version."""
    tags: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """The entry as a row for people and machines."""
        return {**self._asdict(), "aliases": list(self.aliases), "tags": list(self.tags)}


@dataclass(frozen=True)
class BaseCount:
    """A base that prompts are made for."""

    base: str
    """As the user named it: an id or an absolute folder."""
    fingerprint: str
    tasks: int
    """How many tasks have a newest version made for it, whatever the tenant."""


@dataclass(frozen=True)
class Move(Record):
    """An alias that moved, or stayed because it was there already."""

    task: str
    alias: str
    before: int | None
    after: int
    reason: str | None = None
    same_rows: bool | None = None
    """Of a promotion: whether the scores of both versions are of the same rows; None where that is not known."""
    decision: str | None = None
    """Of a promotion: what was done, and how the two versions' scores compare."""
    suites: tuple[dict[str, Any], ...] = ()
    """Of a promotion that suites decided: each check of theirs, and how the two versions compare in it."""


@dataclass(frozen=True)
class Check:
    """One number that a suite finds of a version, and what each row counts of it."""

    name: str
    """Such as `accuracy`, `perturb:typos` or `must_not: sorry`."""
    metric: str
    lower_is_better: bool
    value: float
    stderr: float
    values: tuple[float, ...]
    """What each row counts; their mean is the value."""
    places: tuple[int, ...] | None = None
    """Which of the outcome's rows those are; None for all, in their order."""
    before: float | None = None
    """Of changed inputs: the same metric of the same rows as they were."""

    @property
    def rows(self) -> int:
        """How many rows it stands on."""
        return len(self.values)


@dataclass(frozen=True)
class Outcome:
    """What a suite found of a version. No text of a row is in it but answers, and none where the suite keeps none."""

    task: str
    version: int
    suite: str
    digest: str
    """Of the suite's checks and rows: outcomes with the same digest are of the same."""
    definition: dict[str, Any]
    """The suite, to run it again: its keys, `file` and the address of its `data`."""
    rows: tuple[str, ...]
    """The digest of each row."""
    answers: tuple[str, ...]
    """What the version says to each row, or digests of that."""
    right: tuple[str, ...] | None
    """The label of each row; None where answers are not labels."""
    checks: tuple[Check, ...]
    calibration: tuple[dict[str, float], ...] = ()
    """Bins of confidence: `from`, `to`, `rows`, and the mean `confidence` and `accuracy` of them."""
    actor: str = ""
    created_at: str = ""

    @property
    def ref(self) -> str:
        """The version, as `task@3`."""
        return f"{self.task}@{self.version}"

    @property
    def tolerance(self) -> float:
        """By how much a version that is to take this one's place may be worse."""
        return float(self.definition.get("tolerance", 0.0))

    def check_rows(self) -> list[dict[str, Any]]:
        """A row for each check."""
        return [
            {
                "task": self.task,
                "version": self.version,
                "suite": self.suite,
                "check": check.name,
                "metric": check.metric,
                "value": check.value,
                "stderr": check.stderr,
                "rows": check.rows,
                "before": check.before,
                "lower_is_better": check.lower_is_better,
            }
            for check in self.checks
        ]


@dataclass(frozen=True)
class AuditEntry(Record):
    """Who changed what, when, from what to what."""

    seq: int
    at: str
    actor: str
    action: str
    task: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str | None


def now() -> str:
    """The present time for people: ISO 8601 in UTC. Nothing is ever ordered by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
