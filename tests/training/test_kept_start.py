"""Where a training starts from a prompt that is trained already, it ends no worse by its validation rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.errors import TrainingError
from softprompt.evaluation.findings import of_card
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.lifecycle.rows import a_task
from tests.models import steerable_base


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Path]:
    """A library with a prompt that answers all of its rows, and the folder of these."""
    folder = tmp_path_factory.mktemp("learnt")
    library = Library.open(folder / "home")
    (tuned,) = train(a_task(folder), base=steerable_base(), library=library, progress=Mute())
    assert tuned.report.value == 1.0
    return library, folder


def again(folder: Path, **fields: Any) -> Task:
    known = {"task": "again", "prompt_tuning_init": "PROMPT", "prompt_tuning_init_prompt": "kind@1", "max_steps": 4}
    return a_task(folder, **(known | fields))


def vectors_of(library: Library, ref: str) -> torch.Tensor:
    return SoftPrompt.from_bytes(library.read(library.registry.resolve(ref))).vectors_PD


def harmful(folder: Path) -> str:
    """Training rows with all answers turned round."""
    file = folder / "turned.jsonl"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    turned = [row | {"label": "no" if row["label"] == "yes" else "yes"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in turned))
    return str(file)


def test_a_training_that_makes_a_good_prompt_worse_keeps_the_good_one(learnt: tuple[Library, Path]) -> None:
    library, folder = learnt
    good = str(folder / "rows.jsonl")
    data = {"train": harmful(folder), "validation": good, "test": good}
    (tuned,) = train(
        again(folder, data=data, learning_rate=0.5, max_steps=12), base=steerable_base(), library=library, progress=Mute()
    )
    row = tuned.row()
    assert (row["best_step"], row["steps"], row["value"], row["validation"], row["moved"]) == (0, 12, 1.0, 1.0, 0.0)
    assert torch.equal(tuned.prompt.vectors_PD, vectors_of(library, "kind@1"))
    assert all(one["step"] > 0 for one in tuned.history), "the history is of steps"
    (told,) = (one for one in row["warnings"] if "where it started" in one)
    assert told.startswith("none of 12 steps was better on validation rows than where it started (accuracy 1.000, and ")
    assert not any("barely moved" in one or "has not learnt" in one for one in row["warnings"])


def test_a_start_that_is_kept_is_no_baseline_of_itself() -> None:
    """It is as good as it is; whether it is better than the others counts."""
    known: dict[str, Any] = {"task": "t", "base": "b", "fingerprint": "0" * 32, "num_virtual_tokens": 8, "token_dim": 4}
    kept = {"steps": 12, "best_step": 0}
    metrics: dict[str, float] = {"value": 0.8, "stderr": 0.01, "rows": 100, "untrained": 0.8}
    for recipe, others, learnt in (
        (kept, {"majority": 0.5}, True),
        (kept, {"majority": 0.8}, False),
        (kept, {}, None),
        ({"steps": 12, "best_step": 6}, {"majority": 0.5}, False),
    ):
        card = Card(**known, metrics=metrics | others, recipe=recipe)
        assert card.learnt is learnt
        found = {one.mode: one for one in of_card(card, [])}
        assert ("not_learnt" in found) == (learnt is False)
        assert ("start_kept" in found) == (recipe is kept)
        if recipe is kept and learnt is False:
            assert found["not_learnt"].evidence.startswith("no better than the most frequent answer; ")


def test_a_start_that_is_no_prompt_is_no_candidate(learnt: tuple[Library, Path]) -> None:
    _, folder = learnt
    good = str(folder / "rows.jsonl")
    data = {"train": harmful(folder), "validation": good, "test": good}
    (tuned,) = train(a_task(folder, data=data, max_steps=4), base=steerable_base(), publish=False, progress=Mute())
    assert tuned.row()["best_step"] > 0


def test_a_step_that_is_better_is_kept_and_the_steps_are_those_of_before(learnt: tuple[Library, Path]) -> None:
    """That the start is judged changes no step: from a prompt, as from the same vectors that nobody judges."""
    library, folder = learnt
    turned = harmful(folder)
    data = {"train": turned, "validation": turned, "test": turned}
    fields: dict[str, Any] = {"data": data, "learning_rate": 0.5, "max_steps": 12}
    (tuned,) = train(again(folder, **fields), base=steerable_base(), library=library, progress=Mute())
    assert tuned.row()["best_step"] > 0
    assert tuned.report.value == 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softprompt.training.steps.run.Run.start_due", property(lambda self: False))
        (twin,) = train(again(folder, **fields), base=steerable_base(), library=library, progress=Mute())
    assert tuned.history == twin.history
    assert torch.equal(tuned.prompt.vectors_PD, twin.prompt.vectors_PD)


def test_patience_counts_from_a_start_that_is_kept(learnt: tuple[Library, Path]) -> None:
    library, folder = learnt
    good = str(folder / "rows.jsonl")
    data = {"train": harmful(folder), "validation": good, "test": good}
    task = again(folder, data=data, learning_rate=0.9, max_steps=12, early_stopping_patience=2)
    (tuned,) = train(task, base=steerable_base(), library=library, progress=Mute())
    assert (tuned.row()["best_step"], tuned.row()["steps"]) == (0, 2)


def test_a_training_judged_by_folds_keeps_its_start_too(learnt: tuple[Library, Path]) -> None:
    library, folder = learnt
    good = str(folder / "rows.jsonl")
    task = again(folder, data={"train": good, "test": good}, learning_rate=30.0)
    (tuned,) = train(task, base=steerable_base(), library=library, progress=Mute())
    assert (tuned.row()["folds"], tuned.row()["best_step"]) == (4, 0)
    assert torch.equal(tuned.prompt.vectors_PD, vectors_of(library, "kind@1"))


def test_a_start_without_numbers_is_no_candidate(learnt: tuple[Library, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    library, folder = learnt
    monkeypatch.setattr(
        "softprompt.prompts.initialize.from_prompts", lambda prompts, length: torch.full_like(prompts[0], float("nan"))
    )
    with pytest.raises(TrainingError, match="no number at step 1"):
        train(again(folder), base=steerable_base(), library=library, progress=Mute())
