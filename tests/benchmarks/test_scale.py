"""The scale ladder: which trainings there are, that none is done twice, and the gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.scale import FULL, summaries, tables
from softprompt.bases.base import FrozenBase
from softprompt.compare.search import Budget
from softprompt.progress import Progress
from softprompt.tasks.task import Task
from tests.benchmarks.test_quality import a_task
from tests.models import make_base

pytestmark = pytest.mark.slow

Row = dict[str, Any]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the script on one small task, with methods that do nothing; what was done is in `done`."""

    def run_method(name: str, task: Task, base: FrozenBase, progress: Progress, budget: Budget) -> Row:
        done.append((base.name, name, task.config.prompt_tuning_init, task.config.seed, budget.rates))
        found = {"method": name, "metric": "accuracy", "value": 0.9 if name == FULL else 0.5, "seconds": 1.0}
        return found | {"learning_rate": 7, "settings": {"learning_rate": 7}}

    done: list[Any] = []
    monkeypatch.setattr(scale, "make_tasks", lambda names, seed, changes: [a_task("one", **changes, seed=seed)])
    monkeypatch.setattr(scale, "run_method", run_method)
    monkeypatch.setattr(FrozenBase, "load", lambda source, **_: make_base(source))

    def call(*arguments: str) -> list[Row]:
        done.clear()
        asked = ["scale.py", "--out", str(tmp_path / "rows.jsonl"), "--json", *arguments]
        monkeypatch.setattr("sys.argv", asked)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            scale.main()
        assert end.value.code == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    call.done = done  # type: ignore[attr-defined]
    return call


def test_each_start_is_beside_full_fine_tuning_and_nothing_is_done_twice(call: Any, tmp_path: Path) -> None:
    rows = call("--base", "llama", "gpt2", "--seeds", "2", "--train-rows", "10", "--rates", "2")
    starts = [(FULL, None), ("ours", "RANDOM"), ("ours", "SAMPLE_VOCAB"), ("ours", "TEXT"), ("ours", "LABELS")]
    order = [(f"random/{base}", *start, seed, 2) for base in ("llama", "gpt2") for seed in (0, 1) for start in starts]
    assert call.done == order
    assert [(row["base"], row["method"], row["init"], row["seed"]) for row in rows] == [
        (base.removeprefix("random/"), method, start, seed) for base, method, start, seed, _ in order
    ]
    assert {row["train_rows"] for row in rows} == {10}
    kept = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == rows
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in kept[:7]))
    assert call("--base", "llama", "gpt2", "--seeds", "2", "--train-rows", "10", "--rates", "2") == rows
    assert call.done == order[7:]
    call("--base", "llama", "--train-rows", "10", "--starts", "LABELS", "--rates", "3")
    assert len(call.done) == 2
    found = summaries(rows)
    assert {(row["gap"], row["spread"], row["seeds"]) for row in found} == {(0.4, 0.0, 2)}
    assert len(found) == 8


def test_the_gap_is_of_equal_seeds_and_the_smallest_base_comes_first() -> None:
    def row(base: str, params: int, init: str | None, seed: int, value: float) -> Row:
        known = {"task": "t", "metric": "accuracy", "dtype": "float32", "max_steps": 9, "train_rows": 50}
        return known | {"base": base, "params": params, "init": init, "seed": seed, "value": value}

    rows = [
        row("big", 3_000_000, None, 0, 0.9), row("big", 3_000_000, "LABELS", 0, 0.85),
        row("big", 3_000_000, "LABELS", 1, 0.1), row("small", 1_000_000, None, 0, 0.8),
        row("small", 1_000_000, "RANDOM", 0, 0.5), row("small", 1_000_000, None, 1, 0.9),
        row("small", 1_000_000, "RANDOM", 1, 0.5), row("small", 1_000_000, "RANDOM", 1, 0.4),
    ]  # fmt: skip
    found = summaries(rows)
    assert [(one["base"], one["init"], one["full"], one["prompt"], one["gap"], one["seeds"]) for one in found] == [
        ("small", "RANDOM", 0.85, 0.45, 0.4, 2), ("big", "LABELS", 0.9, 0.85, 0.05, 1),
    ]  # fmt: skip
    assert "\n".join(tables(found)) == (
        "t, accuracy, 9 steps, 50 rows: full fine-tuning, and the gap to it of a prompt from each start\n\n"
        "| base | full | RANDOM | LABELS |\n"
        "| --- | --- | --- | --- |\n"
        "| small (1M, float32) | 0.850 | +0.400 ± 0.141 (2) |  |\n"
        "| big (3M, float32) | 0.900 |  | +0.050 |\n"
    )
