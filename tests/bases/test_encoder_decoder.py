"""Encoder-decoders as bases: loaded by their own class, with what their decoder begins and ends with; or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError, ContextError
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from tests.models import SEQ_2_SEQ, START, make_seq2seq, tokenizer


def save(folder: Path, architecture: str) -> Path:
    base = make_seq2seq(architecture)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("architecture", list(SEQ_2_SEQ))
def test_an_encoder_decoder_is_loaded_whole_and_named(architecture: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", architecture)
    base = FrozenBase.load(str(folder), device="cpu")
    assert (base.task_type, base.model.config.model_type) == ("SEQ_2_SEQ_LM", architecture)
    assert base.architecture == type(base.model).__name__
    assert base.answer_start == (START,)
    assert base.end_ids == {0}
    assert not base.model.training
    assert isinstance(architecture_of(base), EncoderDecoder)
    again = FrozenBase.load(str(folder), device="cpu", dtype="bfloat16")
    assert again.fingerprint == base.fingerprint
    assert again.dtype == torch.bfloat16
    edit(folder / "config.json", decoder_start_token_id=2)
    other = FrozenBase.load(str(folder), device="cpu")
    assert other.fingerprint != base.fingerprint
    assert other.answer_start == (2,)


@pytest.mark.parametrize("architecture", list(SEQ_2_SEQ))
def test_embeddings_are_those_that_the_encoder_makes_of_tokens(architecture: str) -> None:
    base = make_seq2seq(architecture)
    ids_BT = torch.tensor([[5, 9, 200, 31]])
    encoder = base.model.get_encoder()
    told = encoder(input_ids=ids_BT).last_hidden_state
    torch.testing.assert_close(encoder(inputs_embeds=base.embed(ids_BT)).last_hidden_state, told)


def framed_tokenizer() -> Any:
    """A tokenizer that puts one token before each text and one behind it, as BART's does."""
    from tokenizers.processors import TemplateProcessing

    copy = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer.__class__.from_str(tokenizer().backend_tokenizer.to_str()),
        eos_token="<end>", pad_token="<pad>", bos_token="<pad>",
    )  # fmt: skip
    copy.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <end>", special_tokens=[("<pad>", 1), ("<end>", 0)]
    )
    return copy


def test_inputs_are_framed_as_the_tokenizer_frames_them_and_the_room_is_what_is_left() -> None:
    model = make_seq2seq("bart").model
    base = FrozenBase.wrap(model, framed_tokenizer())
    assert base.frame == ((1,), (0,))
    assert base.answer_start == (START,)  # which is what texts begin with, once
    assert base.encode(["red"]) == tokenizer()(["red"], add_special_tokens=False)["input_ids"]
    assert base.budget(10, 20) == 96 - 10 - 2
    assert base.room(94) == 95
    assert base.room(95) == -1
    with pytest.raises(ContextError, match="shorter prompt or answer"):
        base.budget(10, 96)
    with pytest.raises(ContextError):
        base.budget(94, 1)


def test_a_decoder_begins_with_its_start_and_what_its_tokenizer_begins_texts_with() -> None:
    config = SEQ_2_SEQ["bart"]()
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    base = FrozenBase.wrap(transformers.BartForConditionalGeneration(config), framed_tokenizer())
    assert base.answer_start == (0, 1)


def test_an_encoder_decoder_without_a_start_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "t5")
    edit(folder / "config.json", decoder_start_token_id=None)
    with pytest.raises(BaseModelError, match="names no decoder_start_token_id"):
        FrozenBase.load(str(folder), device="cpu")


def test_an_encoder_that_takes_no_vectors_is_refused() -> None:
    model = make_seq2seq("t5").model
    broken = transformers.T5ForConditionalGeneration(model.config)
    forward = broken.get_encoder().forward

    def own(*args: Any, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        return forward(*args, inputs_embeds=None if inputs_embeds is None else 2 * inputs_embeds + 1, **kwargs)

    broken.get_encoder().forward = own
    with pytest.raises(BaseModelError, match="its encoder makes something else of tokens than of their embeddings"):
        FrozenBase.wrap(broken, tokenizer())
