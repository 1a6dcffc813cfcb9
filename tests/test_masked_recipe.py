"""The small masked language model of the recipe: what it learns from, a run that goes on where it was stopped, and a folder
that is the model that was trained."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from softprompt.bases.architectures import MaskedLabels
from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.encoder import MaskedEncoder
from softprompt.model.label_scores import label_contexts, score_labels
from softprompt.model.splice import no_prompt, stack_prompts
from tests.commands import Run

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TINY = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
NOUNS, VERBS = ("cat", "dog", "hen", "fox", "cow"), ("sees", "likes", "hears", "finds")


@pytest.fixture(scope="module")
def masked() -> Iterator[ModuleType]:
    """The recipe, whose files import one another by their bare names."""
    there = set(sys.modules)
    sys.path.insert(0, str(RECIPES))
    try:
        yield importlib.import_module("masked")
    finally:
        sys.path.remove(str(RECIPES))
        for name in set(sys.modules) - there:
            if Path(getattr(sys.modules[name], "__file__", None) or ".").parent == RECIPES:
                del sys.modules[name]


def passages() -> Iterator[tuple[str, str]]:
    for one, verb, other in itertools.product(NOUNS, VERBS, NOUNS):
        yield "made up", f"the {one} {verb} the {other} . it was a good {one} , not a bad one ." * 4


@pytest.fixture(scope="module")
def work(masked: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays of made-up passages, and a run that was stopped at its third step and then went on to its end."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked.mix, "passages", passages)
        patch.setattr(masked, "HELD_OUT", 10)
        next_batch, calls = masked.masked_tokens, itertools.count(1)

        def stop_at_third(*args: Any) -> Any:
            if next(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return next_batch(*args)

        patch.setattr(masked, "masked_tokens", stop_at_third)
        assert not masked.train(asked(folder, minutes=5), masked.CONFIG | TINY)
        assert steps(folder) == 3
        assert masked.train(asked(folder, minutes=0.06), masked.CONFIG | TINY)
    return folder


def asked(work: Path, minutes: float) -> argparse.Namespace:
    return argparse.Namespace(
        work=work, minutes=minutes, until=0, rows=4, accumulate=1, threads=torch.get_num_threads(), bf16=False,
        no_compile=True, muon_rate=4e-3, adam_rate=3e-3, checkpoint_minutes=1, long_from=0.8, fresh=False,
    )  # fmt: skip


def steps(work: Path) -> int:
    return int(torch.load(work / "checkpoint.pt", weights_only=True)["step"])


@pytest.fixture(scope="module")
def folder(masked: ModuleType, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, as it is written."""
    target = tmp_path_factory.mktemp("models") / "masked-small"
    figures = masked.export(work, masked.CONFIG | TINY, target)
    assert figures["bytes"] == sum(file.stat().st_size for file in target.iterdir()) <= masked.LARGEST
    assert figures["steps"] == steps(work) > 3
    return target


def test_a_share_of_the_tokens_is_masked_and_no_end(masked: ModuleType) -> None:
    ids_BT = torch.randint(3, 512, (4, 50))
    ids_BT[:, ::5] = masked.END_ID
    masked_BT, chosen_K, targets_K, weights_K = masked.mask_some(ids_BT)
    assert len(chosen_K) == int(masked.SHARE * ids_BT.numel()) == weights_K.sum()
    assert torch.equal(ids_BT.flatten()[chosen_K], targets_K)
    assert (targets_K != masked.END_ID).all()
    is_mask = torch.zeros(ids_BT.numel(), dtype=torch.bool).index_fill(0, chosen_K, True).view_as(ids_BT)
    assert torch.equal(masked_BT, ids_BT.masked_fill(is_mask, masked.MASK_ID))
    again = masked.mask_some(ids_BT)[1]
    assert not torch.equal(again, chosen_K)


def test_the_first_heads_look_at_a_neighbour_each(masked: ModuleType) -> None:
    torch.manual_seed(0)
    model = masked.new_model(masked.CONFIG).eval()
    with torch.no_grad():
        seen = model.roberta(input_ids=torch.randint(3, 4096, (2, masked.CONTEXT)), output_attentions=True).attentions[0]
    for head, distance in enumerate((-1, 1, -2, 2)):
        assert seen[:, head].diagonal(distance, 1, 2).mean() > 0.4
    assert seen[:, 4].max() < 0.3


def test_what_frequency_alone_fills_in(masked: ModuleType, tmp_path: Path) -> None:
    for name, ids in (("train", [5, 5, 5, 6, 0]), ("held_out", [5, 6, 0, 5, 5])):
        np.savez(tmp_path / f"{name}.npz", ids=np.array(ids, dtype=np.uint16))
    found = masked.frequency_figures(tmp_path, 8)  # counts, and one more each: 4 of 12 and 2 of 12
    assert found == {"perplexity": round((3**3 * 6) ** (1 / 4), 2), "accuracy": 0.75}


def test_the_loss_is_the_models_own_at_masks(masked: ModuleType) -> None:
    model = masked.new_model(masked.CONFIG | TINY)
    masked_BT, chosen_K, targets_K, weights_K = masked.mask_some(torch.randint(3, 512, (3, 40)))
    labels_BT = torch.full_like(masked_BT, -100).flatten().index_copy(0, chosen_K, targets_K).view_as(masked_BT)
    expected = model(input_ids=masked_BT, labels=labels_BT).loss * len(chosen_K)
    torch.testing.assert_close(masked.masked_loss(model, masked_BT, chosen_K, targets_K, weights_K), expected)


def test_a_stopped_run_goes_on_and_learns(work: Path) -> None:
    lines = [json.loads(line) for line in (work / "pretrain.log").read_text().splitlines()]
    numbers = [line["step"] for line in lines]
    assert numbers == sorted(numbers)
    assert numbers[:2] == [1, 2]
    assert lines[-1]["done"]
    assert lines[-1]["held_out"]["perplexity"] < TINY["vocab_size"] / 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_folder_is_the_model_that_was_trained(masked: ModuleType, work: Path, folder: Path) -> None:
    base = FrozenBase.load(str(folder), device="cpu", dtype="float32")
    assert (base.task_type, base.context, base.tokenizer.mask_token) == ("MASKED_LM", masked.CONTEXT, masked.MASK)
    trained = masked.new_model(masked.CONFIG | TINY)
    trained.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True)["optimisers"]["model"])
    trained = trained.to(torch.bfloat16).float().eval()
    (row,), labels = base.encode(["the cat sees the"]), MaskedLabels(map(tuple, base.encode([" good", " not a bad one"])))
    assert sorted(map(len, labels)) == [1, 4]
    logits = MaskedEncoder(base).logits_behind(stack_prompts([no_prompt(base)]), None, [0], [row], [label_contexts(labels)])
    (scores,) = score_labels(logits, [labels])
    for label, score in zip(labels, scores, strict=True):
        masks = [masked.MASK_ID] * len(label)
        with torch.no_grad():
            said = trained(input_ids=torch.tensor([[masked.END_ID, *row, *masks, masked.END_ID]])).logits[0].log_softmax(-1)
        expected = sum(said[1 + len(row) + at, token] for at, token in enumerate(label))
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_it_is_called_what_it_is(masked: ModuleType, folder: Path, run: Run) -> None:
    (shown,) = run("base", "show", str(folder), "--json").rows
    assert shown["architecture"] == "RobertaForMaskedLM"
    card = (folder / "README.md").read_text()
    assert "neither RoBERTa nor BERT" in card
    assert f"{masked.new_model(masked.CONFIG | TINY).num_parameters():,} weights" in card


def test_one_that_does_not_fit_is_refused(
    masked: ModuleType, work: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked, "LARGEST", 1000)
    with pytest.raises(ValueError, match="more than 1,000"):
        masked.check(masked.new_model(masked.CONFIG | TINY), folder)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="does not answer as the model"):
        masked.check(masked.new_model(masked.CONFIG | TINY), folder)
