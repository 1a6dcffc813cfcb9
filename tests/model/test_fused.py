"""Compiled norms and feed-forward blocks change nothing but rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.model import fused
from softprompt.model.fused import Fused
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import LANGUAGE_MODELING
from softprompt.training.prepare import Preparer
from softprompt.training.steps.forward import Example, losses_and_gradient
from softprompt.training.steps.run import Run
from softprompt.training.train import train
from tests.models import CONFIGS, make_base
from tests.training.test_resume import make_task

NORMS, BLOCKS = {"gpt2": 5, "opt": 5, "gpt_neox": 5, "gemma2": 9}, {"opt": 0}


def step(base: FrozenBase) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    prompts = [torch.randn(length, base.width) for length in (3, 5)]
    rows = [(0, [7, 8, 9], [4]), (1, [5, 6], [8, 9]), (1, [7, 5, 6, 9, 12], [4, 3])]
    examples = [Example(which, ids, LANGUAGE_MODELING, ends, 0.5) for which, ids, ends in rows]
    return losses_and_gradient(Causal(base), stack_prompts(prompts), examples)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_parts_are_found_and_taken_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BACKEND", "eager")
    base, said = make_base(name), []
    found = Fused(base, said.append)
    plain = step(base)
    with found.within():
        for one, other in zip(step(base), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    norms = [part for part, _ in found._parts if type(part).__name__.endswith("Norm")]
    assert not said
    if name != "gemma4":  # which has some of its own
        assert (len(norms), len(found._parts) - len(norms)) == (NORMS.get(name, 5), BLOCKS.get(name, 2))
    assert not any("forward" in vars(part) for part in base.model.modules())
    for one, other in zip(step(base), plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler hides, where it is no error
def test_a_real_compiler_compiles_a_part_once_for_all_layers_and_a_card_says_so(tmp_path: Path) -> None:
    base = make_base("llama")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (plain,) = train(make_task(tmp_path, "one"), base=base)
    (compiled,) = train(make_task(tmp_path, "one", torch_compile=True), base=base)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    # A norm, a block and what tries the compiler, each with and without a gradient on the way in, and of one token.
    assert 3 <= graphs <= 8
    assert compiled.prompt.card.recipe["torch_compile"] is True
    assert "torch_compile" not in plain.prompt.card.recipe
    torch.testing.assert_close(compiled.prompt.vectors_PD, plain.prompt.vectors_PD, rtol=1e-2, atol=1e-3)


def test_without_a_compiler_it_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler was found\nand more")

    base = make_base("llama")
    (plain,) = train(make_task(tmp_path, "one"), base=base)
    monkeypatch.setattr(fused, "BACKEND", broken)
    with pytest.warns(UserWarning, match="layers are not compiled"):
        (same,) = train(make_task(tmp_path, "one", torch_compile=True), base=base)
    assert torch.equal(same.prompt.vectors_PD, plain.prompt.vectors_PD)
    assert "torch_compile" not in same.prompt.card.recipe
    said: list[str] = []
    found = Fused(base, said.append)
    assert not found.works
    assert not found.works
    assert len(said) == 1
    assert "no compiler was found" in said[0]


def test_long_runs_alone_are_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BACKEND", "eager")
    base = make_base("llama")
    assert "torch_compile" not in train(make_task(tmp_path, "one"), base=base)[0].prompt.card.recipe
    monkeypatch.setattr(fused, "WORTH", 1)
    monkeypatch.setattr(Run, "tokens", 10)
    assert train(make_task(tmp_path, "one"), base=base)[0].prompt.card.recipe["torch_compile"] is True
    (off,) = train(make_task(tmp_path, "one", torch_compile=False), base=base)
    assert "torch_compile" not in off.prompt.card.recipe


def test_a_batch_invariant_base_is_not_compiled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WORTH", 1)
    base = replace(make_base("llama"), batch_invariant=True)
    assert not fused.pays(base, 10)
    (plain,) = train(make_task(tmp_path, "one"), base=base)
    with pytest.warns(UserWarning, match="torch_compile is left out"):
        (asked,) = train(make_task(tmp_path, "one", torch_compile=True), base=base)
    assert torch.equal(plain.prompt.vectors_PD, asked.prompt.vectors_PD)
    assert "torch_compile" not in asked.prompt.card.recipe


def test_that_it_was_compiled_is_known_where_it_goes_on(tmp_path: Path) -> None:
    task, base = make_task(tmp_path, "one"), make_base("llama")
    run, _ = Preparer(base).prepare(task, None)
    run.took_step(1.0, compiled=True)
    other, _ = Preparer(base).prepare(task, None)
    other.load_state(run.state())
    assert other.compiled
