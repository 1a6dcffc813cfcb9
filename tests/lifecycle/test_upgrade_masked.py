"""Tasks of masked language models carried to another base: where the answer stands goes with them, or is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from softprompt import upgrade
from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, DataError
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.lifecycle.rows import WORDS
from tests.models import make_base, make_masked

ROWS = [{"text": f"{word} {n}", "label": "yes" if at % 2 else "no"} for n in range(4) for at, word in enumerate(WORDS)]
FIELDS = {"task": "kind", "labels": ["yes", "no"], "input": "{text} is {mask} .", "num_virtual_tokens": 5, "max_steps": 1}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """With a task that a masked model was tuned for, kept with its file."""
    base, folder, file = make_masked("bert"), tmp_path / "base", tmp_path / "rows.jsonl"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    library = Library.open(tmp_path / "home")
    task = Task(**FIELDS, data=str(file), base=str(folder), task_type="MASKED_LM")
    train(task, library=library, progress=Mute())
    return library


def test_the_mask_goes_with_a_task_to_another_masked_model(library: Library) -> None:
    base = make_masked("bert")
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] += 1
    (row,) = upgrade("kind@1", to=FrozenBase.wrap(model, base.tokenizer, name="a/twin"), library=library, progress=Mute())
    assert row.new_version == 2, row.reason
    card = library.registry.resolve("kind@2").card
    assert (card.task_type, card.input) == ("MASKED_LM", FIELDS["input"])


def test_a_model_that_writes_has_no_place_for_the_mask(library: Library) -> None:
    (row,) = upgrade("kind@1", to=make_base("llama"), library=library, progress=Mute())
    assert row.new_version is None
    assert "`input` holds {mask}, where a masked language model says its answer, and random/llama is a causal" in row.reason
    assert "give a task file" in row.reason


def test_a_column_that_is_called_mask_is_refused_on_a_masked_model() -> None:
    """Trained on the column, it would be asked at the mask: a card says its base's kind."""
    with pytest.raises(
        ConfigError, match=r"has \{mask\} in `input`, and .* is a masked language model, whose answers stand"
    ):
        train(
            Task(**FIELDS, data=[row | {"mask": "river"} for row in ROWS]),
            base=make_masked("bert"), publish=False, progress=Mute(),
        )  # fmt: skip
    with pytest.raises(DataError, match=r"has no field 'mask', .*; with `task_type: MASKED_LM` \{mask\} is where"):
        train(Task(**FIELDS, data=ROWS), base=make_masked("bert"), publish=False, progress=Mute())
    train(
        Task(**FIELDS, data=[row | {"mask": "river"} for row in ROWS]),
        base=make_base("llama"), publish=False, progress=Mute(),
    )  # fmt: skip
