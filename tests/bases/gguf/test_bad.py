"""A GGUF file that makes no base is called what it is, before torch is loaded where its head shows it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.folder import check_options
from softprompt.bases.gguf.file import TYPES, read_gguf
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError
from tests.commands import Run
from tests.gguf_files import make_model, save_gguf, tensors_of, vocabulary_metadata, write
from tests.test_import_speed import heavy_after


def cut(at: float) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        data = save_gguf(file).read_bytes()
        file.write_bytes(data[: int(len(data) * at)])

    return make


def patched(at: int, data: bytes) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        whole = save_gguf(file).read_bytes()
        file.write_bytes(whole[:at] + data + whole[at + len(data) :])

    return make


def saved(**options: Any) -> Callable[[Path], None]:
    return lambda file: save_gguf(file, **options) and None


def of_kind(number: int) -> Callable[[Path], None]:
    """A file whose first tensor is of a type by number."""

    def make(file: Path) -> None:
        data = save_gguf(file).read_bytes()
        name = b"token_embd.weight"
        at = data.index(name) + len(name) + 4 + 2 * 8
        file.write_bytes(data[:at] + struct.pack("<I", number) + data[at + 4 :])

    return make


def bare(architecture: str, metadata: dict[str, Any]) -> Callable[[Path], None]:
    tensors = {"token_embd.weight": np.zeros((320, 32), np.float32)}
    return lambda file: write(file, architecture, vocabulary_metadata() | metadata, tensors) and None


HEADS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda f: f.touch(), "is no GGUF file: it is empty"),
    "something else": (lambda f: f.write_bytes(b"PK\3\4" + bytes(99)) and None, "is no GGUF file: it begins with b'PK"),
    "a pointer": (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n") and None, "is a Git LFS pointer"),
    "the magic alone": (lambda f: f.write_bytes(b"GGUF\3\0\0") and None, "cut short: it ends behind its first bytes"),
    "an old version": (patched(4, b"\1"), "of version 1, and versions 2 and 3 are read"),
    "a new version": (patched(4, b"\4"), "of version 4"),
    "big-endian": (saved(endianess=gguf.GGUFEndian.BIG), "of big-endian machines"),
    "cut in the metadata": (cut(0.02), "is a GGUF file that is cut short: it ends in its metadata"),
    "cut in the weights": (cut(0.9), "is cut short: it ends before the end of the tensor"),
    "cut by a byte": (cut(0.99999), "is cut short: it ends before the end of the tensor"),
    "a long text": (patched(24, struct.pack("<Q", 1 << 62)), "it ends in its metadata"),
    "many values": (patched(16, struct.pack("<Q", 1 << 60)), "it ends in its metadata"),
    "a type that is not read": (of_kind(36), "'token_embd.weight' in a type that is not read, number 36 of GGML"),
    "a vocabulary": (
        lambda f: write(f, "llama", vocabulary_metadata(), {}) and None,
        "holds a vocabulary and no weights",
    ),
    "no embedding": (saved(tensors={"token_embd.weight": None}), "has no token embedding"),
    "a LoRA adapter": (bare("llama", {"general.type": "adapter"}), "is a LoRA adapter in GGUF's form"),
    "eyes": (bare("clip", {"general.type": "mmproj"}), "give the file of its language model"),
    "an encoder": (bare("bert", {}), "is an encoder (bert)"),
    "another encoder": (bare("nomic-bert", {}), "is an encoder (nomic-bert)"),
    "a decoder as an encoder": (bare("llama", {"llama.attention.causal": False}), "is an encoder (llama)"),
    "an encoder-decoder": (bare("t5", {}), "its task type is SEQ_2_SEQ_LM"),
    "an unknown architecture": (bare("rwkv7", {}), "the architecture 'rwkv7', which is not read from GGUF files"),
    "no tokenizer": (saved(metadata={"tokenizer.ggml.model": None}), "has no tokenizer"),
    "no tokens": (saved(metadata={"tokenizer.ggml.tokens": None}), "has no tokenizer"),
    "no merges": (saved(metadata={"tokenizer.ggml.merges": None}), "has half a tokenizer: its merges"),
    "another tokenizer": (saved(metadata={"tokenizer.ggml.model": "rwkv"}), "a tokenizer of the kind 'rwkv'"),
    "a small embedding": (
        saved(tensors={"token_embd.weight": np.zeros((319, 32), np.float32)}),
        "has 320 tokens in its vocabulary and an embedding of 319 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
def test_what_a_head_shows_is_told_before_anything_is_loaded(what: str, tmp_path: Path, run: Run) -> None:
    make, said = HEADS[what]
    file = tmp_path / "model.gguf"
    make(file)
    with pytest.raises(BaseModelError) as error:
        check_options(BaseOptions(source=str(file)))
    assert said in str(error.value)
    assert str(file) in str(error.value)
    done = run("base", "show", file)
    assert done.code == 1
    assert said.replace(" ", "") in "".join(done.err.split())


def test_a_head_is_looked_at_without_torch(tmp_path: Path) -> None:
    save_gguf(tmp_path / "m.gguf")
    code = f"""
from softprompt.bases.folder import check_options
from softprompt.bases.options import BaseOptions
check_options(BaseOptions(source={str(tmp_path / "m.gguf")!r}))
"""
    assert heavy_after(code) == []


def nan_in(name: str) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        model = make_model("llama")
        value = tensors_of(model, "llama")[name].copy()
        value.reshape(-1)[5] = np.nan
        save_gguf(file, model=model, tensors={name: value})

    return make


LOADED: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN in a layer": (nan_in("blk.1.ffn_up.weight"), "the weight 'model.layers.1.mlp.up_proj.weight' of"),
    "NaN in a norm": (nan_in("output_norm.weight"), "holds NaN or infinity"),
    "a weight too few": (saved(tensors={"blk.0.attn_v.weight": None}), "lacks 1 weights, 'model.layers.0.self_attn.v_proj"),
    "a weight too many": (
        saved(tensors={"blk.0.attn_q.bias": np.zeros(32, np.float32)}),
        "1 tensors that LlamaForCausalLM has no place for, 'blk.0.attn_q.bias' among them",
    ),
    "another shape": (
        saved(tensors={"blk.0.ffn_up.weight": np.zeros((66, 32), np.float32)}),
        "in the shape (66, 32), and its config asks for (64, 32)",
    ),
    "stretched positions": (
        saved(metadata={"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}),
        "stretches positions by 'yarn', which is not read",
    ),
    "positions turned by factors": (
        saved(tensors={"rope_freqs.weight": np.array([1, 2, 3, 4], np.float32)}),
        "turns positions by factors of its own",
    ),
    "a config that lacks something": (saved(metadata={"llama.attention.head_count": None}), "cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("what", LOADED)
def test_what_the_weights_show_is_told_when_it_is_loaded(what: str, tmp_path: Path) -> None:
    make, said = LOADED[what]
    make(tmp_path / "model.gguf")
    with pytest.raises(BaseModelError) as error:
        FrozenBase.load(str(tmp_path / "model.gguf"), device="cpu")
    assert said in str(error.value)


def test_numbers_too_large_for_a_dtype(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "m.gguf", tensors={"output_norm.weight": np.full(32, 1e5, np.float32)})
    with pytest.raises(BaseModelError, match="numbers too large for float16; give --dtype bfloat16"):
        FrozenBase.load(str(file), device="cpu", dtype="float16")
    assert FrozenBase.load(str(file), device="cpu", dtype="bfloat16").width == 32


def test_a_transformers_that_reads_no_tokenizer_of_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    monkeypatch.delattr(gguf_tokenizer_mapping, "GGUF_TOKENIZER_MAPPING")  # as up to 5.17
    file = save_gguf(tmp_path / "m.gguf")
    with pytest.raises(BaseModelError, match=r"from 5\.18 on; .* is installed: pip install -U transformers"):
        FrozenBase.load(str(file), device="cpu")


def test_the_types_are_those_of_the_gguf_package() -> None:
    for number, (name, numbers, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (numbers, size))
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)  # every one is read
    unread = {kind.name for kind in gguf.GGMLQuantizationType} - {name for name, *_ in TYPES.values()}
    assert unread == {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "NVFP4", "Q1_0"}


def test_the_head_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "m.gguf", metadata={"general.alignment": 64, "some.numbers": [1.5, 2.5]})
    mine, theirs = read_gguf(file), gguf.GGUFReader(file)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert mine.metadata == {name: field.contents() for name, field in fields.items()}
    assert [(t.name, t.shape, t.kind, t.start, t.bytes) for t in mine.tensors] == [
        (t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
