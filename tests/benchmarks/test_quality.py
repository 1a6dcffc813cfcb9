"""The benchmark of quality: rows are kept as they come, and nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality
from benchmarks.quality_tables import summaries, tables
from benchmarks.tasks import few_rows, first_rows
from softprompt.bases.base import FrozenBase
from softprompt.errors import TrainingError
from softprompt.progress import Progress
from softprompt.tasks.task import Task
from tests.models import make_base

pytestmark = pytest.mark.slow

Row = dict[str, Any]
ROWS = [{"text": f"{word} {n}", "label": label} for n in range(12) for word, label in (("red", "yes"), ("blue", "no"))]


def a_task(name: str = "t", **fields: Any) -> Task:
    return Task(task=name, data=ROWS, labels=["yes", "no"], **fields)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[Row]]:
    """Calls the script on two small tasks, with methods that do nothing; the methods done are in `done`."""

    def make_tasks(names: list[str], seed: int, overrides: Row) -> list[Task]:
        return [a_task(name, **overrides, seed=seed) for name in ("one", "two")]

    def run_method(name: str, task: Task, base: FrozenBase, progress: Progress) -> Row:
        done.append((name, task.name, task.config.seed))
        if (name, task.name) in failing:
            raise TrainingError("it did not learn")
        return {"method": name, "metric": "accuracy", "value": 0.5, "trainable": 3, "bytes": 9, "seconds": 1.0}

    done: list[tuple[str, str, int]] = []
    failing: set[tuple[str, str]] = set()
    base = make_base("llama")
    monkeypatch.setattr(quality, "make_tasks", make_tasks)
    monkeypatch.setattr(quality, "run_method", run_method)
    monkeypatch.setattr(FrozenBase, "load", lambda *_, **__: base)

    def call(*arguments: str, fails: set[tuple[str, str]] = frozenset(), code: int = 0) -> list[Row]:  # type: ignore[assignment]
        done.clear()
        failing.clear()
        failing.update(fails)
        monkeypatch.setattr("sys.argv", ["quality.py", "--out", str(tmp_path / "rows.jsonl"), "--json", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            quality.main()
        assert end.value.code == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    call.done = done  # type: ignore[attr-defined]
    return call


def test_rows_are_kept_as_they_come_and_not_done_again(call: Any, tmp_path: Path) -> None:
    rows = call("--methods", "ours", "lora", "--seeds", "2", "--train-rows", "10")
    order = [(method, task, seed) for seed in (0, 1) for task in ("one", "two") for method in ("ours", "lora")]
    assert call.done == order
    assert [(row["method"], row["task"], row["seed"]) for row in rows] == order
    assert {row["train_rows"] for row in rows} == {10}
    assert rows[0].keys() >= {"base", "method", "task", "seed", "value"}
    kept = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == rows
    assert call("--methods", "ours", "lora", "--seeds", "2", "--train-rows", "10") == rows
    assert call.done == []
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in kept[:5]))
    assert call("--methods", "ours", "lora", "--seeds", "2", "--train-rows", "10") == rows
    assert call.done == order[5:]


@pytest.mark.parametrize(
    "changed", [("--train-rows", "9"), ("--max-steps", "7"), ("--set", "learning_rate=0.3"), ("--first-seed", "5")]
)
def test_other_rows_steps_recipes_and_seeds_are_other_rows(call: Any, changed: tuple[str, str]) -> None:
    call("--methods", "ours")
    call("--methods", "ours", *changed)
    assert len(call.done) == 2


def test_one_that_fails_leaves_the_others_and_is_tried_again(call: Any) -> None:
    rows = call("--methods", "ours", "lora", fails={("ours", "one")}, code=1)
    assert [(row["method"], row["task"]) for row in rows] == [("lora", "one"), ("ours", "two"), ("lora", "two")]
    assert len(call("--methods", "ours", "lora")) == 4
    assert call.done == [("ours", "one", 0)]


def test_a_curve_goes_over_numbers_of_rows(call: Any) -> None:
    rows = call("--few", "8", "16")
    assert [(row["few"], row["method"]) for row in rows[:6]] == [(n, method) for n in (8, 16) for method in quality.CURVE]
    assert [row["train_rows"] for row in rows[1:3]] == [8, 8]
    assert {row["train_rows"] <= row["few"] for row in rows} == {True}


def test_rows_are_drawn_once_for_all_and_few_by_seed() -> None:
    one, other = (first_rows(a_task(seed=seed), 10) for seed in (0, 1))
    assert list(one.train) == list(other.train)
    assert len(one.train) == 10
    assert list(one.test) == list(a_task().test)
    few, same, others = (few_rows(a_task(seed=seed), 8, validates=False) for seed in (0, 0, 1))
    assert list(few.train) == list(same.train) != list(others.train)
    validating = few_rows(a_task(seed=0), 8, validates=True)
    drawn = {row["text"] for row in few.train}
    assert {row["text"] for row in (*validating.train, *validating.validation)} == drawn
    assert list(validating.test) == list(few.test) == list(a_task().test)


def test_a_summary_has_means_and_spreads_of_the_newest_rows() -> None:
    def row(method: str, task: str, seed: int, value: float, **more: Any) -> Row:
        known = {"base": "b", "dtype": "bfloat16", "device": "cpu", "max_steps": 9, "few": None, "set": {}}
        known |= {"metric": "accuracy", "bytes": 7}
        figures = {"trainable": 1234, "seconds": 3.0, "peak_mb": 5.0, "latency_ms": 2.0}
        return known | figures | {"method": method, "task": task, "seed": seed, "value": value} | more

    rows = [row("ours", "t", 0, 0.1), row("ours", "t", 0, 0.7), row("ours", "t", 1, 0.9), row("full", "u", 0, 0.5)]
    rows += [row("ours", "t", 0, 0.6, set={"seed": "1"}), row("ours", "t", 0, 0.4, few=16), row("ours", "t", 0, 0.5, few=64)]
    found = summaries(rows)
    assert (found[0]["mean"], found[0]["spread"], found[0]["seeds"]) == (0.8, 0.1414, 2)
    assert "\n".join(tables(found)) == (
        "b, bfloat16, cpu, 9 steps\n\n"
        "| method      | t                 | u     | trainable | s | MB | ms |\n"
        "| ----------- | ----------------- | ----- | --------- | - | -- | -- |\n"
        "| ours        | 0.800 ± 0.141 (2) |       | 1,234     | 3 | 5  | 2  |\n"
        "| full        |                   | 0.500 | 1,234     | 3 | 5  | 2  |\n"
        "| ours seed=1 | 0.600             |       | 1,234     | 3 | 5  | 2  |\n\n"
        "b, bfloat16, cpu, 9 steps, t by training rows\n\n"
        "| method | 16    | 64    |\n"
        "| ------ | ----- | ----- |\n"
        "| ours   | 0.400 | 0.500 |\n"
    )
