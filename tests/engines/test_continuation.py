"""Text that is certain, stop texts, and where a continuation ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from softprompt.engines.continuation import Continuation, TextStream
from softprompt.engines.protocol import Sampling
from tests.models import tokenizer

END = 0


def decode(ids: list[int]) -> str:
    text: str = tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class Read:
    """How a decoder alone is read."""

    def __init__(self, decode: Callable[[list[int]], str], byte_ids: Set[int] = frozenset()) -> None:
        self._decode, self.byte_ids, self.names = decode, byte_ids, dict[int, str]()

    def decode(self, ids: Sequence[int], /) -> str:
        return self._decode(list(ids))


READ = Read(decode)


def encode(text: str) -> list[int]:
    ids: list[int] = tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


def run(ids: list[int], **sampling: object) -> tuple[list[str], str | None, int]:
    """Texts of the pieces, why it ended, tokens counted."""
    how = Sampling(**{"max_tokens": 10_000, **sampling})  # type: ignore[arg-type]
    continuation = Continuation(how, READ, {END})
    texts = []
    for token in [*ids, END]:
        piece = continuation.push(token)
        if piece:
            texts.append(piece.text)
            if piece.finish:
                return texts, piece.finish, piece.count
    raise AssertionError("it never ended")


@given(st.text(alphabet=st.characters(exclude_characters="�", exclude_categories=["Cs"]), max_size=60))
def test_no_half_character_is_ever_given(text: str) -> None:
    stream = TextStream(READ)
    given = [stream.push(token) for token in encode(text)]
    assert "".join(given) == text
    assert not any("�" in part for part in given)


@given(st.lists(st.integers(2, 319), max_size=60))
def test_any_tokens_give_the_text_of_all_of_them(ids: list[int]) -> None:
    """Bytes that are no text too; an unfinished character at the end comes when it is sure to stay so."""
    stream = TextStream(READ)
    given = "".join(stream.push(token) for token in ids)
    assert given + stream.rest == decode(ids)
    assert set(stream.rest) <= {"�"}


def bytes_tokenizer() -> tuple[Tokenizer, dict[str, int]]:
    """One that spells characters it does not know by their bytes, as Llama's does, and its vocabulary."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁the"]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend, vocabulary


BACKEND, VOCABULARY = bytes_tokenizer()


@given(st.lists(st.sampled_from(["a", "b", "▁the", "▁", *"é漢😀"]), max_size=40))
def test_runs_of_single_bytes_become_their_characters(parts: list[str]) -> None:
    """Such decoders mark the whole run until it is valid again, characters that were given among it."""
    ids = [
        VOCABULARY[name]
        for part in parts
        for name in ([part] if part in VOCABULARY else map("<0x{:02X}>".format, part.encode()))
    ]
    stream = TextStream(Read(BACKEND.decode, set(range(1, 257))))
    given = [*(stream.push(token) for token in ids), stream.rest]
    assert "".join(given) == BACKEND.decode(ids)
    assert not any("�" in part for part in given)


def test_long_texts_are_not_decoded_again_and_again() -> None:
    lengths: list[int] = []

    def counting(ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode(ids)

    stream = TextStream(Read(counting))
    for token in encode("the person is good. " * 100):
        stream.push(token)
    assert max(lengths) <= 20
    assert len(lengths) <= 1.2 * len(encode("the person is good. " * 100))


WORDS = st.text(alphabet="abé", min_size=1, max_size=4)


@given(text=st.text(alphabet="abé ", max_size=30), stops=st.lists(WORDS, min_size=1, max_size=3))
def test_stop_texts_equal_the_slow_twin(text: str, stops: list[str]) -> None:
    """The twin looks at the whole text after each token."""
    ids = encode(text)
    expected, why, count = text, "stop", len(ids) + 1  # the end token
    for taken in range(1, len(ids) + 1):
        so_far = decode(ids[:taken]).rstrip("�")
        found = [so_far.index(stop) for stop in stops if stop in so_far]
        if found:
            expected, count = so_far[: min(found)], taken
            break
    texts, finish, counted = run(ids, stop=tuple(stops))
    assert ("".join(texts), finish, counted) == (expected, why, count)


def test_text_that_may_begin_a_stop_is_held_back() -> None:
    continuation = Continuation(Sampling(max_tokens=99, stop=("abc",)), READ, {END})
    given = [piece.text if (piece := continuation.push(token)) else None for token in encode("xababd")]
    assert given == ["x", None, None, "ab", None, "abd"]


def test_it_ends_at_the_bound_or_with_the_room() -> None:
    assert run(encode("x" * 9), max_tokens=4) == (["x"] * 4, "length", 4)
    continuation = Continuation(Sampling(max_tokens=99), READ, {END}, room=2)
    pieces = [continuation.push(token) for token in encode("xx")]
    assert [piece.finish for piece in pieces if piece] == [None, "length"]


def test_held_text_comes_with_the_end() -> None:
    assert run(encode("xab"), stop=("abc",)) == (["x", "ab"], "stop", 4)
    assert run(encode("xab"), stop=("abc",), max_tokens=3)[0] == ["x", "ab"]


def test_empty_stop_texts_are_none() -> None:
    assert run(encode("xy"), stop=("",)) == (["x", "y", ""], "stop", 3)
