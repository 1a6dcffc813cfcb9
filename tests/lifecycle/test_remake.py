"""What the library keeps of a training is enough to train it again: every kind of task file is read back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import ConfigError, DataError
from softprompt.library.library import Library
from softprompt.lifecycle.remake import OF_THE_BASE, remake
from softprompt.progress import Mute
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task
from softprompt.training.publish import resolved_file
from softprompt.training.train import train
from tests.models import make_base, some_prompt

LABELS = {"labels": ["yes", "no"], "input": "{text} ="}
KINDS: dict[str, dict[str, Any]] = {
    "labels": LABELS,
    "text": {"target": " {answer}"},
    "prefix": LABELS | {"prompt_type": "prefix"},
    "scoring": LABELS | {"objective": "label_scoring", "class_weights": "balanced"},
    "sets": LABELS | {"problem_type": "multi_label_classification"},
    "numbers": {"problem_type": "regression", "input": "{text} =", "target": " {label}"},
    "unlikelihood": {"objective": "unlikelihood", "unwanted": "bad", "target": " {answer}"},
    "patterns": {"objective": "unlikelihood", "unwanted_patterns": ["damn"], "unwanted_every": 3, "target": " {answer}"},
    "preference": {"objective": "preference", "rejected": "bad"},
    "distillation": LABELS | {"objective": "distillation", "instruction": "Say yes or no."},
    "network": LABELS | {"encoder_reparameterization_type": "MLP"},
    "placed": LABELS | {"input": "a {soft_prompt} b {text} ="},
    "steps": LABELS | {"max_steps": 7, "warmup_steps": 2, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "hi"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_file_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "yes", "answer": "b", "bad": "c", "chosen": "d"}\n')
    task = Task(task="t", data={"train": str(tmp_path / "rows.jsonl")}, **KINDS[kind])
    kept = resolved_file(task, make_base("llama"))
    again = parse_config(kept)
    assert again.recipe() == task.config.recipe()
    assert resolved_file(Task(again), make_base("llama")) == kept


def test_a_version_is_made_again_without_its_base_and_what_it_started_from(tmp_path: Path) -> None:
    base, library = make_base("llama"), Library.open(tmp_path / "home")
    library.publish(some_prompt(base, "first").to_bytes(), base="in-memory")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "a{n}", "label": "{"yes" if n % 2 else "no"}"}}\n' for n in range(60)))
    task = Task(
        task="t", data=str(file), num_virtual_tokens=5, max_steps=1, prompt_tuning_init="PROMPT",
        prompt_tuning_init_prompt=["first"], **LABELS,
    )  # fmt: skip
    train(task, base=base, library=library, progress=Mute())
    version = library.registry.resolve("t")
    made, told = remake(library, version, left_out=OF_THE_BASE)
    assert (made.config.initializer, made.config.task_type, told) == ("LABELS", None, [])
    assert made.data_digest == version.card.data_digest
    file.write_text(file.read_text().replace("a59", "b59"))
    _, told = remake(library, version)
    assert len(told) == 1
    assert told[0].startswith("data changed since: ")
    file.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        remake(library, version)
    with pytest.raises(ConfigError, match="first@1 came without the task file"):
        remake(library, library.registry.resolve("first"))
