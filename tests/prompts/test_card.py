"""The card and its file: canonical, reproducible, and refused when any byte differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from softprompt.errors import PromptFileError
from softprompt.prompts.card import FORMAT, Card
from softprompt.prompts.file import CARD_KEY, Stored, digest_of, read_card, read_file, write_file

FIELDS: dict[str, Any] = {
    "task": "t", "base": "b", "fingerprint": "f", "num_virtual_tokens": 2, "token_dim": 3,
    "input": "Ü {text} \"quoted\" 中", "labels": ("yes", "no"), "recipe": {"z": 1, "a": 0.5, "m": [1, None]},
    "metrics": {"value": 1.0, "rows": 3, "untrained": 0.25}, "parents": ("p", "q"),
}  # fmt: skip
TENSORS = {
    "prompt_embeddings": Stored("F32", (2, 3), bytes(range(24))),
    "another": Stored("I8", (5,), b"\x00\xff\x7f\x80\x01"),
}


def some_file() -> bytes:
    return write_file(Card(**FIELDS), TENSORS)


def test_a_file_gives_back_what_was_written() -> None:
    card, tensors = read_file(some_file())
    assert card == Card(**FIELDS)
    assert tensors == TENSORS
    assert read_card(some_file()) == card


def test_equal_cards_are_written_alike_whatever_the_order() -> None:
    turned = {**dict(reversed(FIELDS.items())), "recipe": dict(reversed(FIELDS["recipe"].items()))}
    assert Card(**turned).canonical() == Card(**FIELDS).canonical()
    assert write_file(Card(**turned), dict(reversed(TENSORS.items()))) == some_file()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=5), PLAIN, max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
    st.text(),
)
def test_canonical_json_survives_reading(recipe: dict[str, Any], metrics: dict[str, Any], text: str) -> None:
    card = Card(**{**FIELDS, "recipe": recipe, "metrics": metrics, "input": text})
    again = Card.parse(card.canonical())
    assert again.canonical() == card.canonical()
    data = write_file(card, TENSORS)
    assert write_file(*read_file(data)) == data


def test_a_fresh_process_with_another_hash_seed_writes_the_same_bytes() -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.prompts.test_card import some_file, digest_of\n"
        "print(digest_of(some_file()))"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        found.add(done.stdout.strip())
    assert found == {digest_of(some_file())}


def test_any_byte_flipped_is_refused() -> None:
    data = some_file()
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(PromptFileError):
                read_file(bytes(damaged))


def test_a_file_cut_short_or_made_longer_is_refused() -> None:
    data = some_file()
    for length in range(len(data)):
        with pytest.raises(PromptFileError):
            read_file(data[:length])
    for more in (b"\0", b" ", data):
        with pytest.raises(PromptFileError):
            read_file(data + more)


def rewritten(change: Any) -> bytes:
    """A file whose header was changed by hand, its lengths right."""
    data = some_file()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    change(header)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[size:]


def change_card(**fields: Any) -> Any:
    def change(header: dict[str, Any]) -> None:
        envelope = json.loads(header["__metadata__"][CARD_KEY])
        envelope["card"] |= fields
        header["__metadata__"][CARD_KEY] = json.dumps(envelope)

    return change


def test_a_newer_format_is_told_as_such() -> None:
    with pytest.raises(PromptFileError, match=rf"format {FORMAT + 1}, .* up to {FORMAT}; upgrade softprompt"):
        read_file(rewritten(change_card(format=FORMAT + 1, something_new=1)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"unknown": 1}, "wrong at 'unknown'"),
        ({"num_virtual_tokens": 0}, "wrong at 'num_virtual_tokens'"),
        ({"token_dim": "wide"}, "wrong at 'token_dim'"),
        ({"labels": "yes"}, "wrong at 'labels'"),
        ({"task": "other"}, "damaged"),
        ({"metrics": {"value": 1.1}}, "damaged"),
        ({"metrics": {"value": float("nan")}}, "damaged"),
        ({"task": "\ud800"}, "damaged|wrong at 'task'"),
    ],
)
def test_a_card_changed_by_hand_is_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(PromptFileError, match=expected):
        read_file(rewritten(change_card(**fields)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (b"\xff" * 40, "cut short"),
        ((4).to_bytes(8, "little") + b"{{{{", "not JSON"),
        ((4).to_bytes(8, "little") + b"[1] ", "not an object"),
        ((2).to_bytes(8, "little") + b"{}", "no softprompt file; for a PEFT folder"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not JSON"),
        (rewritten(lambda header: header.pop("__metadata__")), "no softprompt file"),
        (rewritten(lambda header: header.update(__metadata__={CARD_KEY: "[]"})), "damaged"),
        (rewritten(lambda header: header.update(__metadata__={CARD_KEY: "[" * 100_000})), "damaged"),
        (rewritten(lambda header: header.update(__metadata__={CARD_KEY: '{"card":[]}'})), "not a JSON object"),
    ],
)
def test_what_is_no_prompt_file_is_told(data: bytes, expected: str) -> None:
    with pytest.raises(PromptFileError, match=expected):
        read_file(data)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 3]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": ["a", "b"]},
        {"dtype": "F32", "shape": 6, "data_offsets": [0, 24]},
        ["F32"],
    ],
)
def test_a_file_forged_with_a_right_checksum_and_wrong_entries_is_refused(entry: Any) -> None:
    from softprompt.prompts import file as card

    body = bytes(24)
    forged = card._header(Card(**FIELDS), {"prompt_embeddings": entry}, body) + body
    with pytest.raises(PromptFileError, match="damaged"):
        read_file(forged)


def test_a_card_nested_too_deep_is_refused() -> None:
    with pytest.raises(PromptFileError, match="not JSON"):
        Card.parse("[" * 100_000)


def test_a_card_takes_no_unknown_field_and_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Card(**FIELDS, host="here")
    with pytest.raises(ValidationError, match="frozen"):
        Card(**FIELDS).task = "other"  # type: ignore[misc]


def test_cards_of_soft_prompts_are_written_as_before_there_were_prefixes() -> None:
    written = json.loads(Card(**FIELDS).canonical())
    assert written["format"] == 1
    assert not {"prompt_type", "layers"} & written.keys()
    assert written.keys() | {"members"} == Card(**FIELDS).model_dump().keys()


PREFIX: dict[str, Any] = {**FIELDS, "prompt_type": "prefix", "layers": ((1, 4, 2), (2, 3, 3)), "token_dim": 18}


def test_a_prefix_says_its_layers_in_a_format_that_versions_before_refuse_by_its_number() -> None:
    card = Card(**PREFIX)
    assert card.format == 2
    again = Card.parse(card.canonical())
    assert again == card
    assert again.layers == ((1, 4, 2), (2, 3, 3))
    assert again.canonical() == card.canonical()
    assert card.changed({"task": "u"}) == card.model_copy(update={"task": "u"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": None}, "a prefix, and nothing else, has layers"),
        ({"prompt_type": "soft"}, "a prefix, and nothing else, has layers"),
        ({"token_dim": 17}, "other numbers of keys and values than token_dim says"),
        ({"layers": ((1, 4),)}, "layers"),
        ({"prompt_type": "prefixes"}, "prompt_type"),
    ],
)
def test_a_prefix_whose_card_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    raw = json.loads(Card(**PREFIX).canonical())
    with pytest.raises(PromptFileError, match=message):
        Card.parse(json.dumps(raw | change))
