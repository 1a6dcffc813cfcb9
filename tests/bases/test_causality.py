"""Models are told apart by what they do: those that look ahead are refused, those that read more than text are used by
their text decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softprompt.bases.architectures import task_type_of_config
from softprompt.bases.base import FrozenBase
from softprompt.bases.behaviour import check_causal
from softprompt.errors import BaseModelError
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import stack_prompts
from tests.models import ARCHITECTURES, CONFIGS, UNEVEN, make_base, tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
BERT: dict[str, Callable[[], Any]] = {
    "BertLMHeadModel": lambda: transformers.BertLMHeadModel(transformers.BertConfig(**SMALL)),
    "RobertaForCausalLM": lambda: transformers.RobertaForCausalLM(transformers.RobertaConfig(**SMALL)),
    "ElectraForCausalLM": lambda: transformers.ElectraForCausalLM(transformers.ElectraConfig(**SMALL, embedding_size=16)),
    "XLMWithLMHeadModel": lambda: transformers.XLMWithLMHeadModel(
        transformers.XLMConfig(vocab_size=320, emb_dim=16, n_layers=1, n_heads=2)
    ),
}


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def looks_ahead(model: Any) -> bool:
    try:
        check_causal(model, "it")
    except BaseModelError as error:
        return "changes with the tokens behind it" in str(error)
    return False


def refused(folder: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(str(folder), device="cpu")
    return str(caught.value)


@pytest.mark.parametrize("name", list(BERT))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_that_looks_ahead_is_no_base(name: str, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    model = BERT[name]().eval()
    message = refused(save(model, tmp_path / "model"))
    assert "changes with the tokens behind it, as in an encoder" in message
    assert "decoder-only" in message
    with pytest.raises(BaseModelError, match="decoder-only"):
        FrozenBase.wrap(model, tokenizer())


def no_vectors() -> Any:
    config = transformers.CpmAntConfig(
        vocab_size=320, hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=16, num_hidden_layers=1
    )
    return transformers.CpmAntForCausalLM(config)


def no_masks_of_bools() -> Any:
    config = transformers.XLNetConfig(vocab_size=320, d_model=16, n_layer=1, n_head=2, d_inner=16)
    return transformers.XLNetLMHeadModel(config)


@pytest.mark.parametrize("make", [no_vectors, no_masks_of_bools])
def test_a_causal_model_that_fails_behind_vectors_is_refused_when_it_is_loaded(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    model = make().eval()
    message = refused(save(model, tmp_path / "model"))
    assert f"({type(model).__name__}) cannot be run behind vectors: " in message
    assert "decoder-only" in message
    with pytest.raises(BaseModelError, match="cannot be run behind vectors"):
        FrozenBase.wrap(model, tokenizer())


def test_a_model_of_several_heads_is_loaded_by_that_for_masks(tmp_path: Path) -> None:
    model = transformers.BertForPreTraining(transformers.BertConfig(**SMALL)).eval()
    base = FrozenBase.load(str(save(model, tmp_path / "model")), device="cpu")
    assert (base.task_type, type(base.model).__name__) == ("MASKED_LM", "BertForMaskedLM")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kind_is_seen_in_every_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert looks_ahead(BERT["BertLMHeadModel"]().eval().to(dtype))
    config = transformers.BertConfig(**SMALL, is_decoder=True)
    assert not looks_ahead(transformers.BertLMHeadModel(config).eval().to(dtype))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_causal_models_are_never_taken_for_another_kind(architecture: str, attention: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        config = CONFIGS[architecture]()
        config._attn_implementation = attention if architecture != "gemma2" else "eager"
        for dtype in (torch.float32, torch.bfloat16):
            assert not looks_ahead(transformers.AutoModelForCausalLM.from_config(config).eval().to(dtype))


def test_a_state_space_model_is_causal_too() -> None:
    config = transformers.MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, state_size=4)
    assert not looks_ahead(transformers.MambaForCausalLM(config).eval())


# Images and sounds beside the text


def gemma3() -> Any:
    text = {
        **SMALL, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8,
        "sliding_window": 6, "max_position_embeddings": 96, "initializer_range": 0.5,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, image_token_id=319, boi_token_id=318, eoi_token_id=317, mm_tokens_per_image=4
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def test_a_model_that_reads_images_too_is_used_by_its_text_decoder_to_the_same_numbers(tmp_path: Path) -> None:
    whole = gemma3()
    base = FrozenBase.load(str(save(whole, tmp_path / "model")), device="cpu", dtype="float32")
    assert (base.width, base.context, base.window) == (16, 96, 6)
    assert base.architecture == "Gemma3ForCausalLM"
    config = whole.config.text_config
    config._attn_implementation = "eager"
    text = transformers.Gemma3ForCausalLM(config).eval()
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    alone = FrozenBase.wrap(text, tokenizer())
    results = []
    for each in (base, alone):
        causal = Causal(each)
        stack = stack_prompts([each.embed(torch.tensor(ids)) for ids in ([5, 6, 7], [8, 9])])
        prefix = causal.compute_prefix(stack) if causal.shares_prefix else None
        results.append(causal.logits_behind(stack, prefix, [0, 1], [[10, 11, 12], [13, 14]], [[[15, 16]], [[17]]]).detach())
        assert causal.embed([[3, 4, 5]]).shape == (1, 16)
    assert Causal(base).shares_prefix == Causal(alone).shares_prefix
    assert torch.allclose(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "SEQ_2_SEQ_LM"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "SEQ_2_SEQ_LM"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}, "vision_config": {}}, "CAUSAL_LM"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}}, "CAUSAL_LM"),
        ({"architectures": ["Blip2ForConditionalGeneration"], "text_config": {"is_encoder_decoder": True}}, "SEQ_2_SEQ_LM"),
        ({"architectures": ["BertForPreTraining"]}, "MASKED_LM"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "SEQ_CLS"),
        ({"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}, "SEQ_CLS"),
        ({"architectures": ["NomicBertModel"], "model_type": "nomic_bert"}, "SEQ_CLS"),
        ({"architectures": ["MPNetForSequenceClassification"], "model_type": "mpnet"}, "SEQ_CLS"),
        ({"architectures": ["BertModel"], "model_type": "bert", "is_decoder": True}, "CAUSAL_LM"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "CAUSAL_LM"),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, "CAUSAL_LM"),
        ({"architectures": ["LlamaForCausalLM"]}, "CAUSAL_LM"),
        ({"architectures": None}, "CAUSAL_LM"),
        ({}, "CAUSAL_LM"),
    ],
)
def test_what_a_config_tells_of_a_model(config: dict[str, Any], kind: str) -> None:
    assert task_type_of_config(config) == kind


def test_a_kind_without_a_causal_model_is_refused_for_that_reason(base_folder: Path, tmp_path: Path) -> None:
    folder = save(make_base("llama").model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    other = {"model_type": "glm4v", "architectures": ["Glm4vForConditionalGeneration"], "vision_config": {}}
    (folder / "config.json").write_text(json.dumps({**config, **other}))
    message = refused(folder)
    assert "is of the kind 'glm4v', of which transformers" in message
    assert "no causal language model that takes text alone" in message
    assert "encoder-decoder" not in message
