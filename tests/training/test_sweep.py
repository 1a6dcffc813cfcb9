"""Sweeps: candidates of one task in one bank."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, DataError, NameRefused, TrainingError
from softprompt.evaluation.trials import Report
from softprompt.model.architecture import architecture_of
from softprompt.progress import Advance, Silent
from softprompt.tasks.task import Task
from softprompt.training.events import Stepped
from softprompt.training.prepare import Preparer
from softprompt.training.session import Session
from softprompt.training.sweep import Halving, make_grid, rungs_for, sweep, write_page
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import Untrained, runs_of, train_bank


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    rows = [
        {"text": f"the {colour} {thing} {number}", "label": "good" if colour == "red" else "bad"}
        for number in range(12)
        for colour in ("red", "blue")
        for thing in ("apple", "stone", "river")
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Task(
        task="colours",
        data=str(file),
        labels=["good", "bad"],
        num_virtual_tokens=6,
        max_steps=12,
        per_device_train_batch_size=8,
        eval_per_epoch=3,
    )


def test_the_grid_has_every_combination_once_and_samples_are_among_them() -> None:
    choices = {"learning_rate": [0.1, 0.2, 0.3], "seed": [0, 1]}
    grid = make_grid(choices)
    assert len(grid) == 6
    assert len({tuple(sorted(point.items())) for point in grid}) == 6
    some = make_grid(choices, samples=4, seed=1)
    assert len(some) == 4
    assert all(point in grid for point in some)
    assert some == make_grid(choices, samples=4, seed=1)
    assert some == random.Random(1).sample(grid, 4)
    assert grid[:3] == [
        {"learning_rate": 0.1, "seed": 0},
        {"learning_rate": 0.1, "seed": 1},
        {"learning_rate": 0.2, "seed": 0},
    ]


def test_few_samples_of_a_grid_too_large_to_be_written_out() -> None:
    choices = {f"key{n}": list(range(100)) for n in range(9)}
    some = make_grid(choices, samples=5)
    assert len(some) == len({tuple(point.values()) for point in some}) == 5
    assert all(point.keys() == choices.keys() for point in some)


def test_the_survivor_equals_that_candidate_trained_alone(base: FrozenBase, task: Task) -> None:
    swept = sweep(task, {"learning_rate": [0.003, 0.1], "num_virtual_tokens": [6, 9]}, base=base)
    best = swept.candidates[0]
    alone = sweep(
        task,
        {"learning_rate": [best["learning_rate"]], "num_virtual_tokens": [best["num_virtual_tokens"]]},
        base=base,
    )
    assert (swept.tuned.prompt.vectors_PD - alone.tuned.prompt.vectors_PD).abs().max() < 1e-4
    assert swept.tuned.prompt.card.recipe["sweep"] == swept.candidates


def test_every_candidate_of_a_mixed_bank_equals_itself_alone(base: FrozenBase, task: Task) -> None:
    grid = make_grid(
        {
            "prompt_tuning_init": ["LABELS", "RANDOM", "SAMPLE_VOCAB"],
            "num_virtual_tokens": [5, 9],
            "learning_rate": [0.01, 0.05],
            "optim": ["adamw", "adafactor"],
            "weight_decay": [0.0, 0.1],
            "encoder_reparameterization_type": [None, "RESIDUAL"],
            "encoder_hidden_size": [3, 8],
            "seed": [0, 1],
        },
        samples=8,
        seed=2,
    )
    assert all(len({point[key] for point in grid}) > 1 for key in grid[0])
    # Few steps: a random base is steep, and doubles a difference of rounding at every step.
    tasks = [task.variant(**{**point, "max_steps": 3}) for point in grid]
    together = runs_of(base, tasks)
    train_bank(architecture_of(base), together)
    for one, candidate in zip(tasks, together, strict=True):
        (alone,) = runs_of(base, [one])
        train_bank(architecture_of(base), [alone])
        assert candidate.best_PD is not None
        assert alone.best_PD is not None
        torch.testing.assert_close(candidate.best_PD, alone.best_PD, rtol=0, atol=1e-4)
        assert not torch.allclose(alone.best_PD, alone.start_PD, rtol=0, atol=1e-3)
        assert candidate.history[-1] == pytest.approx(alone.history[-1], abs=1e-3)


def test_candidates_that_are_never_right_are_told_apart_by_their_loss(base: FrozenBase, task: Task) -> None:
    never = task.variant(labels=None, target=" {text}", max_new_tokens=24, max_steps=6, eval_per_epoch=3)
    with warnings.catch_warnings(action="ignore"):  # the slowest barely moves
        swept = sweep(never, {"learning_rate": [1e-5, 0.1, 1e-4]}, base=base)
    assert {row["validation"] for row in swept.candidates} == {0}
    best = [min(row["validation_loss"] for row in history) for history in swept.histories]
    assert best[0] == min(best) < max(best)
    recipe = swept.tuned.prompt.card.recipe
    losses = {row["step"]: row["validation_loss"] for row in swept.histories[0]}
    assert losses[recipe["best_step"]] == min(losses.values())


def test_candidates_that_cannot_be_compared_are_refused(base: FrozenBase, task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="by one metric, and these have accuracy, f1"):
        sweep(task, {"metric": ["accuracy", "f1"]}, base=base, progress=Untrained())
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"a {n}", "label": "good"}) + "\n" for n in range(40)))
    files = [str(tmp_path / "rows.jsonl"), str(other)]
    with pytest.raises(ConfigError, match="on the same validation rows, and these have others; give `data"):
        sweep(task, {"data": files}, base=base, progress=Untrained())
    with pytest.raises(ConfigError, match=r"on the same validation rows, and these have others; give .* one value"):
        sweep(task, {"max_eval_samples": [4, None]}, base=base, progress=Untrained())
    fixed = [{"train": file, "validation": files[0], "test": files[0]} for file in files]
    with warnings.catch_warnings(action="ignore"):  # of what the files share
        assert len(sweep(task.variant(max_steps=2), {"data": fixed}, base=base).candidates) == 2


class Texts(Silent):
    """A progress that keeps what is shown beside the bars."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda steps, text: self.texts.setdefault(name, []).append(text)


def test_a_bar_has_no_score_before_the_first_validation_and_counts_all(base: FrozenBase, task: Task) -> None:
    progress = Texts()
    one = task.variant(max_steps=6, per_device_train_batch_size=16, eval_per_epoch=1)
    sweep(one, {"seed": [0, 1, 2]}, base=base, progress=progress)
    assert progress.texts["sweep"][0] == "3 candidates"
    assert progress.texts["sweep"][-1].startswith("1 candidates, best ") or ", best " in progress.texts["sweep"][-1]
    tasks = [Task(one.config.model_copy(update={"task": f"t{n}", "max_steps": 3 if n else 6})) for n in range(5)]
    train(tasks, base=base, progress=progress)
    shown = progress.texts["train"]
    assert shown[0] == "0 of 5 done"
    assert shown[1].startswith("0 of 5 done, loss ")
    assert any(text.startswith("4 of 5 done, mean ") for text in shown)
    progress.texts.clear()
    train(tasks[0], base=base, progress=progress)
    assert progress.texts["train"][-1].startswith("accuracy ")


def test_half_of_the_candidates_is_dropped_at_each_rung(base: FrozenBase, task: Task) -> None:
    swept = sweep(task, {"seed": list(range(8))}, base=base, rungs=(0.25, 0.5))
    steps = sorted(row["steps"] for row in swept.candidates)
    assert sum(row["dropped"] for row in swept.candidates) == 6
    assert steps[-2:] == [12, 12]
    assert steps[0] < steps[4] < 12
    kept = [row["validation"] for row in swept.candidates if not row["dropped"]]
    assert swept.candidates[0]["validation"] == max(kept)


def test_more_candidates_are_dropped_earlier_and_twice_as_many_cost_one_whole_run_more() -> None:
    assert rungs_for(1) == rungs_for(2) == rungs_for(8) == (0.25, 0.5)
    assert rungs_for(9) == rungs_for(16) == (0.125, 0.25, 0.5)
    assert rungs_for(17) == rungs_for(500) == (0.0625, 0.125, 0.25, 0.5)
    costs = []
    for count in (8, 16, 32):
        stages, living, cost = [0.0, *rungs_for(count), 1.0], count, 0.0
        for began, ended in pairwise(stages):
            cost, living = cost + living * (ended - began), (living + 1) // 2
        costs.append(cost)
    assert costs == [4, 5, 6]


def test_a_sweep_of_many_drops_them_as_their_number_asks(base: FrozenBase, task: Task) -> None:
    swept = sweep(task, {"seed": list(range(9))}, base=base)
    assert sum(not row["dropped"] for row in swept.candidates) == 2  # 9, 5, 3, 2
    few = sweep(task, {"seed": list(range(3))}, base=base)
    assert sum(not row["dropped"] for row in few.candidates) == 1  # 3, 2, 1


def test_without_rungs_every_candidate_runs_to_its_end(base: FrozenBase, task: Task) -> None:
    swept = sweep(task, {"learning_rate": [0.001, 0.1], "max_steps": [3, 5]}, base=base, rungs=())
    assert sorted(row["steps"] for row in swept.candidates) == [3, 3, 5, 5]
    assert not any(row["dropped"] for row in swept.candidates)


def test_a_candidate_that_fails_loses_and_the_others_go_on(base: FrozenBase, task: Task) -> None:
    # Such a decay throws a vector past all numbers in a few steps.
    swept = sweep(task, {"weight_decay": [1e38, 0.0]}, base=base)
    assert [row["weight_decay"] for row in swept.candidates] == [0.0, 1e38]
    assert [row["dropped"] for row in swept.candidates] == [False, True]
    with pytest.raises(TrainingError, match="no candidate"):
        sweep(task, {"weight_decay": [1e38]}, base=base)


def test_wrong_choices_are_refused_before_training(base: FrozenBase, task: Task) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        sweep(task, {"learning_rat": [0.1]}, base=base)
    with pytest.raises(ConfigError, match="nothing to sweep over"):
        sweep(task, {}, base=base)
    with pytest.raises(NameRefused, match="'a/b'"):
        sweep(task, {"task": ["a/b"], "max_steps": [1]}, base=base)
    for samples in (0, -1):
        with pytest.raises(ConfigError, match=f"{samples} samples are none; draw at least one"):
            sweep(task, {"seed": [0, 1]}, samples=samples, base=base)


def test_a_wrong_label_among_the_test_rows_is_told_before_training(base: FrozenBase, task: Task, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "the red apple", "label": "fair"}\n')
    data = {"train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
    with pytest.raises(DataError, match="fair"):
        sweep(task.variant(data=data), {"seed": [0, 1]}, base=base, progress=Untrained())


def test_a_sweep_in_several_processes_is_refused_for_each_would_publish(
    base: FrozenBase, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a sweep runs in one process, and 2 were started"):
        sweep(task, {"seed": [0, 1]}, base=base)


def report(value: float, loss: float = 0.0) -> Report:
    return Report("accuracy", value, 10, loss, [])


class Judging(Session):
    """Of no base: what candidates are worth now is said by them."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []

    def drop(self, member: Any) -> None:
        member.run.dropped = True

    def judge(self, members: Any) -> list[Report | None]:
        self.asked.append([*members])
        return [member.now for member in members]


def candidate(best: float | None, now: Report | None, **fields: Any) -> Any:
    known = {"step": 5, "total": 10, "running": True, "dropped": False, "failure": None, "history": [], "rung": None}
    own = {"best": None if best is None else report(best)}
    return SimpleNamespace(run=SimpleNamespace(**{**known, **own, **fields}), error=None, now=now)


def test_a_candidate_that_stopped_early_does_not_keep_the_others_from_their_rungs() -> None:
    members = [
        candidate(0.9, None, step=1, running=False),
        candidate(0.8, report(0.1)),
        candidate(0.7, report(0.75)),
        candidate(None, report(0.6), step=2),
    ]
    session = Judging()
    halving = Halving(session, members, (0.25,))
    halving.heed(Stepped(()))
    assert not any(one.run.dropped for one in members), "one has not come as far and wants to go on"
    members[3].run.step = 3
    halving.heed(Stepped(()))
    assert [one.run.dropped for one in members] == [False, False, True, True]
    assert [one.run.rung.value for one in members] == [0.9, 0.8, 0.75, 0.6]
    assert session.asked == [members[1:]], "one that has ended stays what it is"
    halving.heed(Stepped(()))
    assert len(session.asked) == 1


def test_a_candidate_that_gives_no_numbers_at_a_rung_goes_by_what_it_was_and_none_is_judged_twice_at_a_step() -> None:
    members = [
        candidate(None, None),
        candidate(0.5, None),
        candidate(0.4, report(0.9), history=[{"step": 5}]),
        candidate(None, report(0.45)),
    ]
    session = Judging()
    Halving(session, members, (0.25, 0.5)).heed(Stepped(()))
    assert [one.run.dropped for one in members] == [True, False, True, True], "both rungs are passed at once"
    assert session.asked == [[members[0], members[1], members[3]]]


def test_losers_go_at_the_rung_and_not_at_their_next_validation(base: FrozenBase, task: Task) -> None:
    task = task.variant(max_steps=16, eval_per_epoch=None, per_device_train_batch_size=2)
    assert runs_of(base, [task])[0].validations < 3, "long epochs, so that the first validation comes behind the rungs"
    grid = {"seed": [0, 1, 2], "learning_rate": [0.01, 0.02, 0.05]}
    swept = sweep(task, grid, base=base, publish=False)
    assert sorted(row["steps"] for row in swept.candidates) == [2, 2, 2, 2, 4, 4, 8, 16, 16]
    assert all(row["validation"] is not None for row in swept.candidates)
    losers = [len(history) for row, history in zip(swept.candidates, swept.histories, strict=True) if row["dropped"]]
    assert sum(losers) == 0, "what a rung saw is no validation of theirs"
    winner = {key: swept.candidates[0][key] for key in grid}
    (alone,) = train(task.variant(**winner), base=base, publish=False)
    assert swept.tuned.prompt.card.metrics["validation"] == alone.prompt.card.metrics["validation"]
    assert (swept.tuned.prompt.vectors_PD - alone.prompt.vectors_PD).abs().max() < 1e-4


def test_the_page_of_curves_holds_every_candidate_and_needs_no_network(tmp_path: Path) -> None:
    candidates = [{"learning_rate": 0.1, "steps": 2, "validation": 0.5, "dropped": False}]
    page = write_page(tmp_path / "curves.html", "colours", candidates, [[{"step": 1, "value": 0.5, "loss": 1.0}]])
    text = page.read_text()
    assert "learning_rate 0.1" in text
    assert "<script src=" not in text


@pytest.mark.parametrize("values", ["adamw", 0.1, None, {"a": 1}])
def test_what_is_no_list_of_choices_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"the choices of 'optim' are .*; give a list of values"):
        make_grid({"optim": values})


def test_candidates_that_ask_otherwise_of_the_same_rows_are_each_trained_for_their_own(base: FrozenBase) -> None:
    """What an objective needs of a row is found once for all candidates that share it, and for no others."""
    rows = [{"text": f"red {n}", "chosen": "good", "rejected": "bad", "worse": "false"} for n in range(70)]
    preparer = Preparer(base)

    def pairs(**changes: Any) -> tuple[Any, Any]:
        run, _ = preparer.prepare(pair.variant(**changes), None)
        return run.targets[0], run.train

    pair = Task(task="pairs", data=rows, objective="preference", num_virtual_tokens=3, max_steps=2)
    (mild, train), (same, alike), (steep, _) = pairs(), pairs(seed=1), pairs(preference_beta=0.9)
    assert (mild.beta, same.beta, steep.beta) == (0.1, 0.1, 0.9)
    assert train is alike
    assert pairs(rejected="worse")[0].answers[1] != mild.answers[1]
    pair = Task(
        task="away", data=rows, target=" {chosen}", objective="unlikelihood", unwanted="rejected", num_virtual_tokens=3,
        max_steps=2,
    )  # fmt: skip
    found = [pairs(**changes)[0] for changes in ({}, {"unwanted_weight": 3.0}, {"unwanted": "worse"})]
    assert [one.weight for one in found] == [1.0, 3.0, 1.0]
    assert [one.said for one in found] == ["bad", "bad", "false"]
