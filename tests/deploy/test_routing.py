"""Which replica: a task's own first, unless it is busy; replicas that come or go move no other's tasks."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from softprompt.deploy.routing import REPEATABLE, choose, ranked, task_of
from softprompt.http.routes import chat, classify, completions, decisions, embeddings, moderations, responses

NAMES = st.text(min_size=1, max_size=6)
LOADS = st.dictionaries(NAMES, st.integers(0, 5), min_size=1, max_size=6)


@given(NAMES, LOADS, st.integers(1, 4))
def test_the_first_in_order_that_is_not_busy_else_the_least_busy(task: str, running: dict[str, int], enough: int) -> None:
    chosen = choose(task, running, enough)
    order = ranked(task, running)
    assert sorted(order) == sorted(running)
    if free := [name for name in order if running[name] < enough]:
        assert chosen == free[0]
    else:
        assert running[chosen] == min(running.values())


@given(NAMES, LOADS, NAMES)
def test_a_replica_that_comes_or_goes_moves_no_other(task: str, running: dict[str, int], other: str) -> None:
    with_it = ranked(task, {**running, other: 0})
    assert [name for name in with_it if name != other] == [name for name in ranked(task, running) if name != other]


def test_tasks_are_spread_evenly() -> None:
    replicas = dict.fromkeys(("r1", "r2", "r3"), 0)
    found = Counter(choose(f"task {number}", replicas, 1) for number in range(3000))
    assert all(800 < count < 1200 for count in found.values())


def test_all_versions_of_a_task_go_together() -> None:
    for model in ("kind", "kind@3", "kind@production"):
        assert task_of(json.dumps({"model": model}).encode()) == "kind"


@given(st.one_of(st.binary(max_size=20), st.just(b'{"model": 3}'), st.just(b"[]"), st.just(b"[" * 100_000)))
def test_what_names_no_task_is_no_error(body: bytes) -> None:
    assert task_of(body) is None


def test_half_characters_are_names_too() -> None:
    assert choose(task_of(b'{"model": "\\ud800"}') or "", {"r1": 0}, 1) == "r1"


def test_every_route_that_answers_may_be_sent_again() -> None:
    """Where a new one is not named, its requests go to no replica that has their prompt, and are lost with their replica."""
    families = (chat, classify, completions, decisions, embeddings, moderations, responses)
    assert {route.path for family in families for route in family.router.routes} == REPEATABLE
