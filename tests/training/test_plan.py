"""Plans: what a training is going to do, and what it takes, with nothing trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, DataError
from softprompt.library.library import Library
from softprompt.rows.sources import Row
from softprompt.tasks.task import Task
from softprompt.training import plan as planning
from softprompt.training.objectives.teacher import Teacher
from softprompt.training.plan import JUDGED, plan
from softprompt.training.steps.loop import Stepper
from softprompt.training.train import train
from tests.models import make_base, weights_digest
from tests.sessions import runs_of

WORDS = ("red", "blue", "the", "stone")


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def rows(count: int, *, alike: bool = False) -> list[Row]:
    """Rows of several lengths, or of one."""
    texts = [f"red {n:04d}" if alike else f"{WORDS[n % 4]} {n:04d}{' stone' * (n % 7)}" for n in range(count)]
    return [{"text": text, "label": ("yes", "no")[n % 2]} for n, text in enumerate(texts)]


def a_task(name: str = "t", data: Any = None, **fields: Any) -> Task:
    known: dict[str, Any] = {
        "task": name, "data": data or {"train": rows(80), "validation": 0.1}, "labels": ["yes", "no"],
        "num_virtual_tokens": 6, "per_device_train_batch_size": 8, "max_steps": 9, "learning_rate": 0.1,
    }  # fmt: skip
    return Task(**{**known, **fields})


RECIPES: list[dict[str, Any]] = [
    {},
    {"max_steps": 1},
    {"max_steps": None, "num_train_epochs": 1.5, "eval_per_epoch": 3},
    {"per_device_train_batch_size": 500, "max_steps": 4},
    {"max_eval_samples": 4, "max_baseline_samples": 5},
    {"data": rows(40), "max_steps": 11},
    {"labels": None, "target": " so {label}", "max_new_tokens": 8},
]


@pytest.mark.parametrize("fields", RECIPES)
def test_a_plan_says_what_the_training_then_does(base: FrozenBase, fields: dict[str, Any]) -> None:
    task = a_task(**fields)
    (row,) = plan(task, base=base)
    (tuned,) = train(task, base=base, publish=False)
    done, card = tuned.row(), tuned.prompt.card
    assert (row["task"], row["steps"], row["validations"]) == (done["task"], done["steps"], len(tuned.history))
    for name in ("train_rows", "validation_rows", "test_rows", "baseline_rows", "folds"):
        assert row[name] == done[name]
    for name in ("learning_rate", "objective", "prompt_tuning_init"):
        assert row[name] == card.recipe[name]
    assert row["rows_per_step"] == min(task.config.per_device_train_batch_size, len(task.train))
    parts = [row[f"{part}_seconds"] for part in ("ask", "train", "baseline", "validation", "test")]
    assert min(parts) >= 0 < row["seconds"] == pytest.approx(sum(parts), abs=0.03)
    assert row["peak_mb"] > 0
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("fields", [{}, {"per_device_train_batch_size": 7}, {"objective": "label_scoring"}])
def test_tokens_of_a_step_are_the_mean_over_an_epoch(base: FrozenBase, fields: dict[str, Any]) -> None:
    (run,) = runs_of(base, [a_task(**fields)])
    expected, batches = run.tokens, []
    while sum(map(len, batches)) < len(run.train):
        batches.append(run.batch(0))
        run.step += 1
    assert expected == pytest.approx(6 + sum(row.length for batch in batches for row in batch) / len(batches))


def files_in(folder: Path) -> dict[Path, bytes]:
    """All files, but for what SQLite keeps of those who read."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.suffix != ".db-shm"}


def test_a_plan_takes_two_steps_of_all_tasks_and_leaves_nothing(
    base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.open(tmp_path / "home")
    train(a_task("parent"), base=base, library=library)
    before, weights = files_in(tmp_path), weights_digest(base)
    took: list[int] = []
    take = Stepper.take

    def counted(self: Stepper, bank: Any, runs: Any) -> list[int]:
        took.append(len(active := take(self, bank, runs)))
        return active

    monkeypatch.setattr(Stepper, "take", counted)
    monkeypatch.setattr(Stepper, "step", None)
    tasks = [a_task("one", max_steps=1), a_task("folded", rows(40)), a_task("two", prompt_tuning_init_prompt="parent")]
    found = plan(tasks, base=base, library=library)
    assert [row["task"] for row in found] == ["one", "folded", "two"]
    assert took == [7, 7], "the folds are steps of their task"
    assert files_in(tmp_path) == before
    assert weights_digest(base) == weights


def test_a_plan_makes_no_home(base: FrozenBase, tmp_path: Path) -> None:
    plan(a_task(), base=base)
    assert list(tmp_path.iterdir()) == []


class OneSecond:
    """A meter that finds that everything takes a second and a gigabyte."""

    seconds, peak_mb = 1.0, 1024.0

    def __init__(self, base: FrozenBase) -> None:
        pass

    def __enter__(self) -> OneSecond:
        return self

    def lap(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def test_times_are_those_of_the_measured_step_and_rows(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(planning, "Meter", OneSecond)
    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    alike = rows(2000, alike=True)
    files = {"train": alike[:320], "validation": alike[320:800], "test": alike[800:]}
    tasks = [a_task("one", files), a_task("half", files, per_device_train_batch_size=4, max_steps=161, instruction="")]
    one, half = plan(tasks, base=base)
    assert one["step_seconds"] + half["step_seconds"] == pytest.approx(1, abs=1e-3)
    ratio = one["tokens_per_step"] / half["tokens_per_step"]
    assert 1.2 < ratio < 2, "a prompt takes its tokens whatever its rows"
    assert one["step_seconds"] / half["step_seconds"] == pytest.approx(ratio, rel=0.05)
    for row in (one, half):
        assert row["train_seconds"] == pytest.approx(row["steps"] * row["step_seconds"], rel=1e-2)
        assert row["test_seconds"] == pytest.approx(1200 / JUDGED, rel=1e-2)
        assert row["peak_mb"] == 1024
    # 9 steps of 40 in an epoch, and 161 of 80.
    assert (one["validations"], half["validations"]) == (1, 3)
    assert one["validation_seconds"] == pytest.approx(256 / JUDGED, rel=1e-2)
    assert half["validation_seconds"] == pytest.approx(3 * 256 / JUDGED, rel=1e-2)
    assert half["baseline_seconds"] >= 2 * 256 / JUDGED - 0.01


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({"objective": "distillation", "instruction": "say yes to red"}, (Teacher, "_scores")),
        ({"objective": "distillation", "instruction": "say", "labels": None, "max_new_tokens": 4}, (Teacher, "_writes")),
        ({"objective": "preference", "rejected": "other", "target": " {label}"}, (OfflineEngine, "score")),
    ],
)
def test_the_base_is_asked_for_a_few_rows_alone(
    base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], asks: tuple[type, str]
) -> None:
    honest, asked = getattr(*asks), list[int]()

    def counted(self: Any, prompts: Any, which: Any, inputs: Any, *labels: Any) -> Any:
        asked.append(len(inputs))
        return honest(self, prompts, which, inputs, *labels)

    monkeypatch.setattr(*asks, counted)
    clock = iter(range(1000))
    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    library = Library.open(tmp_path / "home")
    some = [row | {"other": "no" if row["label"] == "yes" else "yes"} for row in rows(200)]
    (row,) = plan(a_task(data={"train": some, "validation": 0.1}, **fields), base=base, library=library)
    assert asked[0] == JUDGED
    assert asks[0] is OfflineEngine or len(asked) == 1, "which judges, too"
    assert row["ask_seconds"] == pytest.approx(200 / JUDGED, rel=1e-2), "one chunk of so many rows takes a second"
    assert not (library.runs / "teachers").exists()


def test_a_step_that_fails_is_told_with_its_plan(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Stepper.take

    def failing(self: Stepper, bank: Any, runs: Any) -> list[int]:
        active = take(self, bank, runs)
        runs[1].fail("the loss is no number at step 1")
        return active

    monkeypatch.setattr(Stepper, "take", failing)
    with pytest.warns(UserWarning, match="bad: the loss is no number at step 1; lower learning_rate"):
        one, bad = plan([a_task("one"), a_task("bad")], base=base)
    assert (one["steps"], bad["steps"]) == (9, 9)


def test_what_is_wrong_with_a_task_is_told_as_by_its_training(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    for fields, error in (
        ({"labels": ["yes", "nein"]}, DataError),
        ({"input": "{txt}"}, DataError),
        ({"num_virtual_tokens": 95}, Exception),
        ({"max_steps": 0}, ConfigError),
    ):
        told = []
        for call in (train, plan):
            with pytest.raises(error) as caught:
                call([a_task("a"), a_task("b", **fields)], base=base)
            told.append(str(caught.value))
        assert told[0] == told[1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a plan is made in one process, and 2 were started"):
        plan(a_task(), base=base)
