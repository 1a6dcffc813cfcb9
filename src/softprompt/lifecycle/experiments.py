"""Experiments from their beginning to their end: begun, looked at, decided by the outcomes that clients send. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, LibraryError, NotFound, PromotionRefused
from softprompt.evaluation.statistics.sequential import Count, better, e_value, interval
from softprompt.names import Ref, parse_ref
from softprompt.registry.queries import PRODUCTION
from softprompt.registry.traffic.experiments import CANDIDATE, CONTROL, RUNNING, UNDECIDED, Experiment
from softprompt.text import plural

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.library.library import Library
    from softprompt.registry.records import Version

ARMS = (CONTROL, CANDIDATE)
LEVEL = 0.05
"""Probability of a decision that is wrong, however often one looks."""


def start(
    library: Library,
    task: str,
    *,
    control: str | None = None,
    candidate: str | None = None,
    weight: float = 0.5,
    shadow: bool = False,
    level: float = LEVEL,
    auto: bool = False,
    max_outcomes: int | None = None,
) -> Experiment:
    """Begin an experiment: of the requests for a task's bare name the candidate answers its share, user by user.

    Args:
        task: its name.
        control: the version to compare with, as N, TASK@N or TASK@ALIAS; by default what the name means.
        candidate: the version that is tried; by default the newest other one of the control's base.
        weight: the candidate's share of the users.
        shadow: all get the control's answers, and the candidate's are compared with them.
        level: probability that equal versions are told apart, or the worse is taken for the better, ever.
        auto: the version that is clearly better is promoted by itself; that ends the experiment.
        max_outcomes: after so many of both arms it ends, decided or not.

    Raises:
        NotFound: no such task or version, or one is deleted.
        ConfigError: the versions are of different bases or the same, or a number is out of its range.
        LibraryError: the task has an experiment that runs.
    """
    registry = library.registry
    meant = registry.resolve(task)
    if parse_ref(task) != Ref(meant.task):
        raise ConfigError(
            f"{task!r} names a version, and an experiment is about what the task's name means; give {meant.task!r}"
        )
    first = meant if control is None else registry.resolve(_ref(task, control, "control"))
    second = registry.resolve(_ref(task, candidate, "candidate")) if candidate is not None else _newest_other(library, first)
    made = registry.experiments.start(
        task, first.number, second.number, weight=weight, shadow=shadow, level=level, auto=auto, max_outcomes=max_outcomes
    )
    if PRODUCTION not in registry.aliases.of(task):  # or a version that is published meanwhile would be what the name means
        registry.aliases.promote(meant.ref, PRODUCTION, reason=f"kept in place while experiment {made.id} runs")
    return made


def _ref(task: str, given: str, what: str) -> str:
    """A version as people name it beside its task: `2`, `task@2` or `task@alias`."""
    ref = f"{task}@{given}" if given.isascii() and given.isdigit() else given
    if parse_ref(ref).task != task:
        raise ConfigError(f"the {what} {given!r} is no version of task {task!r}; give N, {task}@N or {task}@ALIAS")
    return ref


def _newest_other(library: Library, control: Version) -> Version:
    others = [one for one in library.registry.versions(control.task, deleted=False) if one.number != control.number]
    same = [one for one in others if one.fingerprint == control.fingerprint]
    if same:
        return same[-1]
    there = f" but {others[-1].ref}, of another base" if others else ""
    raise NotFound(f"{control.ref} has no other version to be compared with{there}; train one (`softprompt train`)")


def change(library: Library, task: str, *, weight: float) -> Experiment:
    """Give the candidate of the experiment that runs another share of the users, from the next requests on. Where it
    grows, those that had the candidate keep it, and where it shrinks, those that had the control do; outcomes go on to count
    for the version that answered.

    Raises:
        NotFound: no such task, or none of its experiments runs.
        ConfigError: the weight is no share, or all get the control (shadow).
        LibraryError: it was ended by another just now.
    """
    there = _that_runs(library, task)
    changed = library.registry.experiments.weigh(there, weight)
    if changed is None:
        raise _ended_by_another(there)
    return changed


def _ended_by_another(there: Experiment) -> LibraryError:
    return LibraryError(f"experiment {there.id} of task {there.task!r} was ended by another just now; nothing was changed")


def _that_runs(library: Library, task: str) -> Experiment:
    there = library.registry.experiments.latest(task)
    if there is None or there.state != RUNNING:
        raise NotFound(f"no experiment of task {task!r} runs; `softprompt ab status {task}` shows the last one")
    return there


def stop(library: Library, task: str, *, winner: str | None = None) -> Experiment:
    """End the experiment of a task. The winner, where one is named, is promoted to `production`; else nothing moves, and all
    get again what the name means.

    Raises:
        NotFound: no such task, or none of its experiments runs.
        ConfigError: the winner is no arm.
        PromotionRefused: the winner scores clearly worse than what is in place: the experiment goes on.
        StoreError: its blob is altered, or the store fails.
    """
    if winner not in (None, *ARMS):
        raise ConfigError(f"winner {winner!r} is none of {', '.join(ARMS)}; give one of them, or none")
    there = _that_runs(library, task)
    decision = winner or there.decision or verdict(there) or UNDECIDED
    if winner is None:
        ended = library.registry.experiments.end(there, decision, "ended by hand")
    else:
        try:
            ended = _promote(library, there, winner, f"ended by hand: {_figures(there)}")
        except PromotionRefused as error:
            said = str(error).partition("; to promote it")[0]
            raise PromotionRefused(
                f"{said}; the experiment goes on: end it without --winner, then `softprompt promote {there.ref_of(winner)} "
                "--force --reason TEXT`"
            ) from error
    if not ended:
        raise _ended_by_another(there)
    found = library.registry.experiments.get(there.id)
    assert found is not None
    return found


def status(library: Library, task: str) -> list[dict[str, Any]]:
    """A row for each arm of the experiment that runs, or ran last; of a task without any, one that says so.

    Raises:
        NotFound: no such task.
    """
    there = library.registry.experiments.latest(task)
    return [_nothing(task)] if there is None else rows(there)


def rows(experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each arm."""
    evidence = e_value(*map(counts(experiment).get, ARMS))  # type: ignore[arg-type]
    made = []
    for arm, share in ((CONTROL, 1 - experiment.weight), (CANDIDATE, experiment.weight)):
        count = counts(experiment)[arm]
        low, high = interval(count, experiment.level)
        made.append(
            {
                "task": experiment.task, "experiment": experiment.id, "arm": arm, "version": experiment.version_of(arm),
                "weight": round(share, 12), "outcomes": count.outcomes, "successes": count.total, "rate": count.rate,
                "low": low, "high": high, "e_value": evidence, "decision": experiment.decision, "state": experiment.state,
                "level": experiment.level, "shadow": experiment.shadow, "auto": experiment.auto,
                "max_outcomes": experiment.max_outcomes, "compared": experiment.compared, "agreed": experiment.agreed,
                "reason": experiment.reason, "created_at": experiment.created_at, "ended_at": experiment.ended_at,
            }
        )  # fmt: skip
    return made


def _nothing(task: str) -> dict[str, Any]:
    names = ("arm", "version", "weight", "outcomes", "successes", "rate", "low", "high", "e_value", "decision")
    return {"task": task, "experiment": None, **dict.fromkeys(names), "state": "none"}


def counts(experiment: Experiment) -> dict[str, Count]:
    """The outcomes of each arm."""
    return {
        CONTROL: Count(experiment.control_outcomes, experiment.control_total),
        CANDIDATE: Count(experiment.candidate_outcomes, experiment.candidate_total),
    }


def verdict(experiment: Experiment) -> str | None:
    """The arm that is clearly better by the outcomes so far; None as long as neither is."""
    found = counts(experiment)
    return better(found[CONTROL], found[CANDIDATE], experiment.level)


def settle(library: Library, experiment: Experiment) -> None:
    """Do what the outcomes of an experiment ask for by now."""
    registry, decision = library.registry, experiment.decision or verdict(experiment)
    if decision is not None and experiment.auto:
        try:
            _promote(library, experiment, decision, f"the {decision} is better: {_figures(experiment)}")
        except (PromotionRefused, NotFound) as error:
            said = str(error).partition("; to promote it")[0]
            registry.experiments.end(experiment, decision, f"the {decision} is better, {_figures(experiment)}; but {said}")
        return
    if decision is not None and experiment.decision is None:
        registry.experiments.decide(experiment.id, decision)
    bound = experiment.max_outcomes
    if bound is not None and experiment.control_outcomes + experiment.candidate_outcomes >= bound:
        registry.experiments.end(
            experiment, decision or UNDECIDED, f"{plural(bound, 'outcome')} came: {_figures(experiment)}"
        )


def _promote(library: Library, experiment: Experiment, arm: str, reason: str) -> bool:
    """Promote an arm and end the experiment, both or neither; False, and nothing changes, where another has ended it."""

    def end(connection: Connection) -> None:
        if not library.registry.experiments.end_in(connection, experiment, arm, reason):
            raise _EndedAlready

    try:
        library.promote(experiment.ref_of(arm), PRODUCTION, reason=f"experiment {experiment.id}, {reason}", also=end)
    except _EndedAlready:
        return False
    return True


class _EndedAlready(Exception):
    """Another server was quicker."""


def _figures(experiment: Experiment) -> str:
    """The outcomes in words."""
    parts = []
    for arm, count in counts(experiment).items():
        rate = "none" if count.rate is None else f"{count.rate:.3f}"
        parts.append(f"{arm} {rate} on {plural(count.outcomes, 'outcome')}")
    return ", ".join(parts)
