"""Baselines on some of the test rows: which those are, and that a prompt is compared with them on the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.baselines import baselines_of, beside_baselines
from softprompt.evaluation.findings import remarks_on_scores
from softprompt.evaluation.metrics import score
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import BASELINES, SOLVED, Card
from softprompt.rows.sources import Row
from softprompt.tasks.task import Task
from softprompt.training.checkpoint import key_of
from softprompt.training.events import Advanced
from softprompt.training.member import Tuned
from softprompt.training.remarks import remarks_on
from softprompt.training.session import Session
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import runs_of, up_to

_BASE = make_base("llama")


@pytest.fixture
def base() -> FrozenBase:
    return _BASE


def rows(name: str, count: int) -> list[Row]:
    return [{"text": f"the {name} stone {n}", "label": ("yes", "no", "no")[n % 3]} for n in range(count)]


def a_task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "task": "t", "data": {"train": rows("red", 80), "validation": rows("blue", 30), "test": rows("green", 45)},
        "labels": ["yes", "no"], "num_virtual_tokens": 6, "max_steps": 3, "learning_rate": 0.1,
    }  # fmt: skip
    return Task(**{**known, **fields})


def tune(task: Task, base: FrozenBase) -> Tuned:
    (tuned,) = train(task, base=base, publish=False)
    return tuned


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_bound_that_all_rows_keep_within_changes_nothing(base: FrozenBase) -> None:
    whole = tune(a_task(max_eval_samples=None, max_baseline_samples=None), base)
    for task in (a_task(), a_task(max_eval_samples=30, max_baseline_samples=45)):
        tuned = tune(task, base)
        assert plain(tuned.row()) == plain(whole.row())
        assert tuned.prompt.digest == whole.prompt.digest
    assert not {"validation_rows", "max_eval_samples"} & set(whole.prompt.card.recipe)
    assert "baseline_rows" not in whole.prompt.card.metrics
    row = whole.row()
    assert (row["rows"], row["baseline_rows"], row["value_on_baseline_rows"]) == (45, 45, row["value"])


@pytest.mark.parametrize("fields", [{}, {"metric": "f1"}, {"labels": None, "target": " so {label}!", "max_new_tokens": 8}])
def test_baselines_of_some_rows_are_those_of_a_test_set_of_these_rows(base: FrozenBase, fields: dict[str, Any]) -> None:
    """The slow twin: the same training with the drawn rows as its whole test set."""
    task = a_task(max_baseline_samples=20, **fields)
    tuned, drawn = tune(task, base), task.test.part(task.draw(task.test, 20))
    twin = tune(a_task(data={**_data(task), "test": list(drawn)}, **fields), base).row()
    row = tuned.row()
    assert (row["rows"], row["baseline_rows"], row["test_rows"], len(drawn)) == (45, 20, 45, 20)
    for name in BASELINES:
        assert (row[name], row[f"{name}_stderr"]) == (twin[name], twin[f"{name}_stderr"])
    assert row["value_on_baseline_rows"] == twin["value"]
    assert row["learnt"] == twin["learnt"]
    whole = task.encode(base, task.test, 6, split="test")
    trial = Trial(task.form, tuned.prompt.vectors_PD, whole)
    (report,) = result_of(judge(OfflineEngine(architecture_of(base)), [trial]))
    assert (row["value"], row["stderr"]) == (report.value, report.stderr)


def _data(task: Task) -> dict[str, list[Row]]:
    return {"train": list(task.train), "validation": list(task.validation), "test": list(task.test)}


ANSWERS = st.lists(st.sampled_from(["yes", "no"]), min_size=45, max_size=45)


@given(ANSWERS, ANSWERS, ANSWERS, st.integers(1, 50))
def test_a_prompt_is_compared_with_its_baselines_on_their_own_rows(
    said: list[str], zero: list[str], start: list[str], bound: int
) -> None:
    task = a_task(max_baseline_samples=bound)
    test = task.encode(_BASE, task.test, 2, split="test")
    places = task.draw(task.test, bound)

    def report(predictions: list[str], at: Any) -> Report:
        answers = [test.answers[place] for place in at]
        value, stderr = score("accuracy", predictions, answers)
        return Report("accuracy", value, len(answers), 1.0, predictions, stderr)

    of = [report([predictions[place] for place in places], places) for predictions in (zero, start)]
    mine = report(said, range(45))
    scores = beside_baselines(task, test, mine, baselines_of(task, test, of))
    there = report([said[place] for place in places], places).value
    best = max(scores[name] for name in BASELINES)
    card = Card(task="t", base="b", fingerprint="0" * 32, num_virtual_tokens=1, token_dim=1, metrics=scores)
    assert scores["value"] == mine.value
    assert card.learnt == (there > best or there == best >= SOLVED)
    told = [remark for remark in remarks_on_scores("accuracy", scores) if "has not learnt" in remark]
    assert bool(told) != card.learnt
    if bound < 45:
        assert (scores["baseline_rows"], scores["value_on_baseline_rows"]) == (bound, there)
        assert all(remark.endswith(f"; accuracy {there:.3f} on the same {bound} row{'s' * (bound > 1)}") for remark in told)
    else:
        assert not {"baseline_rows", "value_on_baseline_rows"} & set(scores)


def test_a_prompt_that_is_better_on_the_same_rows_has_learnt_though_its_value_on_all_is_lower() -> None:
    metrics = {"value": 0.6, "majority": 0.5, "zero_shot": 0.7, "untrained": 0.4}
    known: dict[str, Any] = {"task": "t", "base": "b", "fingerprint": "0" * 32, "num_virtual_tokens": 1, "token_dim": 1}
    there = metrics | {"baseline_rows": 20, "value_on_baseline_rows": 0.75}
    assert Card(**known, metrics=metrics).learnt is False
    assert Card(**known, metrics=there).learnt is True
    assert remarks_on_scores("accuracy", there) == []
    lower = there | {"value": 0.9, "value_on_baseline_rows": 0.65}
    assert Card(**known, metrics=lower).learnt is False
    words = "it has not learnt: worse than the zero-shot text (0.700); accuracy 0.650 on the same 20 rows"
    assert remarks_on_scores("accuracy", lower) == [words]
    solved = there | {"zero_shot": 0.99, "value_on_baseline_rows": 1.0}
    words = "the zero-shot text already solves the task (accuracy 0.990 on 20 rows): little is left to tune for"
    assert remarks_on_scores("accuracy", solved) == [words]


# Validations


def test_a_bounded_validation_says_which_rows_choose(base: FrozenBase) -> None:
    task = a_task(max_eval_samples=12)
    (run,) = runs_of(base, [task])
    (note,) = [message for message, _ in remarks_on(base, run) if "rate" in message]
    assert note.endswith("the best prompt by 12 of 30 validation rows (max_eval_samples) is kept")
    tuned, chosen = tune(task, base), list(task.validation)
    assert tuned.row()["validation_rows"] == 12
    assert tuned.prompt.card.recipe["validation_rows"] == 12
    twin = tune(a_task(data={**_data(a_task()), "validation": chosen}), base)
    assert (tuned.history, tuned.report) == (twin.history, twin.report)


def test_runs_of_the_same_rows_have_each_its_own_bound(base: FrozenBase) -> None:
    task = a_task()
    runs = runs_of(base, [task, task.variant(max_eval_samples=12), task.variant(seed=1)])
    assert [len(run.validation) for run in runs] == [30, 12, 30]


def test_a_version_remembers_that_all_rows_were_asked_for(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    task = a_task(max_eval_samples=None, max_baseline_samples=None)
    train([task, a_task(task="other", max_eval_samples=12)], base=base, library=library)
    origin, other = (library.registry.origin(f"{name}@1") for name in ("t", "other"))
    assert origin is not None
    assert other is not None
    assert (origin.task_file["max_eval_samples"], origin.task_file["max_baseline_samples"]) == (None, None)
    assert (other.task_file["max_eval_samples"], other.task_file["max_baseline_samples"]) == (12, 256)
    assert [split["rows"] for split in other.data] == [80, 12, 45]


# Checkpoints


def test_other_bounds_take_the_checkpoint_of_a_run_that_they_leave_as_it_is(base: FrozenBase) -> None:
    tasks = [a_task(), a_task(max_eval_samples=None, max_baseline_samples=3), a_task(max_eval_samples=12)]
    one, same, other = (key_of(base, run) for run in runs_of(base, tasks))
    assert one == same != other


@pytest.mark.parametrize(
    ("first", "second", "measured", "count"), [(20, 20, False, 20), (20, None, True, 45), (None, 20, False, 45)]
)
def test_baselines_of_a_checkpoint_are_kept_where_they_are_of_rows_enough(
    base: FrozenBase, tmp_path: Path, first: int | None, second: int | None, measured: bool, count: int
) -> None:
    library = Library.open(tmp_path / "home")
    session = Session(architecture_of(base), library=library, every=0.0)
    session.add(a_task(max_baseline_samples=first))
    assert list(up_to(session, 1))
    again = Session(architecture_of(base), library=library)
    member = again.add(a_task(max_baseline_samples=second))
    stages = [event.stage for event in again.run() if isinstance(event, Advanced)]
    assert ("baselines" in stages) == measured
    assert member.tuned is not None
    fresh = tune(a_task(max_baseline_samples=None if count == 45 else count), base)
    assert member.tuned.row()["baseline_rows"] == count
    assert member.tuned.prompt.digest == fresh.prompt.digest


@pytest.mark.parametrize("key", ["max_eval_samples", "max_baseline_samples"])
@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "all"])
def test_a_bound_that_is_none_is_refused(key: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        a_task(**{key: wrong})
