"""Who gets which version: by one hash, evenly, and another weight moves the users that it must and no others."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.registry.traffic.experiments import CANDIDATE, CONTROL, Experiment
from softprompt.serving.routing.split import MadeId, Share, arm_of

EXPERIMENT = Experiment(
    id=12, tenant="default", task="t", seed="5" * 32, control=1, candidate=2, weight=0.5, lowest_weight=0.5,
    highest_weight=0.5, shadow=False, level=0.05, auto=False, max_outcomes=None, state="running", decision=None, reason=None,
    control_outcomes=0, control_total=0.0, candidate_outcomes=0, candidate_total=0.0, compared=0, agreed=0, actor="a",
    created_at="", ended_at=None,
)  # fmt: skip
USERS = [f"user-{number}" for number in range(20_000)]


def weighing(weight: float, **more: object) -> Experiment:
    return dataclasses.replace(EXPERIMENT, weight=weight, **more)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_the_candidate_gets_its_share(weight: float) -> None:
    got = sum(arm_of(weighing(weight), user) == CANDIDATE for user in USERS)
    expected = weight * len(USERS)
    chi_square = (got - expected) ** 2 / expected + (got - expected) ** 2 / (len(USERS) - expected)
    assert chi_square < 10.83  # 0.999 of it, with one degree of freedom


def test_places_are_even_in_every_tenth() -> None:
    """Chi-square over ten shares, which the weights between them cut out."""
    counts: Counter[int] = Counter()
    for user in USERS[:4000]:
        counts[sum(arm_of(weighing(tenth / 10), user) == CONTROL for tenth in range(1, 10))] += 1
    expected = 4000 / 10
    assert sum((counts[tenth] - expected) ** 2 / expected for tenth in range(10)) < 27.9  # 0.999, with nine degrees


@given(st.text(max_size=40), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_another_weight_moves_users_one_way_alone(user: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert arm_of(weighing(less), user) == arm_of(weighing(less), user)
    if arm_of(weighing(less), user) == CANDIDATE:
        assert arm_of(weighing(more), user) == CANDIDATE


def test_experiments_draw_apart_and_in_the_shadow_all_get_the_control() -> None:
    other = weighing(0.5, seed="6" * 32)
    same = sum(arm_of(EXPERIMENT, user) == arm_of(other, user) for user in USERS)
    assert 0.48 < same / len(USERS) < 0.52
    assert {arm_of(weighing(0.9, shadow=True), user) for user in USERS[:50]} == {CONTROL}


def test_an_id_tells_what_answered_and_nobody_else_can_make_it() -> None:
    core = "0123456789abcdef01234567"
    for arm in (CONTROL, CANDIDATE):
        name = f"chatcmpl-{core}{Share(EXPERIMENT, arm).mark(core)}"
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name)  # as ids of requests are
        made = MadeId.read(name)
        assert made is not None
        assert (made.core, made.experiment, made.arm) == (core, 12, arm)
        assert made.is_of(EXPERIMENT)
        assert not made.is_of(weighing(0.5, seed="6" * 32))
        assert not made.is_of(weighing(0.5, id=13))
        assert not dataclasses.replace(made, core="f" * 24).is_of(EXPERIMENT)
        assert not dataclasses.replace(made, arm=CONTROL if arm == CANDIDATE else CANDIDATE).is_of(EXPERIMENT)
    plain = MadeId.read(f"req_{core}")
    assert plain is not None
    assert plain.experiment is None
    assert not plain.is_of(EXPERIMENT)
    for text in ("mine-1", "", f"req_{core}-e12", f"req_{core[:-1]}", f"{core}", f"req_{core}-e0a{'0' * 16}"):
        assert MadeId.read(text) is None
