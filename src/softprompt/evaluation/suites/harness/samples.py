"""What a harness found of rows, whichever harness it was. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from softprompt.errors import DataError
from softprompt.evaluation.suites.checks import hidden
from softprompt.evaluation.suites.measures import Measured
from softprompt.evaluation.suites.suite import Suite
from softprompt.registry.records import Check, Outcome, Version


@dataclass(frozen=True)
class Sample:
    """What it found of one row."""

    digest: str
    """Of the row as the harness asks it, and of its right answer."""
    answer: str
    right: str | None
    """The right one of the choices; None where there are none to choose among."""
    values: dict[str, float]
    """What the row counts in each metric, as far as that is a number."""


@dataclass(frozen=True)
class Found:
    """What it found in all."""

    version: str
    """Of the harness and of its task: another one may find something else."""
    samples: list[Sample]
    totals: dict[str, float]
    """Its own value of each metric, where it tells one."""
    lower: frozenset[str] = frozenset()
    """Metrics of which less is better."""


def digest_of(*parts: Any) -> str:
    """What an outcome knows a row of a harness by."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def checks_of(found: Found, asked: tuple[str, ...]) -> tuple[list[Check], list[str]]:
    """A check for each metric that is a mean over rows, and the names of those that are none.

    Raises:
        DataError: a metric that is asked for is not among them, or there is none.
    """
    names = list(dict.fromkeys(name for sample in found.samples for name in sample.values))
    checks, left = list[Check](), [name for name in found.totals if name not in names]
    for name in names:
        places = tuple(place for place, sample in enumerate(found.samples) if name in sample.values)
        whole = Measured.mean([found.samples[place].values[name] for place in places])
        total = found.totals.get(name)
        if total is not None and not math.isclose(total, whole.value, rel_tol=1e-6, abs_tol=1e-9):
            left.append(name)
            continue
        every = len(places) == len(found.samples)
        checks.append(
            Check(name, name, name in found.lower, whole.value, whole.stderr, whole.values, None if every else places)
        )
    known = {check.name for check in checks}
    if missing := [name for name in asked if name not in known]:
        told = ", ".join(sorted(known)) or "none"
        raise DataError(f"no metric {missing[0]!r} is a mean over its rows; those that are: {told}")
    if not checks:
        raise DataError(f"no metric of it is a mean over its rows ({', '.join(left) or 'it tells none'}); name another task")
    return [check for check in checks if not asked or check.name in asked], [] if asked else left


def outcome_of(version: Version, suite: Suite, found: Found) -> tuple[Outcome, list[str]]:
    """The outcome that is kept of a version, and the names of the metrics that are not in it.

    Raises:
        DataError: it found nothing that can be kept.
    """
    if not found.samples:
        raise DataError("it judged no row; see whether the task has any")
    checks, left = checks_of(found, suite.config.harness.metrics if suite.config.harness is not None else ())
    rows = tuple(sample.digest for sample in found.samples)
    answers = tuple(sample.answer for sample in found.samples)
    right = tuple(sample.right for sample in found.samples if sample.right is not None)
    outcome = Outcome(
        version.task,
        version.number,
        suite.name,
        suite.digest([found.version], rows),
        suite.definition(),
        rows,
        answers if suite.config.keep_answers else tuple(map(hidden, answers)),
        right if len(right) == len(rows) else None,
        tuple(checks),
    )
    return outcome, left
