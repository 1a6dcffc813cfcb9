"""Training on texts that bases read in ways of their own: control tokens, word marks, rows of no numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.errors import DataError
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.models import make_base
from tests.spellings import base as base_of_kind
from tests.tasks.wording.test_chat import GEMMA, chat_base

WORDS = ["red", "green", "blue", "stone", "river", "place", "thing", "good"]


def task(folder: Path, texts: Sequence[str], answers: Sequence[str], **fields: Any) -> Task:
    rows = [{"text": text, "label": answer} for text, answer in zip(texts, answers, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    few: dict[str, Any] = {"max_steps": 3, "num_virtual_tokens": 5, "per_device_train_batch_size": 4}
    return Task(task="t", data=str(folder / "rows.jsonl"), **(few | fields))


@pytest.mark.parametrize("kind", ["llama_2", "byte_level"])
@pytest.mark.parametrize("labels", [["no", "no good"], None])
def test_users_control_tokens_are_text_from_the_file_to_the_answer(
    kind: str, labels: list[str] | None, tmp_path: Path
) -> None:
    base = base_of_kind(kind)
    texts = [f"{word} </s> {other} <|end|>" for word in WORDS for other in WORDS]
    answers = ["no", "no good"] * 32 if labels else ["it is </s>", "<|user|>"] * 32
    own = task(tmp_path, texts, answers, labels=labels, max_new_tokens=30)
    examples = own.encode(base, own.train, 5, split="training")
    assert all(token > 4 for row in examples.inputs for token in row)
    assert all([token for token in row if token < 5] == [2] for row in examples.targets)
    library = Library.open(tmp_path / "home")
    (tuned,) = train(own, base=base, library=library)
    rules = {name: tuned.prompt.card.recipe.get(name) for name in ("label_end", "left_out")}
    assert rules == {"label_end": "</s>" if labels else None, "left_out": "<s>" if kind == "llama_2" else None}
    (judged,) = evaluate("t", library=library, data=tmp_path / "rows.jsonl", base=base)
    predicted = [one.output for one in Service(library, base=base).predict(texts, "t")]
    if labels:
        assert judged.value == pytest.approx(sum(map(str.__eq__, predicted, answers)) / 64)


def test_what_the_tokenizer_would_begin_texts_with_is_told(tmp_path: Path) -> None:
    from softprompt.training.prepare import Preparer
    from softprompt.training.remarks import remarks_on

    for given, told in (("{text} =", True), ("<s>{text} =", False)):
        own = task(tmp_path, WORDS * 8, ["yes", "no"] * 32, labels=["yes", "no"], input=given)
        run, _ = Preparer(base_of_kind("llama_2")).prepare(own, None)
        lines = [line for line, warning in remarks_on(base_of_kind("llama_2"), run) if "would begin texts with <s>" in line]
        assert bool(lines) == told


@pytest.mark.parametrize("ends", [(2,), (2, 4)])
def test_an_answer_that_ends_with_the_end_of_a_turn_can_be_written(ends: tuple[int, ...], tmp_path: Path) -> None:
    from softprompt.training.prepare import Preparer
    from softprompt.training.remarks import remarks_on

    base = chat_base("byte_level", GEMMA, ends=ends)
    own = task(tmp_path, WORDS * 8, [f"the {word}" for word in WORDS] * 8, target="{label}<|end|>")
    run, _ = Preparer(base).prepare(own, None)
    assert not [line for line, _ in remarks_on(base, run) if "cannot write" in line]


@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB", "LABELS"])
def test_rows_of_no_numbers_that_no_text_uses_do_no_harm(start: str, tmp_path: Path) -> None:
    base = damaged()
    own = task(tmp_path, some("apple"), ["yes", "no"] * 32, labels=["yes", "no"], prompt_tuning_init=start)
    library = Library.open(tmp_path / "home")
    (tuned,) = train(own, base=base, library=library)
    assert tuned.prompt.vectors_PD.isfinite().all()
    assert tuned.prompt.centroid_D is not None
    assert tuned.prompt.centroid_D.isfinite().all()
    with pytest.raises(DataError, match=r"input 1 holds the token 'Ġred' .* that holds NaN or infinity"):
        Service(library, base=base).predict(["a red"], "t")


def test_a_row_of_no_numbers_that_a_text_uses_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    own = task(tmp_path, some("a red"), ["yes", "no"] * 32, labels=["yes", "no"])
    with pytest.raises(DataError, match=r"task 't', \S+, line \d+ holds the token 'Ġred'"):
        train(own, base=damaged())


def some(word: str) -> list[str]:
    """Texts without `red`, unless the word is."""
    return [f"{one} {other} {word}" for one in WORDS[1:5] for other in "abcdefghijklmnop"]


def damaged() -> FrozenBase:
    base = make_base("gpt_neox")
    with torch.no_grad():  # one of them among those that say what the base makes of nothing in particular
        base.model.get_input_embeddings().weight[[254, 256, *base.encode([" red"])[0]]] = float("nan")
    return FrozenBase.wrap(base.model, base.tokenizer)
