"""Experiments in a library: begun or refused by name, counted, decided, promoted or rolled back, ended once."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, FieldError, LibraryError, NotFound, PromotionRefused
from softprompt.library.library import Library
from softprompt.lifecycle import experiments, feedback
from softprompt.registry.traffic.experiments import Experiment
from softprompt.serving.routing.split import Share, arm_of, steady_arm_of
from tests.commands import Run
from tests.library_data import make_prompt, scored

FORM = {"input": "{text}", "target": " {label}", "labels": ("yes", "no")}


@pytest.fixture
def library(home: Path) -> Iterator[Library]:
    with Library.open(home) as library:
        for seed in (1, 2, 3):
            library.publish(make_prompt("t", seed, **FORM), base="builtin/tiny")
        library.publish(make_prompt("t", 4, fingerprint="f" * 32, **FORM), base="other/base")
        library.promote("t@1")
        yield library


def send(library: Library, arm: str, outcome: float, number: int) -> feedback.Taken:
    """An outcome of the answer to one request, by the id that the answer had."""
    there = library.registry.experiments.latest("t")
    assert there is not None
    core = f"{number:024x}"
    return feedback.take(library, name=f"chatcmpl-{core}{Share(there, arm).mark(core)}", outcome=outcome)


def arms(library: Library) -> dict[str, dict[str, object]]:
    return {row["arm"]: row for row in experiments.status(library, "t")}


def test_the_defaults_are_what_the_name_means_and_the_newest_other_one(library: Library) -> None:
    made = experiments.start(library, "t")
    assert (made.control, made.candidate, made.weight, made.level, made.auto) == (1, 3, 0.5, 0.05, False)
    rows = arms(library)
    assert [rows[arm]["version"] for arm in ("control", "candidate")] == [1, 3]
    assert {row["state"] for row in rows.values()} == {"running"}
    assert {(row["low"], row["high"], row["e_value"], row["decision"]) for row in rows.values()} == {(0.0, 1.0, 1.0, None)}
    assert library.registry.audit("t")[-1].action == "experiment-start"


@pytest.mark.parametrize(("control", "candidate"), [("2", "3"), ("t@2", "t@3"), ("t@old", "3")])
def test_versions_are_named_as_people_do(library: Library, control: str, candidate: str) -> None:
    library.promote("t@2", "old")
    made = experiments.start(library, "t", control=control, candidate=candidate, weight=0.1)
    assert (made.control, made.candidate, made.weight) == (2, 3, 0.1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"candidate": "4"}, ConfigError, "t@1 is of base builtin/tiny and t@4 of"),
        ({"candidate": "1"}, ConfigError, "t@1 would be compared with itself"),
        ({"candidate": "2"}, NotFound, "version t@2 is deleted"),
        ({"control": "2"}, NotFound, "version t@2 is deleted"),
        ({"candidate": "9"}, NotFound, "no version 9"),
        ({"candidate": "kind@3"}, ConfigError, "the candidate 'kind@3' is no version of task 't'"),
        *[({"weight": weight}, ConfigError, "weight .* is no share") for weight in (0.0, 1.0, -0.1, 1.5, float("nan"))],
        *[({"level": level}, ConfigError, "level .* is no share") for level in (0.0, 1.0)],
        ({"max_outcomes": 0}, ConfigError, "0 outcomes"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_begun(
    library: Library, options: dict[str, object], error: type[Exception], words: str
) -> None:
    library.registry.delete("t@2")
    before = library.registry.state()
    with pytest.raises(error, match=words):
        experiments.start(library, "t", **options)  # type: ignore[arg-type]
    assert library.registry.state() == before
    assert library.registry.experiments.latest("t") is None


def test_one_runs_at_a_time(library: Library) -> None:
    first = experiments.start(library, "t", candidate="2")
    with pytest.raises(LibraryError, match=rf"has an experiment that runs, {first.id} between versions 1 and 2"):
        experiments.start(library, "t", candidate="3")
    with pytest.raises(LibraryError, match="t@2 is not deleted: an experiment runs with it"):
        library.registry.delete("t@2", force=True)
    assert experiments.stop(library, "t").decision == "undecided"
    with pytest.raises(NotFound, match="no experiment of task 't' runs"):
        experiments.stop(library, "t")
    again = experiments.start(library, "t", candidate="2", weight=0.2)
    assert again.seed == first.seed  # the same users come first
    experiments.stop(library, "t")
    assert experiments.start(library, "t", candidate="3").seed != first.seed


def test_a_task_without_other_versions(library: Library) -> None:
    library.publish(make_prompt("alone", 1, **FORM), base="builtin/tiny")
    with pytest.raises(NotFound, match="alone@1 has no other version to be compared with; train one"):
        experiments.start(library, "alone")
    assert experiments.status(library, "alone")[0]["state"] == "none"
    with pytest.raises(NotFound, match="no task 'nobody'"):
        experiments.status(library, "nobody")


def test_what_the_name_means_is_kept_in_place(library: Library) -> None:
    for seed in (1, 2):
        library.publish(make_prompt("u", seed, **FORM), base="builtin/tiny")
    experiments.start(library, "u", candidate="1")  # the newest is what the name means, and no alias says so
    library.publish(make_prompt("u", 3, **FORM), base="builtin/tiny")
    assert library.registry.resolve("u").number == 2
    assert experiments.status(library, "u")[0]["state"] == "running"


@pytest.mark.parametrize("how", ["promote", "rollback"])
def test_it_ends_where_the_name_comes_to_mean_something_else(library: Library, how: str) -> None:
    library.promote("t@2")
    experiments.start(library, "t", control="1", candidate="3")
    library.promote("t@2", "other")  # another alias is none of its business
    assert arms(library)["control"]["state"] == "running"
    if how == "promote":
        library.promote("t@3")
    else:
        library.rollback("t")
    row = arms(library)["control"]
    assert (row["state"], row["decision"]) == ("stopped", "undecided")
    assert row["reason"] == f"production moved from 2 to {3 if how == 'promote' else 1}: {how}"


def test_an_outcome_counts_once_and_for_its_arm_alone(library: Library) -> None:
    experiments.start(library, "t", candidate="2")
    first, twice = send(library, "candidate", 1, 7), send(library, "candidate", 0, 7)
    assert (first.version, first.arm, first.new, first.counted) == (2, "candidate", True, True)
    assert (twice.new, twice.counted) == (False, False)
    send(library, "control", 0.25, 8)
    rows = arms(library)
    assert (rows["candidate"]["outcomes"], rows["candidate"]["successes"], rows["candidate"]["rate"]) == (1, 1.0, 1.0)
    assert (rows["control"]["outcomes"], rows["control"]["successes"]) == (1, 0.25)
    experiments.stop(library, "t")
    late = send(library, "candidate", 1, 9)
    assert (late.new, late.counted) == (True, False)
    assert arms(library)["candidate"]["outcomes"] == 1


def test_an_id_that_nobody_signed_is_refused(library: Library) -> None:
    there = experiments.start(library, "t", candidate="2")
    core = "0" * 24
    right = f"req_{core}{Share(there, 'control').mark(core)}"
    forged = [
        right.replace("-e", "-e1"), right.replace("a", "b", 1) if "a" in right else right[::-1], f"{right[:-1]}g",
        right[:-1] + ("0" if right[-1] != "0" else "1"), f"req_{'1' * 24}{right[28:]}",
    ]  # fmt: skip
    for name in forged:
        with pytest.raises(FieldError):
            feedback.take(library, name=name, outcome=1)
    other = library.for_tenant("other")
    with pytest.raises(FieldError, match="that of no answer"):
        feedback.take(other, name=right, outcome=1)
    with pytest.raises(FieldError, match="that of no answer of t@2"):
        feedback.take(library, name=right, model="t@2", outcome=1)
    assert feedback.take(library, name=right, model="t@1", outcome=1).counted
    assert arms(library)["control"]["outcomes"] == 1


def test_model_and_user_give_the_arm_again(library: Library) -> None:
    there = experiments.start(library, "t", candidate="2")
    found = {}
    for number in range(20):
        taken = feedback.take(library, model="t", user=f"u{number}", outcome=1)
        assert taken.counted
        found[f"u{number}"] = taken
    assert {taken.arm for taken in found.values()} == {"control", "candidate"}
    for user, taken in found.items():
        assert taken.version == there.version_of(taken.arm or "")
        for number in (1, 2):  # named as the answer did it is the same; what the user did not get is no part of it
            named = feedback.take(library, name=f"{user}-{number}", model=f"t@{number}", user=user, outcome=0)
            assert (named.version, named.counted) == (number, number == taken.version)
    assert feedback.take(library, name="mine-1", model="t", outcome=1).counted  # told apart by the request
    assert feedback.take(library, model="t", key="key-3", outcome=1).counted
    assert not feedback.take(library, model="t", outcome=1).counted  # whose is not known
    with pytest.raises(FieldError, match="does not say what answered; give `model`"):
        feedback.take(library, name="mine-2", outcome=1)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5))
def test_another_weight_moves_the_users_that_it_must_and_no_others(weights: list[float]) -> None:
    """The twin looks at every user's arm before and after."""
    made = experiment(weights[0])
    for before, after in pairwise(weights):
        bounds = {"lowest_weight": min(made.lowest_weight, after), "highest_weight": max(made.highest_weight, after)}
        changed = replace(made, weight=after, **bounds)
        first, kept = ("candidate", before <= after), ("control", before >= after)
        for user in USERS:
            was, now = arm_of(made, user), arm_of(changed, user)
            for arm, grows in (first, kept):
                assert not grows or was != arm or now == arm, "who has what grows keeps it"
        made = changed
    every = [{arm_of(experiment(weight), user) for weight in weights} for user in USERS]
    assert [steady_arm_of(made, user) for user in USERS] == [arms.pop() if len(arms) == 1 else None for arms in every]


USERS = [f"user-{number}" for number in range(60)]


def experiment(weight: float) -> Experiment:
    values: dict[str, Any] = dict.fromkeys(Experiment.__dataclass_fields__)
    return Experiment(
        **values | {"seed": "0123", "weight": weight, "lowest_weight": weight, "highest_weight": weight, "shadow": False}
    )


def test_the_weight_changes_while_it_runs_and_the_audit_has_it(library: Library) -> None:
    experiments.start(library, "t", candidate="2", weight=0.2)
    send(library, "candidate", 1, 1)
    number = library.registry.state()
    changed = experiments.change(library, "t", weight=0.6)
    assert library.registry.state() != number, "servers look again"
    assert (changed.weight, changed.lowest_weight, changed.highest_weight) == (0.6, 0.2, 0.6)
    assert changed.candidate_outcomes == 1
    line = library.registry.audit("t")[-1]
    assert (line.action, line.before, line.after) == (
        "experiment-weight",
        {"experiment": changed.id, "weight": 0.2},
        {"experiment": changed.id, "weight": 0.6},
    )
    assert experiments.change(library, "t", weight=0.6) == changed
    assert library.registry.audit("t")[-1] == line, "nothing changed"
    assert (experiments.change(library, "t", weight=0.1).lowest_weight, arms(library)["candidate"]["weight"]) == (0.1, 0.1)
    for weight in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="is no share"):
            experiments.change(library, "t", weight=weight)
    experiments.stop(library, "t")
    with pytest.raises(NotFound, match="no experiment of task 't' runs"):
        experiments.change(library, "t", weight=0.3)
    assert library.registry.experiments.weigh(changed, 0.3) is None
    experiments.start(library, "t", candidate="2", shadow=True)
    with pytest.raises(ConfigError, match=r"runs in the shadow, where all get the control .* start one without --shadow"):
        experiments.change(library, "t", weight=0.3)


def test_outcomes_count_for_the_version_that_answered_whatever_the_weight_is_by_then(library: Library) -> None:
    first = experiments.start(library, "t", candidate="2", weight=0.2)
    changed = experiments.change(library, "t", weight=0.7)
    moved = [user for user in USERS if (arm_of(first, user), arm_of(changed, user)) == ("control", "candidate")]
    assert 0 < len(moved) < len(USERS)
    for at, user in enumerate(USERS):
        if user not in moved:
            assert feedback.take(library, model="t", user=user, outcome=1).arm == arm_of(first, user)
            continue
        with pytest.raises(FieldError, match=r"which version answered .* give the id") as error:
            feedback.take(library, model="t", user=user, outcome=1)
        assert error.value.field == "model"
        named = feedback.take(library, model="t@1", user=user, outcome=0.5)
        assert (named.arm, named.version, named.counted) == ("control", 1, True)
        assert feedback.take(library, model="t@2", user=user, outcome=0.5).arm == "candidate"
        core = f"{at:024x}"
        name = f"req_{core}{Share(first, 'control').mark(core)}"
        assert feedback.take(library, name=name, user=user, outcome=1).arm == "control"
    rows = arms(library)
    assert sum(int(str(row["outcomes"])) for row in rows.values()) == len(USERS) + 2 * len(moved)


def test_the_better_one_is_promoted_by_itself(library: Library) -> None:
    experiments.start(library, "t", candidate="2", auto=True)
    number = 0
    while arms(library)["control"]["state"] == "running":
        number += 2
        send(library, "candidate", 1, number)
        send(library, "control", 0, number + 1)
        assert number < 100
    row = arms(library)["candidate"]
    assert row["decision"] == "candidate"
    assert float(str(row["e_value"])) >= 20
    assert library.registry.resolve("t").number == 2
    moves = [line for line in library.registry.audit("t") if line.action == "promote"]
    assert "the candidate is better: control 0.000 on" in (moves[-1].reason or "")
    assert library.rollback("t").after == 1


def test_a_candidate_that_is_clearly_worse_goes_and_nothing_else_moves(library: Library) -> None:
    experiments.start(library, "t", candidate="2", auto=True)
    for number in range(0, 100, 2):
        send(library, "candidate", 0, number)
        send(library, "control", 1, number + 1)
    row = arms(library)["candidate"]
    assert (row["state"], row["decision"]) == ("stopped", "control")
    assert library.registry.resolve("t").number == 1
    assert [line.action for line in library.registry.audit("t")][-1] == "experiment-stop"


def test_without_being_asked_for_a_decision_is_only_shown(library: Library) -> None:
    experiments.start(library, "t", candidate="2")
    for number in range(0, 60, 2):
        send(library, "candidate", 1, number)
        send(library, "control", 0, number + 1)
    row = arms(library)["candidate"]
    assert (row["state"], row["decision"]) == ("running", "candidate")
    assert library.registry.resolve("t").number == 1
    ended = experiments.stop(library, "t", winner="candidate")
    assert (ended.state, ended.decision) == ("stopped", "candidate")
    assert library.registry.resolve("t").number == 2


def test_it_ends_after_so_many_outcomes(library: Library) -> None:
    experiments.start(library, "t", candidate="2", max_outcomes=4)
    for number in range(4):
        send(library, ("control", "candidate")[number % 2], 1, number)
    row = arms(library)["control"]
    assert (row["state"], row["decision"], row["outcomes"]) == ("stopped", "undecided", 2)


def test_a_winner_that_the_gate_refuses_is_told_and_not_promoted(library: Library) -> None:
    for seed, value in ((5, 0.9), (6, 0.5)):
        library.publish(make_prompt("g", seed, metrics=scored(value), **FORM), base="builtin/tiny")
    library.promote("g@1")
    made = experiments.start(library, "g", auto=True)
    with pytest.raises(
        PromotionRefused, match=r"the experiment goes on: end it without --winner, then `softprompt promote g@2"
    ):
        experiments.stop(library, "g", winner="candidate")
    assert experiments.status(library, "g")[0]["state"] == "running"
    for number in range(0, 60, 2):
        for arm, outcome in (("candidate", 1), ("control", 0)):
            core = f"{number + outcome:024x}"
            feedback.take(library, name=f"req_{core}{Share(made, arm).mark(core)}", outcome=outcome)
    row = experiments.status(library, "g")[0]
    assert (row["state"], row["decision"]) == ("stopped", "candidate")
    assert "g@2 is not promoted to production" in row["reason"]
    assert library.registry.resolve("g").number == 1


def _outcomes(home: str, first: int) -> None:
    with Library.open(home) as library:
        for number in range(first, first + 15):
            send(library, ("control", "candidate")[number % 2], 1, number)
            send(library, ("control", "candidate")[number % 2], 0, number)  # again


def test_servers_that_write_at_once_count_nothing_twice_and_lose_nothing(library: Library) -> None:
    experiments.start(library, "t", candidate="2")
    context = multiprocessing.get_context("spawn")
    some = [context.Process(target=_outcomes, args=(str(library.home), first)) for first in (0, 0)]
    for process in some:
        process.start()
    for process in some:
        process.join(60)
        assert process.exitcode == 0
    rows = arms(library)
    assert [rows[arm]["outcomes"] for arm in ("control", "candidate")] == [8, 7]  # both sent the same


def test_of_many_that_decide_one_does(library: Library) -> None:
    experiments.start(library, "t", candidate="2", auto=True)
    go = threading.Barrier(8)

    def flood(thread: int) -> None:
        go.wait()
        for number in range(thread * 100, thread * 100 + 12):
            send(library, ("control", "candidate")[number % 2], number % 2, number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flood, range(8)))
    actions = [line.action for line in library.registry.audit("t")]
    assert actions.count("experiment-stop") == 1
    assert actions.count("promote") == 2  # one of them the fixture's
    assert library.registry.resolve("t").number == 2


def test_the_commands(run: Run, library: Library) -> None:
    assert run("ab", "status", "t", "--json").rows[0]["state"] == "none"
    assert "has no experiment" in run("ab", "status", "t").out
    control, candidate = run("ab", "start", "t", "--control", "t@1", "--candidate", "2", "--weight", "0.25", "--json").rows
    fields = ("task", "experiment", "arm", "version", "weight", "outcomes", "successes", "rate", "low", "high", "e_value",
              "decision", "state")  # fmt: skip
    assert set(fields) <= control.keys()
    assert (control["arm"], control["version"], control["weight"]) == ("control", 1, 0.75)
    assert (candidate["arm"], candidate["version"], candidate["weight"]) == ("candidate", 2, 0.25)
    assert "has an experiment that runs" in run("ab", "start", "t").refused()
    assert [row["weight"] for row in run("ab", "change", "t", "--weight", "0.4", "--json").rows] == [0.6, 0.4]
    assert "is no share" in run("ab", "change", "t", "--weight", "1").refused()
    assert [row["state"] for row in run("ab", "status", "t", "--json").rows] == ["running"] * 2
    assert [row["state"] for row in run("ab", "stop", "t", "--winner", "candidate", "--json").rows] == ["stopped"] * 2
    assert library.registry.resolve("t").number == 2
    assert "no experiment of task 't' runs" in run("ab", "stop", "t").refused()
    assert run("ab", "start", "t", "--promote", "--json").rows[0]["auto"]
