"""Prompts on parts of a task's rows, trained in one bank and combined into one version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.compare.compare import compare
from softprompt.errors import ConfigError
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.rows.sources import digest_rows
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base

ROWS = [{"text": f"{word} {n}", "label": label} for n in range(60) for word, label in (("red", "yes"), ("blue", "no"))]


def a_task(**fields: Any) -> Task:
    known = {"task": "t", "labels": ["yes", "no"], "num_virtual_tokens": 6, "max_steps": 3, "learning_rate": 0.03}
    return Task(**({"data": ROWS, "per_device_train_batch_size": 8} | known | fields))


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def test_subsets_share_the_training_rows_out_and_keep_the_others() -> None:
    task = a_task()
    parts = task.subsets(3)
    found = [row["text"] for part in parts for row in part.train]
    assert sorted(found) == sorted(row["text"] for row in task.train)
    sizes = [len(part.train) for part in parts]
    assert max(sizes) - min(sizes) <= 2
    for part in parts:
        labels = [row["label"] for row in part.train]
        assert abs(labels.count("yes") - labels.count("no")) <= 2
        assert (part.validation, part.test) == (task.validation, task.test)
        assert part.name == "t"
    shuffled = Task(task="t", labels=["yes", "no"], data=ROWS[::-1]).subsets(3)
    contents = [[{row["text"] for row in part.train} for part in some] for some in (parts, shuffled)]
    assert contents[0] == contents[1]


def test_prompts_on_subsets_become_an_ensemble_of_one_training(tmp_path: Path, base: FrozenBase) -> None:
    with Library.open(tmp_path / "home") as library:
        task = a_task()
        (before,) = train(task, base=base, library=library)
        (tuned,) = train(task, base=base, library=library, subsets=3)
        versions = library.registry.versions("t")
        assert [version.number for version in sorted(versions, key=lambda one: one.number)] == [1, 2, 3, 4, 5]
        assert (before.version, tuned.version) == (1, 5)
        card = tuned.prompt.card
        assert card.recipe["combined"] == "ensemble"
        assert card.parents == tuple(library.registry.resolve(f"t@{n}").digest for n in (2, 3, 4))
        assert tuned.live is not None
        assert tuned.live.version == 1
        (judged,) = evaluate(["t"], library=library, data=list(task.test), base=base)
        assert (judged.version, judged.value) == (5, tuned.report.value)
        assert tuned.rows == (len(task.train), len(task.validation), len(task.test))
        row = tuned.row()
        assert (row["version"], row["value"], row["test_rows"], row["steps"]) == (5, judged.value, len(task.test), None)
        json.dumps(row)
        # Each is what its rows alone would have made.
        for number, part in zip((2, 3, 4), task.subsets(3), strict=True):
            (alone,) = train(part, base=base, publish=False)
            kept = SoftPrompt.from_bytes(library.read(f"t@{number}"))
            torch.testing.assert_close(kept.vectors_PD, alone.prompt.vectors_PD, rtol=0, atol=1e-4)
            origin = library.registry.origin(f"t@{number}")
            assert origin is not None
            assert origin.data[0]["digest"] == digest_rows(part.train)


def test_prompts_that_write_become_their_mean_as_the_task_file_says(tmp_path: Path, base: FrozenBase) -> None:
    with Library.open(tmp_path / "home") as library:
        data = {"train": ROWS, "subsets": 2}
        task = a_task(labels=None, target=" {label}", max_new_tokens=2, data=data, max_steps=1)
        (tuned,) = train(task, base=base, library=library)
        parts = [SoftPrompt.from_bytes(library.read(f"t@{number}")).vectors_PD for number in (1, 2)]
        assert tuned.prompt.card.recipe["combined"] == "average"
        torch.testing.assert_close(tuned.prompt.vectors_PD, (parts[0] + parts[1]) / 2)


def test_numbers_of_subsets_lie_in_the_range_of_all_rows() -> None:
    rows = [{"text": f"red {n}", "label": n} for n in range(100)]
    task = a_task(labels=None, data={"train": rows, "validation": 0.1}, problem_type="regression")
    numbers = [float(row["label"]) for row in task.train]
    assert {part.form.answer_range for part in task.subsets(4)} == {(min(numbers), max(numbers))}


def test_subsets_that_cannot_be_are_refused(tmp_path: Path, base: FrozenBase) -> None:
    with pytest.raises(
        ConfigError, match="40 training rows are so few that each is held out in turn, which subsets are not; say"
    ):
        a_task(data={"train": ROWS[:40], "test": ROWS[40:]}).subsets(2)
    with pytest.raises(ConfigError, match="6 training rows are too few for 9 subsets"):
        a_task(data={"train": ROWS[:6], "validation": ROWS[6:12], "test": ROWS[12:]}).subsets(9)
    with pytest.raises(ConfigError, match="subsets are combined in a library, and publish is False"):
        train(a_task(), base=base, publish=False, subsets=2)
    with Library.open(tmp_path / "home") as library:  # before anything is trained
        with pytest.raises(ConfigError, match="subsets are combined, and prefixes cannot be; leave subsets out"):
            train(a_task(prompt_type="prefix"), base=base, library=library, subsets=2)
        unanswered = [{"text": row["text"]} for row in ROWS]
        distilled = {"objective": "distillation", "instruction": "Say yes or no."}
        with pytest.raises(ConfigError, match="judged on test rows, and some of them have no answer"):
            train(a_task(data={"train": ROWS, "test": unanswered}, **distilled), base=base, library=library, subsets=2)
        assert library.registry.tasks() == []
    with pytest.raises(ConfigError, match="1 is no number of subsets; give 2 or more"):
        train(a_task(), base=base, library=Library.open(tmp_path / "home"), subsets=1)
    with pytest.raises(ConfigError, match=r"data\.subsets is of `softprompt train` alone"):
        compare(a_task(data={"train": ROWS, "subsets": 2}), base=base, methods=["ours"])
    with pytest.raises(ConfigError, match=r"data\.subsets"):
        a_task(data={"train": ROWS, "subsets": 1})


def test_the_command_prints_one_row_for_each_task(run: Run, home: Path, tmp_path: Path, base_folder: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "t.yaml").write_text(
        f"base: {base_folder}\ndata: rows.jsonl\nlabels: ['yes', 'no']\nnum_virtual_tokens: 6\nmax_steps: 1\n"
    )
    (row,) = run("train", tmp_path / "t.yaml", "--subsets", "2", "--json").rows
    assert (row["task"], row["version"]) == ("t", 3)
    assert "leave --subsets out" in run("train", tmp_path / "t.yaml", "--subsets", "2", "--plan").err
