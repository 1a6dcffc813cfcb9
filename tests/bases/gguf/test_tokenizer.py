"""The tokenizer of a GGUF file spells as the one that was written to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.file import read_gguf
from softprompt.bases.gguf.tokenizer import begin_token, tokenizer_of
from tests.gguf_files import save_gguf, vocabulary
from tests.models import tokenizer

TEMPLATE = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
TEXTS = st.text(st.sampled_from("  \n\t.,'sdt0123456789abcé́日😀<>") | st.characters(codec="utf-8"), max_size=30)


def read(file: Path, **metadata: Any) -> Any:
    written = {f"tokenizer.{key}": value for key, value in metadata.items()}
    return tokenizer_of(read_gguf(save_gguf(file, metadata=written)), "m.gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read(tmp_path_factory.mktemp("plain") / "m.gguf")


@pytest.fixture(scope="module")
def by_digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read(tmp_path_factory.mktemp("digits") / "m.gguf", **{"ggml.pre": "smollm"})


@hypothesis.given(TEXTS)
def test_texts_have_the_ids_that_they_had(plain: Any, text: str) -> None:
    assert plain(text)["input_ids"] == tokenizer()(text)["input_ids"]
    assert plain.decode(plain(text)["input_ids"]) == tokenizer().decode(tokenizer()(text)["input_ids"])


@hypothesis.given(TEXTS)
def test_digits_are_split_where_the_file_says_so(by_digits: Any, text: str) -> None:
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert by_digits(text)["input_ids"] == backend.encode(text).ids


def test_special_tokens_template_and_settings_are_the_files(tmp_path: Path) -> None:
    found = read(tmp_path / "m.gguf", **{"chat_template": TEMPLATE, "ggml.bos_token_id": 1, "ggml.add_bos_token": True})
    assert (found.bos_token, found.eos_token, found.pad_token, found.unk_token) == ("<pad>", "<end>", "<pad>", None)
    assert found("red")["input_ids"] == [1, *tokenizer()("red")["input_ids"]]
    assert found("<end>", add_special_tokens=False)["input_ids"] == [0]
    assert found.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<hi>"
    assert len(found) == len(tokenizer())  # no token of another model is added


@pytest.mark.parametrize("adds", [True, False, None])
@pytest.mark.parametrize("bos", [1, None])
def test_what_begins_a_text_is_known_without_the_tokenizer(tmp_path: Path, bos: int | None, adds: bool | None) -> None:
    said = {"tokenizer.ggml.bos_token_id": bos, "tokenizer.ggml.add_bos_token": adds}
    file = save_gguf(tmp_path / "m.gguf", metadata={key: value for key, value in said.items() if value is not None})
    told = begin_token(read_gguf(file))
    assert told == FrozenBase.load(str(file), device="cpu").spelling.begins_with
    assert told == ("<pad>" if bos and adds else None)


def test_what_ends_a_text_is_what_the_file_names(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 0}
    base = FrozenBase.load(str(save_gguf(tmp_path / "m.gguf", metadata=metadata)), device="cpu")
    assert (base.end_id, base.end_ids) == (0, {0, 5})
    assert base.spelling.begins_with is None


@pytest.mark.parametrize(("way", "told"), [("gpt-2", False), ("smollm", False), ("llama-bpe", False), ("viking", True)])
def test_an_unknown_way_to_split_texts_is_told(
    way: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "m.gguf", **{"ggml.pre": way})
    assert ("not known here" in caplog.text) == told


def test_words_that_no_merge_makes_are_taken_whole_where_the_model_learnt_so(tmp_path: Path) -> None:
    merges = [merge for merge in vocabulary()[1] if merge.replace(" ", "") != "Ġred"]
    word = tokenizer()(" red")["input_ids"]
    assert len(word) == 1
    for way, whole in (("gpt-2", False), ("llama-bpe", True)):
        found = read(tmp_path / "m.gguf", **{"ggml.pre": way, "ggml.merges": merges, "ggml.add_bos_token": None})
        ids = found(" red", add_special_tokens=False)["input_ids"]
        assert (ids == word) == whole


def test_accents_are_composed_where_the_model_learnt_so(tmp_path: Path) -> None:
    found = read(tmp_path / "m.gguf", **{"ggml.pre": "qwen2"})
    assert found("e\u0301")["input_ids"] == found("\u00e9")["input_ids"]


SENTENCES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    *"abcdehlorw",
    "he",
    "ll",
    "▁he",
    "▁w",
]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepieces_prefix_is_the_files(prefix: bool, tmp_path: Path) -> None:
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(SENTENCES) - 259)]
    found = read(
        tmp_path / "m.gguf",
        **{
            "ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": SENTENCES, "ggml.token_type": kinds,
            "ggml.scores": [-float(number) for number in range(len(SENTENCES))], "ggml.merges": None,
            "ggml.bos_token_id": 1, "ggml.eos_token_id": 2, "ggml.unknown_token_id": 0, "ggml.padding_token_id": None,
            "ggml.add_space_prefix": prefix, "ggml.add_bos_token": None,
        },
    )  # fmt: skip
    ids = found("hello w")["input_ids"]
    assert found.convert_ids_to_tokens(ids) == ["<s>", *(["▁he"] if prefix else ["he"]), "ll", "o", "▁w"]
    assert found.decode(ids, skip_special_tokens=True) == "hello w"
    assert len(found) == len(SENTENCES)


def test_special_tokens_in_signs_that_bytes_are_not_written_in_are_whole(tmp_path: Path) -> None:
    # DeepSeek's, which its models distilled into Qwen and Llama have.
    special = {"<｜begin▁of▁sentence｜>": 3, "<｜end▁of▁sentence｜>": 3, "<｜User｜>": 3, "<｜Assistant｜>": 4, "<think>": 4}
    tokens, merges = vocabulary()
    first = len(tokens) - len(special)
    words = [*tokens[:first], *special]
    kinds = [3, 3, *[1] * (first - 2), *special.values()]
    left = [merge for merge in merges if {*merge.split(" "), merge.replace(" ", "")} <= {*words}]
    found = read(
        tmp_path / "m.gguf",
        **{"ggml.tokens": words, "ggml.token_type": kinds, "ggml.merges": left, "ggml.pre": "deepseek-r1-qwen"},
        **{"ggml.bos_token_id": first, "ggml.eos_token_id": first + 1, "ggml.padding_token_id": first + 1},
    )
    assert len(found) == len(words)  # no token is new
    assert (found.bos_token_id, found.eos_token_id) == (first, first + 1)
    red = found("red", add_special_tokens=False)["input_ids"]
    ids = found("<｜User｜>red<｜Assistant｜><think>red<｜end▁of▁sentence｜>", add_special_tokens=False)["input_ids"]
    assert ids == [first + 2, *red, first + 3, first + 4, *red, first + 1]
    assert found.decode(ids, skip_special_tokens=True) == "red<｜Assistant｜><think>red"
    assert found.convert_tokens_to_ids(list(special)) == [*range(first, len(words))]
