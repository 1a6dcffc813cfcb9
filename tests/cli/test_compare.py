"""The command compare: a row for each method as soon as it is known, and what is wrong told before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_train import task_file
from tests.commands import Run

FIELDS = {"method", "metric", "value", "trainable", "bytes", "seconds", "peak_mb", "latency_ms", "task", "seed", "steps"}


def test_each_method_has_a_row(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = task_file(tmp_path, base_folder)
    done = run(
        "compare", file, "--max-steps", "2", "--methods", "lora,full", "--methods", "zero_shot", "--rates", "1", "--json"
    )
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert [row["method"] for row in rows] == ["lora", "full", "zero_shot"]
    assert [row["steps"] for row in rows] == [2, 2, 0]
    assert all(row.keys() >= FIELDS for row in rows)
    assert "lora, 1 of 3 methods" in done.err
    assert "train: 100%" in done.err
    assert not home.exists()


def test_methods_may_stand_one_behind_another(run: Run, tmp_path: Path, base_folder: Path) -> None:
    done = run("compare", task_file(tmp_path, base_folder), "--methods", "zero_shot", "few_shot", "--json")
    assert [json.loads(line)["method"] for line in done.out.splitlines()] == ["zero_shot", "few_shot"]


def test_people_see_a_table_that_fits(run: Run, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run(
        "compare",
        task_file(tmp_path, base_folder),
        "--methods",
        "peft_prompt_tuning_ours,full",
        "--max-steps",
        "1",
        "--rates",
        "1",
    )
    assert "mine: accuracy on test rows" in done.out
    assert "peft_prompt_tuning_ours" in done.out
    assert "±" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_wrong_method_is_told_before_the_base_is_looked_for(run: Run, tmp_path: Path) -> None:
    file = task_file(tmp_path, tmp_path / "nowhere")
    assert "there is no method 'lorra'; did you mean 'lora'?" in run("compare", file, "--methods", "lorra").refused()
    assert "there is no method 'other.yaml'" in run("compare", file, "other.yaml").refused()


def test_the_decision_is_in_the_last_row_the_page_and_the_terminal(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file, page = task_file(tmp_path, base_folder), tmp_path / "page.html"
    asked = ("compare", file, "--methods", "zero_shot,ours", "--max-steps", "2", "--rates", "2")
    rows = run(*asked, "--html", page, "--json").rows
    assert [row["method"] for row in rows] == ["zero_shot", "ours"]
    assert rows[0]["decision"] is None
    assert len(rows[1]["rates"]) == 2
    assert rows[1]["decision"].startswith("The best is ")
    assert rows[1]["decision"].split(",")[0] in page.read_text(encoding="utf-8")
    done = run(*asked)
    assert "The best is" in done.out
    assert "ours: rates " in done.out


def test_two_budgets_are_refused(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file = task_file(tmp_path, base_folder)
    refused = run("compare", file, "--max-steps", "3", "--max-seconds", "2").refused()
    assert "max_steps 3 and max_seconds 2 are two budgets; give one" in refused
