"""The budget: the rates that are tried, the rows that judge them, and seconds that become steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.compare import search
from softprompt.compare.budget import Budget
from softprompt.compare.compare import METHODS, compare, run_method
from softprompt.compare.method import Trained
from softprompt.compare.search import find
from softprompt.compare.text_prompts import bare
from softprompt.errors import ConfigError, TrainingError
from softprompt.evaluation.trials import Report
from softprompt.progress import Mute, Progress
from softprompt.tasks.task import Task
from tests.compare.test_methods import ROWS, Told, a_task
from tests.models import make_base, steerable_base


class Fake:
    """A method that does nothing, and keeps what it was asked for."""

    searched = True

    def __init__(self, fails: tuple[float, ...] = ()) -> None:
        self.asked: list[tuple[Task, float]] = []
        self.fails = fails

    def check(self, task: Task, base: FrozenBase) -> None:
        pass

    def settings(self, task: Task, base: FrozenBase) -> dict[str, Any]:
        return {}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        self.asked.append((task, factor))
        if factor in self.fails:
            raise TrainingError("it broke")
        with progress.stage("train", 3) as advance:
            for _ in range(3):
                advance(1, "")
        made = bare(task, base, task.test, None)
        return Trained(made.architecture, made.vectors_PD, made.test, rate=factor)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Values that trials get, in their order."""
    values: list[float] = []

    def judge(engine: Any, trials: Any) -> Any:
        yield 0
        value = values.pop(0)
        return [Report("accuracy", value, len(trials[0].examples), 1.0 - value, [])]

    monkeypatch.setattr(search, "judge", judge)
    return values


def test_rates_lie_around_the_usual_one() -> None:
    assert Budget().factors == [0.316, 1.0, 3.16]
    assert Budget(rates=1).factors == [1.0]
    assert Budget(rates=2).factors == [1.0, 3.16]
    assert Budget(rates=5).factors == [0.1, 0.316, 1.0, 3.16, 10.0]


def test_each_rate_has_a_quarter_of_the_steps_and_validation_rows(base: FrozenBase, scored: list[float]) -> None:
    task, fake = a_task(max_steps=40, data={"train": ROWS, "validation": 0.2}), Fake()
    assert not task.folds
    scored += [0.2, 0.5, 0.9]
    found = find(fake, task, base, Budget(), Mute())
    held = {row["text"] for row in task.validation}
    for asked, factor in zip(fake.asked, Budget().factors, strict=True):
        assert asked[1] == factor
        assert asked[0].config.max_steps == 10
        assert {row["text"] for row in asked[0].test} == held
        assert list(asked[0].train) == list(task.train)
    assert not held & {row["text"] for row in task.test}
    assert found.factor == 3.16
    assert found.task.config.max_steps == 40
    assert list(found.task.test) == list(task.test)
    assert [(row["rate"], row["value"], row.get("chosen")) for row in found.tried] == [
        (0.316, 0.2, None), (1.0, 0.5, None), (3.16, 0.9, True),
    ]  # fmt: skip
    assert found.at_edge
    scored += [0.2, 0.9, 0.9]
    middle = find(Fake(), task, base, Budget(), Mute())
    assert (middle.factor, middle.at_edge) == (1.0, False)  # the first of equal ones, which is the lower rate


def test_where_rows_are_few_a_fold_of_them_judges(base: FrozenBase, scored: list[float]) -> None:
    few = Task(task="t", data=ROWS[:40], labels=["yes", "no"], input="{text} =", max_steps=8)
    assert few.folds
    fake = Fake()
    scored += [0.5] * 3
    find(fake, few, base, Budget(), Mute())
    asked = fake.asked[0][0]
    held, rest = ([row["text"] for row in rows] for rows in (asked.test, asked.train))
    assert not set(held) & set(rest)
    assert {*held, *rest} == {row["text"] for row in few.train}


def test_a_rate_that_fails_is_told_and_others_are_taken(base: FrozenBase, scored: list[float]) -> None:
    scored += [0.4, 0.3]
    found = find(Fake(fails=(3.16,)), a_task(), base, Budget(), Mute())
    assert found.factor == 0.316
    assert found.tried[2] == {"steps": 1, "error": "it broke"}
    with pytest.raises(TrainingError, match="it broke; none of 3 rates came through"):
        find(Fake(fails=(0.316, 1.0, 3.16)), a_task(), base, Budget(), Mute())


def test_the_search_finds_the_rate_that_learns() -> None:
    """Too low a rate in the task file is mended by the search, and the row says what was tried."""
    task, told = a_task(max_steps=40, learning_rate=0.02), Told()
    (row,) = compare(task, methods=["ours"], base=steerable_base(), progress=told)
    tried = {one["rate"]: one["value"] for one in row["rates"]}
    assert list(tried) == [0.00632, 0.02, 0.0632]
    (chosen,) = [one for one in row["rates"] if one.get("chosen")]
    assert chosen["value"] == max(tried.values())
    assert row["learning_rate"] == row["settings"]["learning_rate"] == chosen["rate"]
    assert [one["steps"] for one in row["rates"]] == [10] * 3
    assert row["steps"] == 40
    assert row["search_seconds"] > 0


@pytest.mark.parametrize("name", ["ours", "prefix", "lora", "full", "p_tuning", "peft_prefix_tuning"])
def test_a_factor_is_of_the_usual_rate(name: str) -> None:
    task, base = a_task(max_steps=2, learning_rate=None), make_base("llama")
    usual, other = (METHODS[name].train(task, base, Mute(), factor).rate for factor in (1.0, 3.16))
    assert usual is not None
    assert other == pytest.approx(3.16 * usual, rel=0.01)


@pytest.mark.parametrize("name", ["ours", "lora"])
def test_seconds_become_steps_by_the_pace_of_a_few(name: str, monkeypatch: pytest.MonkeyPatch, base: FrozenBase) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr(search, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))  # a second apart
    task = a_task(max_steps=None)
    found = find(METHODS[name], task, base, Budget(max_seconds=20.0, rates=1), Mute())
    (fixed, step) = (6 - 5, 1.0)  # looks of the probe: before, at each of 5 steps, and behind
    assert found.task.config.max_steps == (20 - fixed) / step


def test_a_budget_of_seconds_is_about_kept(base: FrozenBase) -> None:
    row = run_method("full", a_task(max_steps=None), base, Mute(), Budget(max_seconds=0.5, rates=1))
    assert row["steps"] >= 1
    assert row["settings"]["learning_rate"] == 5e-5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_steps": 3, "max_seconds": 4.0}, "max_steps 3 and max_seconds 4 are two budgets"),
        ({"max_seconds": 0.0}, "max_seconds 0.0 is no time"),
        ({"max_seconds": float("nan")}, "max_seconds nan is no time"),
        ({"max_steps": 0}, "max_steps 0 are none"),
        ({"rates": 0}, "0 learning rates cannot be tried"),
        ({"rates": 10}, "10 learning rates cannot be tried"),
    ],
)
def test_a_wrong_budget_is_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(a_task(), **fields)


def test_a_loss_that_is_no_number_is_told(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.compare import fit

    monkeypatch.setattr(fit, "_backward", lambda *_: float(torch.nan))
    with pytest.raises(TrainingError, match="the loss of step 1 is nan; lower the learning rate"):
        METHODS["full"].train(a_task(), base, Mute())


def test_methods_that_train_nothing_are_not_searched(base: FrozenBase) -> None:
    rows = compare(a_task(), methods=["zero_shot", "few_shot", "peft_prompt_tuning"], base=base, progress=Mute())
    assert [row["rates"] for row in rows] == [[]] * 3
    assert [row["learning_rate"] for row in rows] == [None, None, 5e-5]
    assert [row["take"] for row in rows[:2]] == [None, None]
    assert rows[-1]["decision"]
