"""Text to ids and back: text that is only text, text behind other text, and tokens that a base cannot read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.bases.spelling import ANCHORS, Spelling, mark_controls
from softprompt.errors import BaseModelError, DataError
from tests.models import WORDS, save_base
from tests.spellings import CONTROLS, KINDS, MAKERS, MARKING, base, tokenizer

ALPHABET = "ab :.,<>|/snduker\n"
PLAIN = st.text(ALPHABET, max_size=24) | st.lists(st.sampled_from([*WORDS, " ", ": "]), max_size=8).map("".join)
NAMING = st.lists(st.sampled_from([*CONTROLS, "<", "s>", "|>", " ", "red", " the", ":"]), max_size=8).map("".join)


def as_the_tokenizer_does(kind: str, text: str) -> list[int]:
    ids: list[int] = tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
    return ids


def named(text: str) -> bool:
    return any(control in text for control in CONTROLS)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60)
@given(text=PLAIN)
def test_ids_of_ordinary_text_are_the_tokenizers(kind: str, text: str) -> None:
    if not named(text):
        assert base(kind).encode([text]) == [as_the_tokenizer_does(kind, text)]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60)
@given(before=PLAIN, user=NAMING, after=PLAIN, cut=st.booleans())
def test_no_control_token_comes_out_of_what_a_user_writes(kind: str, before: str, user: str, after: str, cut: bool) -> None:
    spelling = Spelling(tokenizer(kind), kind, base(kind).embedding)
    if cut:  # as with a tokenizer that cannot be marked
        spelling.__dict__["_marked"] = None
    unknown = {0} if kind in ("unigram", "words") else set()
    if named(before) or named(after):
        return
    for parts in ([("", user)], [(before, user), (after, "")], [("", before), ("", user)]):
        (ids,) = spelling.encode([parts])
        assert not set(ids) & set(range(len(CONTROLS))) - unknown
        text = "".join(author + said for author, said in parts)
        if not unknown:
            assert spelling.decode(ids).lstrip(" ") == text.lstrip(" ")
    (ids,) = spelling.encode([[(f"<s>{before}", user), (f"<|end|>{after}", "")]])
    assert [token for token in ids if token in range(1, len(CONTROLS))] == [1, 4]


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_first", "metaspace_always", "gemma", "byte_level"])
@settings(max_examples=60)
@given(text=NAMING)
def test_a_users_text_has_the_ids_of_the_tokenizers_own_way(kind: str, text: str) -> None:
    split = tokenizer(kind)(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert base(kind).encode([text]) == [split]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60)
@given(before=NAMING, after=NAMING, word=st.sampled_from(["red", " the ", "a", ""]))
def test_what_an_author_writes_has_the_ids_of_the_joined_text(kind: str, before: str, after: str, word: str) -> None:
    own, joined = base(kind), before + word + after
    found = own.spelling._pattern.findall
    if found(joined) == found(before) + found(after):
        assert own.encode([[(before, word), (after, "")]]) == [as_the_tokenizer_does(kind, joined)]


def test_only_what_names_a_control_token_takes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spelling, "_spell_controls", lambda *_: pytest.fail("not needed"))
    base("llama_2").encode(["the red", "é", [("<s>", "the red"), ("</s>", "")], [("<s> a </s>", "")]])
    base("unigram").encode(["what the vocabulary lacks: éé"])


def test_the_first_text_that_may_name_one_takes_long_and_no_other() -> None:
    spelling = Spelling(tokenizer("llama_2"), "x", base("llama_2").embedding)
    assert [spelling.takes_long(text) for text in ("the red < a", "a </s>", "<|")] == [False, True, True]
    spelling.encode(["a </s>"])
    assert not spelling.takes_long("a </s>")


def test_words_that_are_control_tokens_by_merges_or_likelihoods_are_taken_from_the_model() -> None:
    """Tokenizers that were made from sentencepiece have such merges; unigram models have such words."""
    made: dict[str, Any] = {
        "added_tokens": [{"content": "<s>", "normalized": True, "single_word": True}],
        "model": {"vocab": {"<": 0, "s": 1, "s>": 2, "<s>": 3}, "merges": [["s", ">"], ["<", "s>"]], "unk_token": "<s>"},
        "post_processor": {},
    }
    marked = mark_controls(made, {"<s>": 3}, "#")
    assert marked["model"] == {"vocab": {"<": 0, "s": 1, "s>": 2, "#<s>": 3}, "merges": [["s", ">"]], "unk_token": "#<s>"}
    assert marked["added_tokens"] == [{"content": "#<s>", "normalized": False, "single_word": False}]
    assert 2 in as_the_tokenizer_does("unigram", "a</s>")
    assert 2 not in base("unigram").encode(["a</s>"])[0]


def test_a_single_character_is_text_whatever_it_is_called() -> None:
    made = tokenizer("byte_level").__class__(tokenizer_object=MAKERS["byte_level"](), pad_token="!", eos_token="</s>")
    spelling = Spelling(made, "padded", base("byte_level").embedding)
    assert "!" not in spelling.controls
    assert spelling.decode(spelling.encode(["what!"])[0]) in ("what!", "what")
    assert spelling.encode(["what!"]) == [made("what!", add_special_tokens=False)["input_ids"]]


# Behind other text


@pytest.mark.parametrize("kind", MAKERS)
def test_which_tokenizers_mark_words(kind: str) -> None:
    assert base(kind).spelling.marks_words == (kind in MARKING)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80)
@given(first=st.sampled_from(["red", "the river:", "what is 1\nit", "a ="]), answer=PLAIN)
def test_an_input_and_an_answer_encoded_apart_decode_to_the_joined_text(kind: str, first: str, answer: str) -> None:
    own = base(kind)
    (before,), (behind,) = own.encode([first]), own.encode([answer], behind=True)
    if 0 in before + behind:  # the unigram one lacks some letters
        return
    assert own.decode([*before, *behind]) == own.decode(before) + answer
    if kind not in MARKING:
        assert behind == own.encode([answer])[0]


@pytest.mark.parametrize("kind", MARKING)
def test_an_answer_has_a_word_mark_where_it_begins_with_a_space(kind: str) -> None:
    own = base(kind)
    yes, space_yes = own.encode(["yes", " yes"], behind=True)
    names = own.tokenizer.convert_ids_to_tokens
    assert "".join(names(yes)) == "yes"
    assert "".join(names(space_yes)).replace("Ġ", "▁") == "▁yes"


def test_an_answer_that_no_anchor_stands_before_is_encoded_alone() -> None:
    spelling = Spelling(tokenizer("llama_2"), "x", base("llama_2").embedding)
    assert spelling.marks_words
    spelling.__dict__["_anchors"] = [(anchor, [99]) for anchor in ANCHORS]
    assert spelling.encode(["yes"], behind=True) == spelling.encode(["yes"])


def test_control_tokens_of_an_answers_template_are_kept() -> None:
    for kind in ("llama_2", "byte_level"):
        (ids,) = base(kind).encode([[(" ", "yes </s>"), ("<|end|>", "")]], behind=True)
        assert ids[-1] == 4
        assert 2 not in ids


def test_what_a_tokenizer_would_begin_texts_with_is_known() -> None:
    assert base("llama_2").spelling.begins_with == "<s>"
    assert base("byte_level").spelling.begins_with is None


# What a base cannot read


def with_rows(kind: str, rows: int) -> FrozenBase:
    """The base with so many rows in its embedding."""
    own = base(kind)
    spelling = Spelling(own.tokenizer, own.name, torch.nn.Embedding(rows, 4))
    made = FrozenBase(own.model, own.tokenizer, own.name, own.fingerprint)
    made.__dict__["spelling"] = spelling
    return made


def test_a_token_beyond_the_embedding_is_refused_by_name() -> None:
    small = with_rows("byte_level", 300)
    assert small.spelling.beyond == 40
    word = small.tokenizer.convert_ids_to_tokens(320).replace("Ġ", " ")
    with pytest.raises(DataError, match=r"row 7 holds the token .* \(id \d+\), for .* has no embedding \(it has 300\)"):
        small.encode([word], name=lambda index: f"row {index + 7}")
    assert small.encode(["s"]) == base("byte_level").encode(["s"])
    assert base("byte_level").spelling.beyond == 0


def test_a_row_that_is_no_number_is_refused_where_it_is_used() -> None:
    own = with_rows("byte_level", 340)
    (token,) = base("byte_level").encode([" red"])[0]
    with torch.no_grad():
        own.spelling._embedding.weight[token, 1] = float("nan")
        own.spelling._embedding.weight[token + 1, 1] = float("inf")
    assert own.spelling.unusable == {token, token + 1}
    with pytest.raises(DataError, match=rf"the text holds the token 'Ġred' \(id {token}\), .* that holds NaN or infinity"):
        own.encode(["a red"])
    assert own.encode(["a", "b"])


def test_both_are_told_when_a_base_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_base(tmp_path / "base", "gpt_neox")
    tokens = FrozenBase.load(str(folder)).tokenizer
    tokens.add_tokens(["<image>", "<video>"], special_tokens=False)
    tokens.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        loaded = FrozenBase.load(str(folder), dtype="float32")
    assert "has 2 tokens more than its embedding has rows (320)" in caplog.text
    with pytest.raises(DataError, match="the token '<image>' \\(id 320\\)"):
        loaded.encode(["an <image> of it"])
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[5] = float("nan")
    loaded.model.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        FrozenBase.load(str(folder), dtype="float32")
    assert "1 of 320 rows of the embedding of base hold NaN or infinity" in caplog.text


def test_a_head_that_is_no_number_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "llama")
    loaded = FrozenBase.load(str(folder), dtype="float32")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[5] = float("nan")
    loaded.model.save_pretrained(folder)
    with pytest.raises(BaseModelError, match="row 5 of its embedding, which is its head too, holds NaN"):
        FrozenBase.load(str(folder), dtype="float32")


def test_the_end_that_only_the_generation_settings_name(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "gpt_neox")
    loaded = FrozenBase.load(str(folder))
    loaded.tokenizer.eos_token = None
    loaded.tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    again = FrozenBase.load(str(folder))
    assert again.end_id == 9
    assert again.end_ids == {7, 9}
    (folder / "generation_config.json").write_text('{"eos_token_id": 400}')
    assert FrozenBase.load(str(folder)).end_id is None  # the embedding has no such row
