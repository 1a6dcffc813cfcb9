"""The base that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import BUILTIN
from softprompt.model.kinds.causal import Causal
from softprompt.tasks.samples import remarks, write_rows
from softprompt.tasks.task import Task
from softprompt.training.train import train

FOLDER = BUILTIN["builtin/tiny"]


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return FrozenBase.load("builtin/tiny", dtype="float32")


def test_it_is_what_its_card_and_the_docs_promise(base: FrozenBase) -> None:
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    assert base.model.config.head_dim == 64
    assert base.context == 512
    assert {t.dtype for t in transformers.AutoModelForCausalLM.from_pretrained(FOLDER).state_dict().values()} == {
        torch.bfloat16
    }
    assert f"{base.params:,}" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert Causal(base).shares_prefix


@pytest.mark.parametrize("text", ["Who wrote this ?\nType:", "naïve 日本語 🙂 1984", "  two  spaces\t\x00"])
def test_its_tokenizer_adds_nothing_and_brings_any_text_back(base: FrozenBase, text: str) -> None:
    (ids,) = base.encode([text])
    assert not set(ids) & set(base.tokenizer.all_special_ids)
    assert base.decode(ids) == text


def test_usual_labels_are_single_tokens(base: FrozenBase) -> None:
    labels = "abbreviation entity description person location number positive negative subjective objective".split()
    assert [len(ids) for ids in base.encode([f" {label}" for label in labels])] == [1] * len(labels)


def test_a_short_tuning_steers_it(base: FrozenBase, tmp_path: Path) -> None:
    task = Task(
        task="remarks",
        data=str(write_rows(remarks()[:240], tmp_path / "remarks.jsonl")),
        input="Zz {text} ->",
        labels=["positive", "negative"],
        max_steps=40,
        per_device_train_batch_size=16,
    )
    (tuned,) = train(task, base=base)
    assert tuned.report.value > max(tuned.prompt.card.metrics["majority"], 0.8)
