"""Admission: no job lost, none twice, bounds hold, first come first served."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from softprompt.engines.protocol import NO_PROMPT, EmbedJob, GenerateJob, Sampling
from softprompt.engines.scheduler import Limits, Scheduler, Work
from softprompt.errors import ConfigError, EngineBusy

LIMITS = Limits(max_rows=3, max_waiting=6, token_budget=20, cache_tokens=60)


def row(tokens: int = 1, columns: int = 1) -> Work:
    return Work(GenerateJob(NO_PROMPT, (1,) * tokens, Sampling(max_tokens=1)), lambda _: None, tokens, columns)


def single(tokens: int = 1) -> Work:
    return Work(EmbedJob((1,) * tokens), lambda _: None, tokens)


def test_rows_are_admitted_up_to_the_bound_and_no_further() -> None:
    scheduler = Scheduler(LIMITS)
    works = [row() for _ in range(5)]
    scheduler.add(works)
    assert scheduler.admit() == works[:3]
    assert scheduler.admit() == []
    scheduler.finish(works[1])
    assert scheduler.admit() == works[3:4]


def test_the_token_budget_bounds_a_step() -> None:
    scheduler = Scheduler(LIMITS)
    works = [row(9), row(9), row(9)]
    scheduler.add(works)
    assert scheduler.admit() == works[:2]
    assert scheduler.admit() == works[2:]


def test_single_passes_have_a_budget_of_their_own() -> None:
    scheduler = Scheduler(LIMITS)
    rows, passes = [row(20), row(20)], [single(12), single(8), single(1)]
    scheduler.add([*rows, *passes])
    assert scheduler.admit() == [rows[0], *passes[:2]]


@pytest.mark.parametrize("large", [row(tokens=1000, columns=1), row(tokens=1, columns=1000)])
def test_what_fits_no_budget_runs_alone(large: Work) -> None:
    scheduler = Scheduler(LIMITS)
    before, behind = row(columns=30), row()
    scheduler.add([before])
    assert scheduler.admit() == [before]
    scheduler.add([large, behind])
    if large.columns > 1:
        assert scheduler.admit() == []  # and nobody overtakes it
        scheduler.finish(before)
    assert scheduler.admit() == [large]


def test_a_full_queue_says_how_full() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add([row() for _ in range(5)])
    with pytest.raises(EngineBusy, match=r"5 jobs waiting, 0 running, 2 more .* 6 may wait"):
        scheduler.add([row(), row()])
    assert scheduler.waiting == 5


def test_more_than_may_ever_wait_are_not_told_to_come_again() -> None:
    scheduler = Scheduler(LIMITS)
    with pytest.raises(ConfigError, match=r"7 rows were handed in together, and the engine's queue holds 6 .*hand in fewer"):
        scheduler.add([row() for _ in range(7)])
    assert scheduler.waiting == 0
    scheduler.add([row() for _ in range(6)])


class SchedulerMachine(RuleBasedStateMachine):
    """A scheduler beside a plain list of what was handed in."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.waiting: list[Work] = []
        self.running: list[Work] = []

    @rule(sizes=st.lists(st.tuples(st.booleans(), st.integers(1, 25), st.integers(0, 70)), min_size=1, max_size=4))
    def add(self, sizes: list[tuple[bool, int, int]]) -> None:
        works = [row(tokens, tokens + more) if rows else single(tokens) for rows, tokens, more in sizes]
        if len(self.waiting) + len(works) > LIMITS.max_waiting:
            with pytest.raises(EngineBusy):
                self.scheduler.add(works)
        else:
            self.scheduler.add(works)
            self.waiting += works

    @rule()
    def admit(self) -> None:
        held = [work for work in self.running if work.generates]
        admitted = self.scheduler.admit()
        for kind in (True, False):
            of_kind = [work for work in admitted if work.generates is kind]
            queue = [work for work in self.waiting if work.generates is kind]
            assert of_kind == queue[: len(of_kind)], "first come, first served"
            assert len(of_kind) <= 1 or sum(work.tokens for work in of_kind) <= LIMITS.token_budget
            if not kind or not held:
                assert of_kind or not queue, "the first always runs, once it can run alone"
        rows = held + [work for work in admitted if work.generates]
        assert len(rows) <= LIMITS.max_rows
        if len(rows) > 1 and len(rows) > len(held):
            assert len(rows) * max(work.columns for work in rows) <= LIMITS.cache_tokens
        self.waiting = [work for work in self.waiting if work not in admitted]
        self.running += admitted

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        work = data.draw(st.sampled_from(self.running))
        self.scheduler.finish(work)
        self.scheduler.finish(work)
        self.running.remove(work)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        work = data.draw(st.sampled_from(self.waiting + self.running))
        self.scheduler.cancel(work)
        assert work.over
        if work in self.waiting:
            self.waiting.remove(work)

    @rule()
    def clear(self) -> None:
        left = self.scheduler.clear()
        assert len(left) == len(self.waiting) + len(self.running)
        assert {id(work) for work in left} == {id(work) for work in [*self.waiting, *self.running]}
        self.waiting, self.running = [], []

    @invariant()
    def counts_agree(self) -> None:
        assert (self.scheduler.waiting, self.scheduler.running) == (len(self.waiting), len(self.running))


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


def test_scheduling_needs_no_torch() -> None:
    names = "softprompt.engines.scheduler, softprompt.engines.continuation"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
