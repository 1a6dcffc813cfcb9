"""PEFT's prefix tuning: our prefixes run by PEFT and PEFT's run by us, to the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import CONFIG
from softprompt.errors import BaseModelError, FingerprintMismatch, PromptFileError
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.exchange.peft import load_peft, save_peft
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from tests.exchange.test_peft import assert_equal, each_architecture, edit_config, ours, theirs
from tests.exchange.test_peft import place as place  # a fixture
from tests.models import UNEVEN, make_base, some_prefix

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in some/base:UserWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning:UserWarning"),
]


@each_architecture
def test_an_exported_prefix_run_by_peft_gives_our_logits(architecture: str, tmp_path: Path) -> None:
    base = make_base(architecture)
    prompt = some_prefix(base, "t", rows=7, labels=("yes", "no"))
    folder = save_peft(prompt, tmp_path / "adapter", "some/base")
    model = peft.PeftModel.from_pretrained(make_base(architecture).model, str(folder))
    assert_equal(ours(base, prompt.vectors_PD), theirs(model, 0))
    config = json.loads((folder / CONFIG).read_text())
    assert (config["peft_type"], config["num_layers"], config["token_dim"] // config["num_attention_heads"]) == (
        "PREFIX_TUNING", 2, 8,
    )  # fmt: skip
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# t: a prefix for random/")
    assert "PEFT puts the keys and values of each layer in front of" in readme
    again = load_peft(folder, task="t", base=base)
    assert again.digest == prompt.digest


def by_peft(architecture: str, folder: Path, **fields: Any) -> list[torch.Tensor]:
    """A prefix that PEFT made and saved, and its logits."""
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=6, base_model_name_or_path="some/base", **fields
    )
    torch.manual_seed(5)
    plain = make_base(architecture).model
    plain.name_or_path = "some/base"
    model = peft.get_peft_model(plain, config)
    model.save_pretrained(str(folder))
    return theirs(model, 0)


@each_architecture
@pytest.mark.parametrize("fields", [{}, {"prefix_projection": True, "encoder_hidden_size": 16}], ids=["plain", "projected"])
def test_a_prefix_made_by_peft_gives_the_same_logits_with_us(
    architecture: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    """PEFT saves what a projection has made, and not the projection."""
    expected, told = by_peft(architecture, tmp_path, **fields), list[str]()
    base = make_base(architecture)
    prompt = load_peft(tmp_path, task="t", base=base, warn=told.append)
    assert_equal(ours(base, prompt.vectors_PD), expected)
    assert (prompt.card.prompt_type, prompt.card.num_virtual_tokens) == ("prefix", 6)
    assert prompt.card.layers == Causal(base).layout.layers  # type: ignore[union-attr]
    assert [message for message in told if "keys in its config" in message] == []
    assert torch.equal(SoftPrompt.from_bytes(prompt.to_bytes()).vectors_PD, prompt.vectors_PD)


def refused(folder: Path, base: FrozenBase) -> str:
    with pytest.raises(PromptFileError) as caught:
        load_peft(folder, task="t", base=base)
    return str(caught.value)


def test_a_prefix_for_other_layers_is_refused_with_both(tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    message = refused(tmp_path, make_base("gpt2"))
    assert "is a prefix for other layers, with num_attention_heads 2, and random/gpt2 has 2 layers of 4 x 8" in message
    assert "it was tuned on 'some/base': give that base" in message
    edit_config(tmp_path, num_layers=3)
    assert "with num_layers 3, and random/llama has 2 layers of 2 x 8 (num_layers 2)" in refused(
        tmp_path, make_base("llama")
    )
    edit_config(tmp_path, num_layers=None, num_attention_heads=None, token_dim=None)
    assert load_peft(tmp_path, task="t", base=make_base("llama")).card.token_dim == 64
    assert "of 64 numbers a token, and random/gpt2 takes 128" in refused(tmp_path, make_base("gpt2"))
    exported = save_peft(some_prefix(make_base("llama"), "t"), tmp_path / "exported", "some/base")
    with pytest.raises(FingerprintMismatch, match="made for base random/llama"):
        load_peft(exported, task="t", base=make_base("llama", seed=1))


def test_a_base_that_takes_no_prefix_refuses_pefts_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_peft("llama", tmp_path)
    monkeypatch.setattr(Causal, "shares_prefix", False)
    with pytest.raises(BaseModelError, match=r"random/llama \(LlamaForCausalLM\) takes no prefix"):
        load_peft(tmp_path, task="t", base=make_base("llama"))


def test_layers_of_several_shapes_have_no_form_in_peft(tmp_path: Path) -> None:
    base = make_base(UNEVEN)
    with pytest.raises(
        PromptFileError, match=r"the prefix of task 't' is for layers of several shapes, .* --format softprompt"
    ):
        save_peft(some_prefix(base, "t"), tmp_path / "out", "some/base")
    assert not (tmp_path / "out").exists()
    by_peft("llama", tmp_path)
    assert "and random/gemma4 has 1 layer of 2 x 8, 1 layer of 2 x 16, of which PEFT fills some" in refused(tmp_path, base)


@pytest.mark.parametrize("form", [Format.PEFT, Format.SOFTPROMPT])
def test_out_of_a_library_and_into_another_it_answers_alike(form: Format, place: Path) -> None:
    base = FrozenBase.load(str(place / "base"))
    first, second = Library.open(place / "one"), Library.open(place / "two")
    prompt = some_prefix(base, "t", labels=("yes", "no"))
    first.publish(prompt.to_bytes(), base=base.address)
    exported = export_prompt(first, "t", place / "out", form)
    version = import_prompt(second, exported.path, task="u", base=base.address)
    assert version.card.prompt_type == "prefix"
    texts = ["the red apple", "a stone"]
    one, other = (Service(library, base=base).predict(texts, task) for library, task in ((first, "t"), (second, "u")))
    assert [answer.scores for answer in one] == [answer.scores for answer in other]
