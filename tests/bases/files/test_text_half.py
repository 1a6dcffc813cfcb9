"""Models of several senses are loaded as their text decoder alone, which is what the whole makes of text, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from softprompt.training.train import train
from tests.commands import Run
from tests.models import _GQA, tokenizer
from tests.training.test_resume import make_task

IMAGE = 300
SIGHT: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
_GEMMA = {**_GQA, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
_QWEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}}
_QWEN_SIGHT = {"depth": 1, "num_heads": 2, "patch_size": 4}
_QWEN_IDS = {"image_token_id": 300, "video_token_id": 301, "vision_start_token_id": 302, "vision_end_token_id": 303}

WHOLE: dict[str, Callable[[], Any]] = {
    "gemma3": lambda: transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=_GEMMA, vision_config=SIGHT, mm_tokens_per_image=4, image_token_index=IMAGE, tie_word_embeddings=True
        )
    ),
    "gemma4": lambda: transformers.Gemma4ForConditionalGeneration(
        transformers.Gemma4Config(
            text_config={
                **_GQA, "head_dim": 8, "global_head_dim": 16, "sliding_window": 6, "num_kv_shared_layers": 0,
                "layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 0,
            },
            vision_config=None, audio_config=None, image_token_id=IMAGE, video_token_id=301, audio_token_id=302,
        )
    ),
    "llava": lambda: transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**_GQA), vision_config=transformers.CLIPVisionConfig(**SIGHT),
            image_token_index=IMAGE,
        )
    ),
    "mistral3": lambda: transformers.Mistral3ForConditionalGeneration(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**_GQA), vision_config=transformers.PixtralVisionConfig(**SIGHT),
            image_token_index=IMAGE,
        )
    ),
    "idefics3": lambda: transformers.Idefics3ForConditionalGeneration(
        transformers.Idefics3Config(
            text_config=transformers.LlamaConfig(**_GQA), vision_config=SIGHT, image_token_id=IMAGE, scale_factor=1
        )
    ),
    "qwen2_vl": lambda: transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(
            text_config={**_GQA, **_QWEN}, vision_config={**_QWEN_SIGHT, "embed_dim": 16, "hidden_size": 32}, **_QWEN_IDS
        )
    ),
    "qwen2_5_vl": lambda: transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={**_GQA, **_QWEN},
            vision_config={
                **_QWEN_SIGHT, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16,
                "fullatt_block_indexes": [0],
            },
            **_QWEN_IDS,
        )
    ),
    "qwen3_vl": lambda: transformers.Qwen3VLForConditionalGeneration(
        transformers.Qwen3VLConfig(
            text_config={**_GQA, **_QWEN, "head_dim": 8},
            vision_config={
                **_QWEN_SIGHT, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16,
                "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
            },
            **_QWEN_IDS,
        )
    ),
    "qwen3_vl_moe": lambda: transformers.Qwen3VLMoeForConditionalGeneration(
        transformers.Qwen3VLMoeConfig(
            text_config={
                **_GQA, **_QWEN, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16
            },
            vision_config={
                **_QWEN_SIGHT, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16,
                "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
            },
            **_QWEN_IDS,
        )
    ),
    "llama4": lambda: transformers.Llama4ForConditionalGeneration(
        transformers.Llama4Config(
            text_config={
                **_GQA, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48,
                "interleave_moe_layer_step": 1, "num_experts_per_tok": 1,
            },
            vision_config={
                **SIGHT, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16
            },
            image_token_index=IMAGE,
        )
    ),
    "qwen2_audio": lambda: transformers.Qwen2AudioForConditionalGeneration(
        transformers.Qwen2AudioConfig(
            text_config={**_GQA, "model_type": "qwen2"},
            audio_config={
                "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
                "num_mel_bins": 8, "max_source_positions": 8,
            },
            audio_token_index=IMAGE,
        )
    ),
}  # fmt: skip


def save(model: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("kind", list(WHOLE))
def test_the_half_makes_of_text_what_the_whole_does_and_holds_no_more(kind: str, tmp_path: Path) -> None:
    whole = WHOLE[kind]()
    base = FrozenBase.load(str(save(whole, tmp_path / "model")), attn_implementation="sdpa")
    ids = torch.tensor([[5, 9, 30, 2, 40, 7, 100, 3, 3, 9]])
    logits = whole(input_ids=ids).logits
    assert torch.equal(base.model(input_ids=ids).logits, logits)
    torch.testing.assert_close(base.model(inputs_embeds=base.embed(ids)).logits, logits)
    assert base.architecture.endswith("ForCausalLM")
    small = FrozenBase.load(str(tmp_path / "model"), dtype="bfloat16", quantization="int8")
    assert (small.architecture, small.fingerprint) == (base.architecture, base.fingerprint)
    text = {id(p) for module in (whole.get_decoder(), whole.get_output_embeddings()) for p in module.parameters()}
    assert base.params == sum(p.numel() for p in whole.parameters() if id(p) in text)


def test_the_half_trains_and_serves_as_the_same_text_model_in_a_folder_of_its_own(tmp_path: Path, run: Run) -> None:
    whole = save(WHOLE["gemma3"](), tmp_path / "seeing")
    tensors = safetensors.torch.load_file(whole / "model.safetensors")
    text = tmp_path / "reading"
    half = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**_GEMMA))
    prefix = "language_model."
    found = half.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}, strict=False
    )
    assert found.missing_keys == ["lm_head.weight"]  # which is tied
    half.save_pretrained(text)
    tokenizer().save_pretrained(text)
    library = Library.open(tmp_path / "home")
    both = {}
    for folder in (whole, text):
        (tuned,) = train(make_task(tmp_path, f"by-{folder.name}", base=str(folder)), library=library)
        (answer,) = Service(library).predict(["red"], f"by-{folder.name}")
        both[folder.name] = (tuned.prompt.vectors_PD, tuned.report.value, answer.scores)
        assert FrozenBase.load(str(folder)).fingerprint == tuned.prompt.card.fingerprint
    assert torch.equal(both["seeing"][0], both["reading"][0])
    assert both["seeing"][1:] == both["reading"][1:]
    whole_row, text_row = (run("base", "show", folder, "--json").rows[0] for folder in (whole, text))
    assert whole_row["fingerprint"] != text_row["fingerprint"]
    for field in ("params", "architecture", "model_type", "context", "width", "dtype"):
        assert whole_row[field] == text_row[field]


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*", "ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], r".*language_model.*\.(q_proj|up_proj)"])
@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_an_adapter_of_the_whole_is_merged_into_the_half(kind: str, targets: Any, tmp_path: Path) -> None:
    whole = WHOLE[kind]()
    folder = save(whole, tmp_path / "model")
    trained = peft.get_peft_model(whole, peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets)).eval()
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    trained.save_pretrained(tmp_path / "lora")
    base = FrozenBase.load(str(folder), adapter=str(tmp_path / "lora"), attn_implementation="sdpa")
    ids = torch.tensor([[5, 9, 30, 2, 40]])
    logits = trained(input_ids=ids).logits
    torch.testing.assert_close(base.model(input_ids=ids).logits, logits, atol=1e-4, rtol=1e-4)
    assert (FrozenBase.load(str(folder)).model(input_ids=ids).logits - logits).abs().max() > 0.1


# What is no half


def test_a_decoder_of_which_weights_would_be_missing_or_left_out_is_refused(tmp_path: Path) -> None:
    file = save(WHOLE["llava"](), tmp_path / "model") / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    layer = "language_model.model.layers.1.mlp"
    more = {**tensors, f"{layer}.gate.weight": torch.ones(2)}
    safetensors.torch.save_file(more, file, metadata={"format": "pt"})
    assert "is no LlamaForCausalLM by itself: model.layers.1.mlp.gate.weight would be left out" in refused(file.parent)
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith(layer)}
    safetensors.torch.save_file(less, file, metadata={"format": "pt"})
    assert "lacks 3 weights of LlamaForCausalLM, 'model.layers.1.mlp" in refused(file.parent)


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*", "ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "gemma3"])
def test_a_whole_that_makes_something_else_of_text_is_refused_or_loaded_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WHOLE[kind]()
    folder = save(whole, tmp_path / "model")
    forward = type(whole).forward

    @functools.wraps(forward)
    def scaled(*arguments: Any, **fields: Any) -> Any:
        output = forward(*arguments, **fields)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(type(whole), "forward", scaled)
    if kind == "gemma3":  # which transformers has as a causal model as it is
        config = peft.LoraConfig(r=4, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
        peft.get_peft_model(whole, config).save_pretrained(tmp_path / "lora")
        for adapter in (None, str(tmp_path / "lora")):
            assert type(FrozenBase.load(str(folder), adapter=adapter).model) is type(whole)
        return
    message = refused(folder)
    assert "the text half of" in message
    assert f"({kind}) is no " in message
    assert "ForCausalLM by itself: what stands around it would be left out" in message


def test_a_model_that_sees_its_whole_input_at_once_is_refused(tmp_path: Path) -> None:
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**_GQA, head_dim=8),
        vision_config=transformers.SiglipVisionConfig(**SIGHT, projection_dim=32), projection_dim=32,
        image_token_index=IMAGE,
    )  # fmt: skip
    folder = save(transformers.PaliGemmaForConditionalGeneration(config), tmp_path / "model")
    assert "is of the kind 'paligemma', of which transformers" in refused(folder)
