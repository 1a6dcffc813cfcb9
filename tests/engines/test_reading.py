"""Text and tokens of continuations, with tokenizers of every kind: equal to what the tokenizer's own decoder makes of all
tokens, less what stands before."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softprompt.engines.continuation import Continuation, TextStream, text_behind
from softprompt.engines.protocol import Piece, Sampling, TokenProbability
from tests.models import WORDS
from tests.spellings import CONTROLS, MAKERS, base

TOKENS = st.lists(st.integers(0, 10_000), max_size=40)
RUNS = st.text(st.sampled_from("aé漢😀 \n."), max_size=16)
BEFORE = st.sampled_from(["", "red", "the river:\n", "é", "a 漢", " ", "what is it? " * 9])
END = 2


def some_ids(kind: str, numbers: list[int], text: str) -> list[int]:
    """Any tokens at all, then those of a text, bytes among them."""
    spelling = base(kind).spelling
    rows = len(base(kind).tokenizer)
    some = [number % rows for number in numbers] + spelling.encode([text], behind=True)[0]
    return [token for token in some if token != END]


def answer(kind: str, ids: list[int], before: list[int], sampling: Sampling) -> list[Piece]:
    spelling = base(kind).spelling
    continuation = Continuation(sampling, spelling, {END}, before=before)
    rows = len(base(kind).tokenizer)
    pieces = []
    for token in [*ids, END]:
        top = tuple((other, "", -1.0) for other in {token, (token * 7 + 3) % rows, (token + 1) % rows})
        likely = TokenProbability(token, "", -1.0, top) if sampling.logprobs is not None else None
        if piece := continuation.push(token, likely):
            pieces.append(piece)
            if piece.finish:
                return pieces
    raise AssertionError("it never ended")


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=80)
@given(numbers=TOKENS, text=RUNS, start=BEFORE)
def test_streamed_and_whole_text_are_the_decoding_of_all_tokens(
    kind: str, numbers: list[int], text: str, start: str
) -> None:
    spelling = base(kind).spelling
    (before,) = spelling.encode([start])
    ids = some_ids(kind, numbers, text)
    whole, stands = spelling.decode([*before, *ids]), spelling.decode(before)
    assume(whole.startswith(stands))  # bytes that fit nothing can spoil the run that the input ends with
    stream = TextStream(spelling, before)
    given = "".join(stream.push(token) for token in ids)
    assert given + stream.rest == whole[len(stands) :] == text_behind(spelling, before, ids)
    pieces = answer(kind, ids, before, Sampling(max_tokens=999))
    assert "".join(piece.text for piece in pieces) == whole[len(stands) :]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=80)
@given(
    numbers=TOKENS,
    text=RUNS,
    start=BEFORE,
    stops=st.lists(st.text(st.sampled_from("ab é漢\nre"), min_size=1, max_size=3), max_size=3),
    most=st.integers(1, 60),
)
def test_tokens_make_up_the_text_and_each_comes_once(
    kind: str, numbers: list[int], text: str, start: str, stops: list[str], most: int
) -> None:
    spelling = base(kind).spelling
    (before,) = spelling.encode([start])
    ids = some_ids(kind, numbers, text)
    pieces = answer(kind, ids, before, Sampling(max_tokens=most, stop=tuple(stops), logprobs=2))
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in tokens] == [*ids, END][: pieces[-1].count]
    assert "".join(token.text for token in tokens) == "".join(piece.text for piece in pieces)
    given = told = 0
    for piece in pieces[:-1]:  # a token never comes before its text
        given, told = given + len(piece.text), told + sum(len(token.text) for token in piece.tokens)
        assert told <= given


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_always", "gemma", "byte_level"])
@settings(max_examples=80)
@given(text=RUNS, stops=st.lists(st.text(st.sampled_from("ab é漢\n"), min_size=1, max_size=3), min_size=1, max_size=3))
def test_stop_texts_are_seen_with_the_token_that_completes_them(kind: str, text: str, stops: list[str]) -> None:
    """Also in a run of bytes, which is not given away before it is over. The twin decodes everything after each token."""
    spelling = base(kind).spelling
    (before,), (ids,) = spelling.encode(["red:"]), spelling.encode([text], behind=True)
    stands = len(spelling.decode(before))
    expected, count = text, len(ids) + 1
    for taken in range(1, len(ids) + 1):
        so_far = spelling.decode([*before, *ids[:taken]])[stands:].rstrip("�")
        found = [so_far.index(stop) for stop in stops if stop in so_far]
        if found:
            expected, count = so_far[: min(found)], taken
            break
    pieces = answer(kind, ids, before, Sampling(max_tokens=999, stop=tuple(stops)))
    assert ("".join(piece.text for piece in pieces), pieces[-1].count) == (expected, count)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_control_token_stops_where_its_text_is_a_stop(kind: str) -> None:
    own = base(kind)
    ids = [*own.encode([" red the"], behind=True)[0], CONTROLS.index("<|end|>"), *own.encode([" a"], behind=True)[0]]
    pieces = answer(kind, ids, own.encode(["the"])[0], Sampling(max_tokens=99, stop=("<|end|>",), logprobs=1))
    assert (pieces[-1].finish, pieces[-1].count) == ("stop", len(ids) - len(own.encode([" a"], behind=True)[0]))
    if kind != "words":
        assert "".join(piece.text for piece in pieces).strip() == "red the"
    assert len(answer(kind, ids, [], Sampling(max_tokens=99))) > 1  # and not where it is none
    if kind in ("llama_2", "byte_level"):  # a text that looks like it is one too
        spelt = [*own.encode([" a"], behind=True)[0], *own.encode(["<|end|>"], behind=True)[0], 9]
        pieces = answer(kind, spelt, [], Sampling(max_tokens=99, stop=("<|end|>",)))
        assert ("".join(piece.text for piece in pieces).strip(), pieces[-1].count) == ("a", len(spelt) - 1)


def test_the_space_before_the_first_word_is_there_where_it_was_said() -> None:
    for kind in ("llama_2", "metaspace_first", "metaspace_always", "unigram"):
        own = base(kind)
        (before,), ids = own.encode(["the"]), own.tokenizer.convert_tokens_to_ids(["▁red", "▁is"])
        pieces = answer(kind, ids, before, Sampling(max_tokens=99, logprobs=1))
        assert "".join(piece.text for piece in pieces) == " red is"
        assert [token.text for piece in pieces for token in piece.tokens] == [" red", " is", ""]


def test_alternatives_are_called_what_they_would_add() -> None:
    own = base("llama_2")
    (before,) = own.encode(["the"])
    names = ["▁red", "r", "</s>", "<0xC3>"]
    ids = own.tokenizer.convert_tokens_to_ids(names)
    continuation = Continuation(Sampling(max_tokens=9, logprobs=4), own.spelling, {END}, before=before)
    piece = continuation.push(ids[0], TokenProbability(ids[0], "", -1, tuple((token, "", -1.0) for token in ids)))
    assert piece is not None
    assert [text for _, text, _ in piece.tokens[0].top] == [" red", "r", "</s>", "�"]


def test_a_run_of_bytes_is_given_when_it_is_over_and_its_tokens_have_their_characters() -> None:
    own = base("llama_2")
    names = ["a", "<0x0A>", "<0xC3>", "<0xA9>", "b"]
    ids = own.tokenizer.convert_tokens_to_ids(names)
    pieces = answer("llama_2", ids, own.encode(["the"])[0], Sampling(max_tokens=99, logprobs=1))
    assert [piece.text for piece in pieces] == ["a", "\néb", ""]
    assert [token.text for piece in pieces for token in piece.tokens] == ["a", "\n", "", "é", "b", ""]


def test_long_inputs_are_not_decoded_for_each_token() -> None:
    own = base("llama_2")
    lengths: list[int] = []

    class Counting:
        byte_ids, names = own.spelling.byte_ids, own.spelling.names

        def decode(self, ids: object, /) -> str:
            lengths.append(len(ids))  # type: ignore[arg-type]
            return own.decode(ids)  # type: ignore[arg-type]

    (before,) = own.encode([" ".join(WORDS) * 20])
    stream = TextStream(Counting(), before)
    for token in before[:200]:
        stream.push(token)
    assert max(lengths) <= 40
    assert len(lengths) <= 1.2 * 200
