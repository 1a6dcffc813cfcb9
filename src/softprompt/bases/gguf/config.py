"""The config of a GGUF file's model: what transformers makes of the metadata, and what it leaves out of them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.bases.gguf.file import GgufFile
from softprompt.bases.gguf.numbers import read_numbers
from softprompt.errors import BaseModelError

_ROPE_FACTORS = "rope_freqs.weight"
# Llama 3's own way to stretch positions, of which a GGUF file has the outcome alone.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SLIDES = ("phi3", "starcoder2")
_ROTATES_A_PART = ("phi3", "stablelm")
# Layers of the models whose scores are scaled by another width than that of a head, as llama.cpp tells them.
_OF_27B = {"gemma2": 46, "gemma3": 62}
# How wide experts are: the tensor that shows it, by which of its dimensions, and the config's name for it.
_EXPERTS = (
    ("ffn_gate_exps", 1, "moe_intermediate_size"),
    ("ffn_gate_shexp", 0, "shared_expert_intermediate_size"),
)


def config_of(gguf: GgufFile, source: str) -> Any:
    """The transformers config of a GGUF file.

    Raises:
        BaseModelError: it stretches positions in a way that is not read.
    """
    import transformers

    values = _as_transformers_reads(gguf)
    values.pop("_model_name_or_path", None)
    values |= _left_out(gguf, source)
    config = transformers.AutoConfig.for_model(**values)
    for role, key in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
        setattr(config, f"{role}_token_id", gguf.metadata.get(f"tokenizer.ggml.{key}_token_id"))
    return config


def end_ids(gguf: GgufFile) -> list[int]:
    """The tokens that end a text, a turn or a message, as the file names them."""
    named = (gguf.metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
    return list(dict.fromkeys(number for number in named if isinstance(number, int)))


def _as_transformers_reads(gguf: GgufFile) -> dict[str, Any]:
    """What transformers makes of a file that says the same of its model, and has neither a vocabulary nor weights: those are
    what its reader takes minutes for."""
    from gguf import GGUFValueType, GGUFWriter
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with tempfile.TemporaryDirectory(prefix="softprompt-gguf-") as folder:
        file = Path(folder) / "head.gguf"
        writer = GGUFWriter(file, gguf.architecture)
        for key, value in gguf.metadata.items():
            if (
                key.startswith(("tokenizer.", "split."))
                or key in ("general.architecture", "general.alignment")
                or value == []
            ):
                continue
            kind, inner = gguf.kinds[key]
            writer.add_key_value(key, value, GGUFValueType(kind), None if inner is None else GGUFValueType(inner))
        for tensor in gguf.tensors:
            writer.add_tensor(tensor.name, np.zeros(1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        config: dict[str, Any] = load_gguf_checkpoint(str(file), return_tensors=False)["config"]
    return config


def _left_out(gguf: GgufFile, source: str) -> dict[str, Any]:
    """What else the file says that changes the computation."""
    of, architecture = gguf.of_model, gguf.architecture
    embedding = gguf.tensor("token_embd.weight")
    assert embedding is not None
    values: dict[str, Any] = {"vocab_size": embedding.shape[0]}
    width = of("attention.key_length") or of("embedding_length") // _largest(of("attention.head_count"))
    if (scaling := _scaling(gguf, width, source)) is not None:
        values["rope_scaling"] = scaling
    if architecture == "gpt2":
        values["n_positions"] = of("context_length")
    if architecture in _SLIDES and of("attention.sliding_window"):
        values["sliding_window"] = of("attention.sliding_window")
    if architecture in _ROTATES_A_PART and of("rope.dimension_count"):
        values["partial_rotary_factor"] = of("rope.dimension_count") / width
    if architecture in _OF_27B:
        large = of("block_count") == _OF_27B[architecture]
        values["query_pre_attn_scalar"] = of("embedding_length") // of("attention.head_count") if large else width
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if of(name) is not None:
                values[name] = of(name)
        if of("rope.freq_base_swa") is not None:
            values["rope_local_base_freq"] = of("rope.freq_base_swa")
    for tensor, rows, name in _EXPERTS:
        if (found := gguf.tensor(f"blk.0.{tensor}.weight")) is not None:
            values[name] = found.shape[rows]
    if architecture.startswith("qwen") and of("attention.key_length"):
        values["head_dim"] = width
    return values


def _scaling(gguf: GgufFile, width: int, source: str) -> dict[str, Any] | None:
    """How positions beyond the trained ones are reached; None where they are not."""
    kind, factor = gguf.of_model("rope.scaling.type"), gguf.of_model("rope.scaling.factor")
    if gguf.of_model("rope.scale_linear") is not None:
        kind, factor = "linear", gguf.of_model("rope.scale_linear")
    factors = gguf.tensor(_ROPE_FACTORS)
    if factors is not None:
        given = read_numbers(factors)
        rotated = gguf.of_model("rope.dimension_count") or width
        theta = gguf.of_model("rope.freq_base") or 10000.0
        wanted = _llama3_factors(rotated, theta, float(given.max()))
        if kind not in (None, "none") or given.shape != wanted.shape or not np.allclose(given, wanted, rtol=1e-3):
            raise BaseModelError(
                f"{source!r} turns positions by factors of its own ({_ROPE_FACTORS}) that are not Llama 3's, which is not "
                "read from GGUF files; give the model as transformers saves it"
            )
        return {"rope_type": "llama3", "factor": float(given.max()), **_LLAMA3} if given.max() > 1 else None
    if kind in (None, "none") or (kind == "linear" and factor in (None, 1.0)):
        return None
    if kind != "linear":
        raise BaseModelError(
            f"{source!r} stretches positions by {kind!r}, which is not read from GGUF files; give the model as transformers "
            "saves it"
        )
    return {"rope_type": "linear", "factor": float(factor)}


def _llama3_factors(width: int, theta: float, factor: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What Llama 3 divides the frequencies of positions by, for each pair of numbers of a head."""
    length = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    waves = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _largest(count: int | list[int]) -> int:
    return max(count) if isinstance(count, list) else count
