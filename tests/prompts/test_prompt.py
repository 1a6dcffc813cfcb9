"""The soft prompt and its file: reproducible, verified, in several precisions, bound to its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from softprompt.bases.base import FrozenBase
from softprompt.errors import FingerprintMismatch, PromptFileError
from softprompt.prompts import file as card_module
from softprompt.prompts.card import Card, Dtype
from softprompt.prompts.file import CARD_KEY, Stored, digest_of, read_file, write_file
from softprompt.prompts.prompt import TENSOR, SoftPrompt
from softprompt.serving.routing.router import read_centroid
from softprompt.tasks.answers.kinds import log_softmax
from tests.engine_jobs import score_offline
from tests.models import make_base, make_masked
from tests.models import some_prompt as models_prompt


def some_prompt(rows: int = 4, width: int = 32, seed: int = 0, **fields: Any) -> SoftPrompt:
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    known = {"task": "t", "base": "b", "fingerprint": "f"}
    return SoftPrompt(vectors, Card(**{**known, **fields}, num_virtual_tokens=rows, token_dim=width))


def test_a_prompt_comes_back_from_its_bytes_bit_for_bit(tmp_path: Path) -> None:
    prompt = some_prompt()
    for again in (SoftPrompt.from_bytes(prompt.to_bytes()), SoftPrompt.load(prompt.save(tmp_path / "a" / "p.safetensors"))):
        assert torch.equal(again.vectors_PD, prompt.vectors_PD)
        assert again.card == prompt.card
        assert again.digest == prompt.digest == digest_of(prompt.to_bytes())
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["p.safetensors"]


def test_the_bytes_do_not_depend_on_how_the_tensor_lies_in_memory() -> None:
    prompt = some_prompt()
    turned = SoftPrompt(prompt.vectors_PD.t().contiguous().t(), prompt.card)
    assert not turned.vectors_PD.is_contiguous()
    assert turned.to_bytes() == prompt.to_bytes()
    grown = SoftPrompt(prompt.vectors_PD.clone().requires_grad_(), prompt.card)
    assert grown.to_bytes() == prompt.to_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_the_safetensors_library_reads_the_file(tmp_path: Path, dtype: Dtype) -> None:
    prompt = some_prompt().as_dtype(dtype)
    file = prompt.save(tmp_path / "p.safetensors")
    tensors = safetensors.torch.load_file(file)
    vectors = tensors[TENSOR].float()
    if dtype == "int8":
        vectors = vectors * tensors["scale"]
    assert torch.equal(vectors, prompt.vectors_PD)
    with safetensors.safe_open(file, "pt") as opened:
        assert list(opened.metadata()) == [CARD_KEY]


def test_any_byte_flipped_is_refused() -> None:
    data = some_prompt(2, 3).to_bytes()
    for place in range(len(data)):
        for flip in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(PromptFileError):
                SoftPrompt.from_bytes(bytes(damaged))


def test_a_file_of_another_digest_is_refused() -> None:
    one, other = some_prompt(seed=1), some_prompt(seed=2)
    assert SoftPrompt.from_bytes(one.to_bytes(), digest=one.digest).digest == one.digest
    with pytest.raises(PromptFileError, match=f"digest {other.digest[:12]}, not {one.digest[:12]}"):
        SoftPrompt.from_bytes(other.to_bytes(), digest=one.digest)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    prompt = some_prompt()
    vectors = prompt.vectors_PD.clone()
    vectors[1, 2] = value
    with pytest.raises(PromptFileError, match="not finite"):
        SoftPrompt(vectors, prompt.card)
    stored = Stored("F32", tuple(vectors.shape), vectors.numpy().tobytes())
    with pytest.raises(PromptFileError, match="not finite"):
        SoftPrompt.from_bytes(write_file(prompt.card, {TENSOR: stored}))


def test_a_shape_that_is_not_the_cards_is_refused() -> None:
    prompt = some_prompt()
    with pytest.raises(PromptFileError, match="the card says 4 x 32 and the tensor is 3 x 32"):
        SoftPrompt(prompt.vectors_PD[:3], prompt.card)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"other": Stored("F32", (4, 32), bytes(512))},
        {TENSOR: Stored("F16", (4, 32), bytes(256))},
        {TENSOR: Stored("F32", (4, 32), bytes(508))},
        {TENSOR: Stored("F32", (4, 32), b"")},
        {TENSOR: Stored("F32", (4, 32), bytes(511))},
        {TENSOR: Stored("F64", (4, 32), bytes(1024))},
        {TENSOR: Stored("F32", ("a", 32), bytes(512))},  # type: ignore[arg-type]
        {TENSOR: Stored("F32", (1 << 70, 32), bytes(512))},
        {TENSOR: Stored("F32", (4, 32), bytes(512)), "centroid": Stored([], (32,), bytes(128))},  # type: ignore[arg-type]
        {TENSOR: Stored("F32", (4, 32), bytes(512)), "scale": Stored("F32", (4, 1), bytes(16))},
    ],
)
def test_a_file_whose_tensors_are_not_the_cards_is_refused(tensors: dict[str, Stored]) -> None:
    with pytest.raises(PromptFileError):
        SoftPrompt.from_bytes(write_file(some_prompt().card, tensors))


@pytest.mark.parametrize("scale", [Stored("F64", (4, 1), bytes(32)), Stored("F32", (3, 1), bytes(12))])
def test_a_wrong_scale_is_refused(scale: Stored) -> None:
    card = some_prompt().as_dtype("int8").card
    with pytest.raises(PromptFileError):
        SoftPrompt.from_bytes(write_file(card, {TENSOR: Stored("I8", (4, 32), bytes(128)), "scale": scale}))


BOUNDS: dict[Dtype, float] = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 0.5 / 127}
"""Largest error of a value, relative to the value, and for int8 to the largest of its virtual token."""


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_precision_lost_is_bounded_and_lost_only_once(dtype: Dtype) -> None:
    prompt = some_prompt(16, 64)
    stored = prompt.as_dtype(dtype)
    error = (stored.vectors_PD - prompt.vectors_PD).abs()
    size = prompt.vectors_PD.abs()
    assert (error <= BOUNDS[dtype] * (size.amax(1, keepdim=True) if dtype == "int8" else size) * 1.001).all()
    again = SoftPrompt.from_bytes(stored.to_bytes())
    assert torch.equal(again.vectors_PD, stored.vectors_PD)
    assert again.digest == stored.digest
    assert stored.card.dtype == dtype
    length = len(stored.to_bytes()) - len(write_file(stored.card, {}))
    assert length < 16 * 64 * {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[dtype] + 300


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_smaller_form_changes_the_loss_by_less_than_a_hundredth(dtype: Dtype) -> None:
    base = make_base("llama")
    start = base.embed(torch.arange(10, 16))
    prompt = SoftPrompt(start, some_prompt(6).card)
    rows = [list(range(3 + n, 9 + n)) for n in range(8)]
    labels = [((20,), (21,), (22,))] * len(rows)

    def losses(one: SoftPrompt) -> list[float]:
        scores = score_offline(base, [one.vectors_PD], [0] * len(rows), rows, labels)
        return [-log_softmax(scored)[0] for scored in scores]

    before, after = losses(prompt), losses(prompt.as_dtype(dtype))
    assert before != after
    assert sum(after) / len(after) == pytest.approx(sum(before) / len(before), abs=0.01)


def test_numbers_too_large_for_a_smaller_form_are_told() -> None:
    prompt = some_prompt()
    large = SoftPrompt(prompt.vectors_PD * 1e6, prompt.card)
    with pytest.raises(PromptFileError, match=r"up to .*e\+06, too large for float16; use bfloat16"):
        large.as_dtype("float16")
    assert large.as_dtype("bfloat16").vectors_PD.isfinite().all()


def test_int8_keeps_a_virtual_token_of_zeros() -> None:
    prompt = some_prompt()
    vectors = prompt.vectors_PD.clone()
    vectors[2] = 0
    assert torch.equal(SoftPrompt(vectors, prompt.card).as_dtype("int8").vectors_PD[2], torch.zeros(32))


def test_a_prompt_is_refused_on_another_base_by_name_and_fingerprint() -> None:
    base = make_base("llama")
    own = some_prompt(base="random/own", fingerprint=base.fingerprint)
    own.check_base(base)
    with pytest.raises(FingerprintMismatch) as caught:
        some_prompt(base="random/theirs", fingerprint="1234abcd").check_base(base)
    for part in ("random/theirs", "1234abcd", "random/llama", base.fingerprint, "train the task again"):
        assert part in str(caught.value)
    with pytest.raises(FingerprintMismatch, match="its width is 16, not 32"):
        some_prompt(width=16).check_base(base)


def test_a_file_that_is_not_there_or_foreign_is_told(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"none\.safetensors' cannot be read"):
        SoftPrompt.load(tmp_path / "none.safetensors")
    safetensors.torch.save_file({TENSOR: torch.zeros(2, 3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(PromptFileError, match="no softprompt file"):
        SoftPrompt.load(tmp_path / "foreign.safetensors")


def test_the_checksum_covers_card_and_tensors_alike() -> None:
    one, other = some_prompt(seed=1), some_prompt(seed=2)
    card, tensors = read_file(one.to_bytes())
    header = one.to_bytes()[: -4 * 32 * 4]
    assert header == card_module.write_file(card, tensors)[: len(header)]
    with pytest.raises(PromptFileError, match="checksum"):
        SoftPrompt.from_bytes(header + other.to_bytes()[len(header) :])


# Prefixes


def a_prefix(**fields: Any) -> SoftPrompt:
    """Of layers whose keys are fifty times as large as their values."""
    numbers = torch.randn(3, 6, 24, generator=torch.Generator().manual_seed(0))
    numbers[:, ::2] *= 50
    known = {"task": "t", "base": "b", "fingerprint": "f", "prompt_type": "prefix", "layers": ((2, 12, 12),) * 3}
    return SoftPrompt(numbers.flatten(1), Card(**{**known, **fields}, num_virtual_tokens=3, token_dim=144))


def test_a_prefix_comes_back_from_its_bytes_with_a_centroid_of_the_bases_width() -> None:
    prefix = SoftPrompt(a_prefix().vectors_PD, a_prefix().card, torch.arange(32.0))
    again = SoftPrompt.from_bytes(prefix.to_bytes())
    assert torch.equal(again.vectors_PD, prefix.vectors_PD)
    assert again.card == prefix.card
    assert again.digest == prefix.digest
    assert repr(again).startswith("SoftPrompt('t', a prefix, 3 x 144 for b")
    centroid = read_centroid(prefix.to_bytes())
    assert centroid is not None
    assert centroid.tolist() == list(range(32))
    with pytest.raises(PromptFileError, match="centroid"):
        SoftPrompt(prefix.vectors_PD, prefix.card, torch.zeros(2, 32))


def test_an_encoder_whose_embeddings_are_narrower_than_its_states_has_a_centroid_that_auto_reads() -> None:
    known = {"task": "t", "base": "b", "fingerprint": "f", "num_virtual_tokens": 3, "token_dim": 16}
    made = Card(**known, task_type="MASKED_LM", labels=["a", "b"], input="{text} {mask}")
    prompt = SoftPrompt(torch.ones(3, 16), made, torch.arange(32.0))
    assert SoftPrompt.from_bytes(prompt.to_bytes()).centroid_D is not None
    centroid = read_centroid(prompt.to_bytes())
    assert centroid is not None
    assert centroid.tolist() == list(range(32))
    with pytest.raises(PromptFileError, match="says 16 wide and the centroid is \\(32,\\)"):
        SoftPrompt(torch.ones(3, 16), Card(**known, labels=["a", "b"]), torch.arange(32.0))


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.005), ("float16", 0.001), ("int8", 0.02)])
def test_in_a_smaller_form_keys_do_not_drown_values(dtype: Dtype, most: float) -> None:
    prefix, small = a_prefix(), a_prefix().as_dtype(dtype)
    again = SoftPrompt.from_bytes(small.to_bytes())
    assert torch.equal(again.vectors_PD, small.vectors_PD)
    assert small.as_dtype(dtype).to_bytes() == small.to_bytes()
    assert (small.card.format, small.card.dtype) == (2, dtype)
    # a block of 64 numbers: of 24 keys and 24 values each, so mixed here; of real layers, whose heads have 64, either
    wide = torch.cat([prefix.vectors_PD.view(3, 6, 24)[:, part::2].flatten(1) for part in (0, 1)], dim=1)
    card = prefix.card.changed({"layers": ((1, 64, 64),), "token_dim": 128})
    keys_values = SoftPrompt(torch.cat([wide[:, :64], wide[:, 72:136]], dim=1), card)
    found = keys_values.as_dtype(dtype).vectors_PD
    for part in (slice(0, 64), slice(64, 128)):
        expected = keys_values.vectors_PD[:, part]
        assert float((found[:, part] - expected).norm() / expected.norm()) <= most


def test_a_prefix_on_a_base_of_other_layers_is_refused_with_both_numbers() -> None:
    base = make_base("llama")
    with pytest.raises(FingerprintMismatch, match=r"it has keys and values of 3 layers, not 2"):
        a_prefix().check_base(base)


def test_one_file_read_as_another_kind_of_model_is_another_base(tmp_path: Path) -> None:
    """A masked model's file is also an encoder without a head: `architectures` says which, and no fingerprint does."""
    masked = make_masked("bert")
    for one in (masked.model, masked.tokenizer):
        one.save_pretrained(tmp_path / "bert")
    base = FrozenBase.load(str(tmp_path / "bert"))
    prompt = models_prompt(base, "t", labels=("red", "blue"), task_type="MASKED_LM")
    prompt.check_base(base)
    file = tmp_path / "bert" / "config.json"
    for architecture in ("BertForPreTraining", "BertModel"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": [architecture]}))
        other = FrozenBase.load(str(tmp_path / "bert"))
        assert other.fingerprint == base.fingerprint
        if other.task_type == "MASKED_LM":
            prompt.check_base(other)
        else:
            with pytest.raises(FingerprintMismatch, match=r"is for bert as a masked .* makes it an encoder .*\(SEQ_CLS\)"):
                prompt.check_base(other)
