"""Small random models as GGUF files, written the way llama.cpp's converter writes them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from tests.models import VOCABULARY, tokenizer

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 96, "initializer_range": 0.5, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
_GQA = {**_SMALL, "num_key_value_heads": 2}
_GEMMA = {**_GQA, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}
_MOE = {**_GQA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}

CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**_GQA, tie_word_embeddings=False, rope_theta=50000.0),
    "qwen2": lambda: transformers.Qwen2Config(**_GQA, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**_GQA, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(**_GEMMA, final_logit_softcapping=20.0, attn_logit_softcapping=30.0),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GEMMA, layer_types=["sliding_attention"] * 2),
    "phi3": lambda: transformers.Phi3Config(**_GQA, sliding_window=6, tie_word_embeddings=False),
    "starcoder2": lambda: transformers.Starcoder2Config(**_GQA, use_bias=True, sliding_window=6),
    "stablelm": lambda: transformers.StableLmConfig(**_GQA, use_qkv_bias=True, partial_rotary_factor=0.5),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.5, eos_token_id=0,
        bos_token_id=None,
    ),
    "qwen2moe": lambda: transformers.Qwen2MoeConfig(**_MOE, shared_expert_intermediate_size=64),
    "qwen3moe": lambda: transformers.Qwen3MoeConfig(**_MOE, head_dim=16, norm_topk_prob=True),
}  # fmt: skip
"""By llama.cpp's names."""


def make_model(architecture: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model in float32; equal seeds give equal weights."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    for name, value in changes.items():
        setattr(config, name, value)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:  # norms and biases begin as ones and zeros, of which too much would pass
                weight.add_(0.3 * torch.randn(weight.shape))
    return model


def metadata_of(model: Any, architecture: str) -> dict[str, Any]:
    """What the converter writes of a model's config; without the architecture before the keys."""
    config = model.config
    if architecture == "gpt2":
        return {
            "context_length": config.n_positions, "embedding_length": config.n_embd, "block_count": config.n_layer,
            "feed_forward_length": 4 * config.n_embd, "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }  # fmt: skip
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    theta = rope.get("rope_theta") or rope["full_attention"]["rope_theta"]
    values = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": theta, "rope.dimension_count": int(width * rope.get("partial_rotary_factor", 1.0)),
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        "attention.layer_norm_epsilon": getattr(config, "norm_epsilon", None) or getattr(config, "layer_norm_eps", None),
        "expert_count": getattr(config, "num_experts", None),
        "expert_used_count": getattr(config, "num_experts_per_tok", None),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
        "expert_shared_feed_forward_length": getattr(config, "shared_expert_intermediate_size", None),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
    }  # fmt: skip
    if architecture.startswith(("gemma", "qwen3")):
        values |= {"attention.key_length": width, "attention.value_length": width}
    if architecture in ("gemma2", "gemma3", "phi3", "starcoder2"):
        values["attention.sliding_window"] = config.sliding_window
    return {key: value for key, value in values.items() if value is not None}


def tensors_of(model: Any, architecture: str) -> dict[str, np.ndarray[Any, Any]]:
    """The weights under llama.cpp's names, turned as its converter turns them."""
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    names = {ours: theirs for theirs, ours in get_gguf_hf_weights_map(model, processor).items()}
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, weight in model.named_parameters():
        value = weight.detach().numpy()
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            half = value.shape[1] // 2
            found[f"blk.{block}.ffn_gate_exps.weight"] = value[:, :half]
            found[f"blk.{block}.ffn_up_exps.weight"] = value[:, half:]
            continue
        if name.endswith("experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = value
            continue
        theirs = names[name]
        if architecture == "llama" and (".attn_q." in theirs or ".attn_k." in theirs):
            heads = model.config.num_attention_heads if ".attn_q." in theirs else model.config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if architecture.startswith("gemma") and theirs.endswith("norm.weight"):
            value = value + 1
        if architecture == "gpt2" and theirs.split(".")[-2] in ("attn_qkv", "ffn_down", "ffn_up", "attn_output"):
            value = value.T
        if theirs.endswith("ffn_gate_inp_shexp.weight"):
            value = value[0]
        found[theirs] = value
    return found


@functools.cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of the tests' byte-level tokenizer."""
    model = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, [" ".join(merge) for merge in model["merges"]]


def vocabulary_metadata() -> dict[str, Any]:
    """The metadata of that tokenizer."""
    tokens, merges = vocabulary()
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in ("<end>", "<pad>") else 1 for token in tokens],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip


def write(
    file: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **options: Any,
) -> Path:
    """Write a GGUF file: matrices in a type, all else as float32. A value of None leaves its key out."""
    writer = gguf.GGUFWriter(file, architecture, **options)
    for key, value in metadata.items():
        if value is None or key == "general.architecture":
            continue
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for name, tensor in tensors.items():
        tensor = np.ascontiguousarray(tensor, np.float32)
        if tensor.ndim > 1 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def save_gguf(
    file: Path,
    architecture: str = "llama",
    model: Any = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
    **options: Any,
) -> Path:
    """A random model of an architecture, or the given one, as a GGUF file, with other metadata and tensors where some are
    given; None takes one out."""
    model = make_model(architecture) if model is None else model
    values = {f"{architecture}.{key}": value for key, value in metadata_of(model, architecture).items()}
    weights = {**tensors_of(model, architecture), **(tensors or {})}
    return write(
        file, architecture, {**values, **vocabulary_metadata(), **(metadata or {})},
        {name: value for name, value in weights.items() if value is not None}, **options,
    )  # fmt: skip
