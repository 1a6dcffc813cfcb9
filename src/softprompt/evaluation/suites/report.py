"""The report card of a version: its card, what suites found of it, and beside another version what has changed. No base is
run, and no torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, SoftPromptError
from softprompt.evaluation.suites.checks import digests_of, hidden
from softprompt.evaluation.suites.looks import case_for
from softprompt.evaluation.suites.measures import OF_ROWS
from softprompt.evaluation.suites.suite import Suite
from softprompt.library.library import library_or_current
from softprompt.library.passages import Passages
from softprompt.prompts.card import BASELINES, LOWER_IS_BETTER
from softprompt.registry.gate import Fall, falls_of, weigh
from softprompt.registry.records import Outcome, Record, Version
from softprompt.tasks.answers.kinds import NUMBER
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.library.library import Library

EXAMPLES = 100
"""Rows of a suite whose answer has changed that are shown."""


@dataclass(frozen=True)
class ReportCard(Record):
    """What there is to say of a version."""

    task: str
    version: int
    digest: str
    base: str
    fingerprint: str
    created_at: str
    actor: str
    aliases: list[str]
    tags: list[str]
    metric: str
    value: float | None
    stderr: float | None
    rows: int | None
    learnt: bool | None
    """Whether it is better than its baselines; None where that is not known."""
    facts: dict[str, Any]
    """Of its card."""
    against: dict[str, Any] | None
    """Another version, and how the scores of the two compare."""
    suites: list[dict[str, Any]]
    """Each with its `checks`, its bins of `calibration`, how many answers `changed`, and `examples` of those."""
    notes: list[str]
    """What could not be said, and why."""

    @property
    def ref(self) -> str:
        """The version, as `task@3`."""
        return f"{self.task}@{self.version}"


def report(task: str, against: str | None = None, *, library: Library | None = None, examples: int = EXAMPLES) -> ReportCard:
    """The report card of a version, beside another one of its task. No base is run.

    Args:
        task: the version, as TASK, TASK@N or TASK@ALIAS.
        against: the other one, as N, TASK@N or TASK@ALIAS.
        library: by default the one in the current home.
        examples: how many rows of each suite whose answer has changed are shown. Their inputs come from the suite's rows
            where those can be read, as nothing of them is kept.

    Raises:
        NotFound: there is no such version.
        ConfigError: the other version is of another task, or the same one.
    """
    with library_or_current(library) as opened:
        return _report(opened, task, against, examples)


def _report(library: Library, task: str, against: str | None, examples: int) -> ReportCard:
    registry = library.registry
    version = registry.resolve(task)
    if against is not None and against.isascii() and against.isdigit():
        against = f"{version.task}@{against}"
    other = registry.resolve(against) if against is not None else None
    if other is not None and (other.task != version.task or other.number == version.number):
        what = "the same version" if other.task == version.task else f"of task {other.task!r}"
        raise ConfigError(f"{other.ref} is {what} as {version.ref}; compare it with another version of its task")
    card, notes = version.card, list[str]()
    theirs = {one.suite: one for one in registry.outcomes.of(other.ref)} if other is not None else {}
    suites = []
    for outcome in registry.outcomes.of(version.ref):
        suites.append(_suite(library, version, outcome, theirs.pop(outcome.suite, None), other, examples, notes))
    notes += [f"suite {name!r} was run on {other.ref} and not on {version.ref}" for name in theirs if other is not None]
    if not suites:
        notes.append(f"no suite was run on {version.ref}; `softprompt suite run {version.ref} --suite FILE` runs one")
    aliases = [alias for alias, number in registry.aliases.of(version.task).items() if number == version.number]
    return ReportCard(
        task=version.task,
        version=version.number,
        digest=version.digest,
        base=card.exact_base,
        fingerprint=version.fingerprint,
        created_at=version.created_at,
        actor=version.actor,
        aliases=aliases,
        tags=list(version.tags),
        metric=card.metric,
        **{name: card.metrics.get(name) for name in ("value", "stderr", "rows")},  # type: ignore[arg-type]
        learnt=card.learnt,
        facts=_facts(version),
        against=None if other is None else _other(version, other),
        suites=suites,
        notes=notes,
    )


def _facts(version: Version) -> dict[str, Any]:
    card = version.card
    facts: dict[str, Any] = {
        "prompt": card.prompt_type,
        "virtual_tokens": card.num_virtual_tokens,
        "members": len(card.members) or None,
        "labels": list(card.labels) if card.labels is not None else None,
        "input": card.input,
        "target": card.target,
        **{told: card.metrics.get(name) for name, told in BASELINES.items()},
        **{name: card.recipe.get(name) for name in ("objective", "prompt_tuning_init", "learning_rate", "steps", "seed")},
        "data_digest": card.data_digest,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _other(version: Version, other: Version) -> dict[str, Any]:
    found = weigh(other.card, version.card)
    scores = {name: other.card.metrics.get(name) for name in ("value", "stderr", "rows")}
    return {"version": other.number, "digest": other.digest, **scores, "comparison": found.words}


def _suite(
    library: Library,
    version: Version,
    outcome: Outcome,
    before: Outcome | None,
    other: Version | None,
    examples: int,
    notes: list[str],
) -> dict[str, Any]:
    falls: dict[str, Fall] = {}
    changed: list[int] = []
    shown: list[dict[str, Any]] = []
    if before is not None and before.digest != outcome.digest:
        notes.append(f"suite {outcome.suite!r}: the two versions were run on other rows or checks, and are not compared")
    elif before is not None:
        falls = {fall.check: fall for fall in falls_of(before, outcome)}
        pairs = zip(*_alike(before, outcome), strict=True)
        changed = [place for place, (old, new) in enumerate(pairs) if old != new]
        shown = _examples(library, version, before, outcome, changed, examples, notes)
    elif other is not None:
        notes.append(f"suite {outcome.suite!r} was not run on {other.ref}")
    checks = [
        {name: value for name, value in row.items() if name not in ("task", "version", "suite")}
        | _compared(falls, row["check"])
        for row in outcome.check_rows()
    ]
    return {
        "suite": outcome.suite,
        "digest": outcome.digest,
        "rows": len(outcome.rows),
        "tolerance": outcome.tolerance,
        "created_at": outcome.created_at,
        "actor": outcome.actor,
        "checks": checks,
        "calibration": list(outcome.calibration),
        "changed": len(changed) if falls else None,
        "examples": shown,
    }


def _alike(*outcomes: Outcome) -> list[Sequence[str]]:
    """The answers of outcomes, as digests where one of them has no more than those."""
    keep = [outcome.definition.get("keep_answers", True) for outcome in outcomes]
    if all(keep):
        return [outcome.answers for outcome in outcomes]
    return [tuple(map(hidden, one.answers)) if keeps else one.answers for one, keeps in zip(outcomes, keep, strict=True)]


def _compared(falls: Mapping[str, Fall], check: str) -> dict[str, Any]:
    fall = falls.get(check)
    if fall is None:
        return {}
    return {
        "against": fall.before, "fall": fall.fall, "tolerance": fall.tolerance, "confidence": fall.confidence,
        "draws": fall.draws, "refused": fall.refused,
    }  # fmt: skip


def _examples(
    library: Library,
    version: Version,
    before: Outcome,
    after: Outcome,
    changed: Sequence[int],
    most: int,
    notes: list[str],
) -> list[dict[str, Any]]:
    """So many rows whose answer has changed at most, those that became worse first."""
    is_number = version.card.recipe.get("problem_type") == NUMBER and after.definition.get("harness") is None
    scores = [_scores(one, is_number=is_number) for one in (before, after)]

    def better(place: int) -> str | None:
        return _better(*(None if score is None else score[place] for score in scores))

    order = ("before", "after", "both", "neither", None)
    places = sorted(changed, key=lambda place: order.index(better(place)))[:most]
    if not places:
        return []
    texts, answers = _rows(library, version, after, notes)
    if gone := sum(after.rows[place] not in texts for place in places):
        notes.append(
            f"suite {after.suite!r}: {plural(gone, 'row')} of its changed answers cannot be read any more, and only digests "
            "are shown, as no text of a row is kept"
        )
    found = []
    for place in places:
        digest = after.rows[place]
        right = after.right[place] if after.right is not None else answers.get(digest)
        found.append(
            {
                "row": digest,
                "input": texts.get(digest),
                "right": right,
                "before": before.answers[place],
                "after": after.answers[place],
                "better": better(place),
            }
        )
    return found


def _rows(library: Library, version: Version, outcome: Outcome, notes: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and answers of a suite's rows by their digests, where they can be read."""
    if outcome.definition.get("harness") is not None:
        return {}, {}
    try:
        case = case_for(library, version, Suite.of_definition(outcome.definition), None, Passages())
        digests = digests_of(case)
    except SoftPromptError as error:
        notes.append(f"suite {outcome.suite!r}: its rows cannot be read ({error})")
        return {}, {}
    source = case.source
    return dict(zip(digests, source.inputs, strict=True)), dict(zip(digests, source.answers, strict=True))


def _scores(outcome: Outcome, *, is_number: bool) -> Sequence[float] | None:
    """What each row counts, 1 where it is right: of labels whether it is, else by the first metric that is a mean over all
    rows. A number over ordered labels is judged as a number: it hardly ever is one of them."""
    if outcome.right is not None and not is_number:
        keeps = outcome.definition.get("keep_answers", True)
        right = outcome.right if keeps else tuple(map(hidden, outcome.right))
        return [float(one == it) for one, it in zip(outcome.answers, right, strict=True)]
    for check in outcome.checks:
        if check.places is None and check.name == check.metric and check.metric in OF_ROWS:
            return [1.0 - one for one in check.values] if check.metric in LOWER_IS_BETTER else check.values
    return None


def _better(before: float | None, after: float | None) -> str | None:
    """Which of two answers is the better one; both where both are right."""
    if before is None or after is None:
        return None
    if before != after:
        return "after" if after > before else "before"
    return "both" if before == 1 else "neither"
