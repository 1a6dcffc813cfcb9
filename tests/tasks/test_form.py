"""Forms: templates, labels and the fitting of inputs into the context."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from softprompt.bases.base import FrozenBase
from softprompt.bases.spelling import Spelling
from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.prompts.card import Card
from softprompt.rows.values import Row, text_of
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.wording.template import Template, nameable
from tests.models import make_base, make_masked
from tests.spellings import base as base_of_kind

BASE = make_base("llama")
"""Its context has 96 tokens, and most characters outside of its words are tokens of their own, three for 中."""


def form(**fields: Any) -> Form:
    return Form.of_config(parse_config({"task": "t", "input": "{text}", **fields}))


def escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(st.text(), st.text(), st.text())
def test_literal_text_comes_out_as_it_went_in(before: str, value: str, after: str) -> None:
    template = Template(escape(before) + "{x}" + escape(after))
    assert template.fields == ["x"]
    assert template.fill({"x": value}) == before + value + after


def test_values_are_never_taken_for_templates() -> None:
    row = {"a": "{b} {{b}} {0} %s", "b": "{a}"}
    assert Template("{a}|{b}|{a}").fill(row) == "{b} {{b}} {0} %s|{a}|{b} {{b}} {0} %s"
    assert Template("{a}|{b}|{a}").fields == ["a", "b"]


NAMES = st.text(min_size=1, max_size=12).filter(str.strip) | st.sampled_from(
    [
        "Review text",
        "текст",
        "标题",
        "a.b",
        "x-y",
        "1st",
        "x[0]",
        "x!r",
        "x:>10",
        "x.__class__",
        " x ",
        "Is it good?",
        "a\nb",
    ]
)


@given(NAMES, st.text(), st.text(), st.text())
def test_every_column_without_braces_can_be_named(name: str, value: str, before: str, after: str) -> None:
    if not nameable(name):
        assert set(name) & set("{}")
        return
    template = Template(escape(before) + "{" + name + "}" + escape(after))
    assert template.fields == [name]
    assert template.fill({"x": "another", name: value}) == before + value + after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "wrong at {}; name a column in the braces"),
        ("{ }", "wrong at { }; name a column"),
        ("{x:{y}}", "the brace { at character 1 stands alone; write {{ for a brace"),
        ("{x", "the brace { at character 1 stands alone"),
        ("a x}", "the brace } at character 4 stands alone; write }} for a brace"),
        ("{x}}", "the brace } at character 4 stands alone"),
    ],
)
def test_only_names_of_columns_go_in_braces(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match="the template") as caught:
        form(input=text)
    assert repr(text) in str(caught.value)
    assert expected in str(caught.value)


VALUES: list[tuple[object, str]] = [
    (3, "3"), (0.5, "0.5"), (1.0, "1.0"), (10**400, str(10**400)), (True, "true"), (False, "false"), ("", ""), ("é", "é"),
    (numpy.int64(3), "3"), (numpy.float32(0.1), "0.1"), (numpy.bool_(True), "true"), (Decimal("1E+2"), "100"),
    (datetime.date(2024, 1, 31), "2024-01-31"), (datetime.datetime(2024, 1, 31, 1), "2024-01-31T01:00:00"),
    (datetime.time(1, 2), "01:02:00"), ("é".encode(), "é"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_a_value_has_one_text_in_templates_as_a_label_and_as_an_answer(value: object, text: str) -> None:
    assert text_of(value) == text
    assert Template("{x}").fill({"x": value}) == text
    if text:
        assert form(target="{label}").answer({"label": value}, "row 1") == text
        assert form(labels=[text, "other"]).answer({"label": value}, "row 1") == text


@given(st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_the_text_of_a_value_is_as_json_writes_it(value: object) -> None:
    assert text_of(value) == (value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "it is missing"), (float("nan"), "it is missing"), (float("inf"), "it is infinite"), ([1], "it is a list"),
        ({"a": 1}, "it is an object"), (["negative"], "it is a list"), (b"\xff", "it is bytes and no text"),
        (Decimal("NaN"), "it is missing"), (object, "it is of type type"), (["x" * 9999], "it is a list"),
    ],
)  # fmt: skip
def test_a_value_without_a_text_is_refused_by_row_and_column(value: object, why: str) -> None:
    in_target = form(target="{x}", labels=["negative", "b"])
    fills: list[Callable[[Row, str], str]] = [Template("{x}").fill, in_target.answer]
    for fill in fills:
        with pytest.raises(DataError, match=rf"row 4: the field 'x' holds .*: {why}; text, a number or a truth") as caught:
            fill({"x": value}, "row 4")
        assert len(str(caught.value)) < 300


def test_a_missing_field_is_told_with_the_nearest_column() -> None:
    with pytest.raises(DataError, match=r"row 2 has no field 'text', .* did you mean 'texts'\?$"):
        Template("{text}").fill({"texts": "a", "label": "b"}, "row 2")
    with pytest.raises(DataError, match=r"did you mean 'REVIEW TEXT '\?$"):
        Template("{Review text}").fill({"REVIEW TEXT ": "a", "label": "b"})
    with pytest.raises(DataError, match=r"known: a, b$"):
        Template("{text}").fill({"a": "a", "b": "b"})
    with pytest.raises(DataError, match=r"known: a; a brace that is text is written twice$"):
        Template('{"answer": 1} {a}').fill({"a": "a"})
    with pytest.raises(DataError, match=r"known: column 0, column 1, .* and 4.. more") as caught:
        Template("{text}").fill({f"column {n}": "a" for n in range(500)} | {"x" * 9999: "b"})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": "no column"}, "input: the template 'no column' names no column"),
        ({"target": "no column"}, "target: .* names 0 columns; write exactly one"),
        ({"target": "{a} {b}"}, "target: .* names 2 columns; write exactly one"),
    ],
)
def test_templates_must_have_their_columns(fields: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        form(**fields)


def test_a_label_that_is_not_listed_is_told() -> None:
    made = form(labels=["yes", "no", "7"])
    assert made.answer({"label": "no"}, "row 1") == "no"
    assert made.answer({"label": 7}, "row 1") == "7"
    with pytest.raises(DataError, match=r"row 9: the label 'maybe' is not among `labels` \(yes, no, 7\)"):
        made.answer({"label": "maybe"}, "row 9")
    with pytest.raises(DataError) as caught:
        made.answer({"text": "x" * 10_000, "label": "y" * 10_000}, "row 9")
    assert len(str(caught.value)) < 300
    with pytest.raises(DataError, match="row 9: the label 'true' is not among"):
        made.answer({"label": True}, "row 9")


def base_with(normalizer: Any) -> FrozenBase:
    """The base with a tokenizer that changes texts before it looks at them."""
    backend = Tokenizer.from_str(BASE.tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizer
    return FrozenBase(BASE.model, PreTrainedTokenizerFast(tokenizer_object=backend), "folding", "f")


def test_labels_with_the_same_tokens_are_told() -> None:
    base = base_with(normalizers.Lowercase())
    with pytest.raises(DataError, match="task 't': the labels 'Yes' and 'yes' have the same tokens on folding; rename one"):
        form(labels=["Yes", "no", "yes"]).encode_labels(base)
    assert len(form(labels=["Yes", "no", "yes"]).encode_labels(BASE)) == 3


def test_a_label_without_tokens_is_told() -> None:
    base = base_with(normalizers.Replace("no", ""))
    with pytest.raises(DataError, match="task 't': the label 'no' has no tokens in the vocabulary of folding; rename it"):
        form(labels=["no", "yes"], target="{label}").encode_labels(base)


@given(st.lists(st.text("ab0 ", min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=6, unique=True))
def test_no_label_begins_another_as_the_model_must_say_it(labels: list[str]) -> None:
    plain = [tuple(BASE.encode([" " + label])[0]) for label in labels]
    encoded = form(labels=labels).encode_labels(BASE)
    for one, other in itertools.permutations(encoded, 2):
        assert other[: len(one)] != one
    begun = any(other[: len(one)] == one for one, other in itertools.permutations(plain, 2))
    assert encoded == tuple(
        (*ids, BASE.end_id) if begun else ids for ids in plain
    )  # all are longer by the same token, or none


def test_a_label_that_begins_another_is_refused_where_no_token_ends_it() -> None:
    base = base_with(normalizers.Lowercase())
    base.model.generation_config.eos_token_id = None
    with pytest.raises(
        DataError, match=r"the label 'yes' begin those of 'yes no', which could never win, and folding has no end"
    ):
        form(labels=["yes no", "good", "yes"]).encode_labels(base)
    assert len(form(labels=["yes no", "good", "yes"], target=" {label}.").encode_labels(base)) == 3


def test_labels_are_encoded_as_the_model_must_say_them() -> None:
    made = form(labels=["yes", "good bad"], target="Answer: {label}.")
    assert [BASE.decode(ids) for ids in made.encode_labels(BASE)] == ["Answer: yes.", "Answer: good bad."]
    assert made.output_length(BASE) == len(made.encode_labels(BASE)[1])
    assert form(max_new_tokens=11).output_length(BASE) == 11


def test_an_empty_input_is_told_by_its_row() -> None:
    with pytest.raises(DataError, match="row 2: the input is empty"):
        form().encode_inputs(BASE, [{"text": "red"}, {"text": ""}], 4)


def test_the_form_of_a_card_is_the_form_of_its_config() -> None:
    made = form(labels=["yes", "no"], input="Say: {text}", target=": {label}", metric="f1", instruction="Well?")
    card = Card(base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, **form_fields(made))
    assert Form.of_card(Card.parse(card.canonical())) == made


def test_a_request_of_several_columns_is_a_json_object() -> None:
    made = form(input="{premise} {hypothesis}")
    row = {"premise": "a", "hypothesis": "b"}
    assert made.row_of(json.dumps(row)) == row
    for wrong in ("plain", "[1, 2]", '"text"', "", "[" * 100_000):
        with pytest.raises(DataError, match=r"2 columns; give a JSON object such as \{.premise.: "):
            made.row_of(wrong)
    for half in ('{"premise": "\\ud800", "hypothesis": "b"}', '{"premise": "a", "hypothesis": {"b": "\\udfff"}}'):
        with pytest.raises(DataError, match=r"an input for task 't' holds .*half of a surrogate pair"):
            made.row_of(half)
    for twice in ('{"premise": "a", "premise": "z", "hypothesis": "b"}', '{"premise": {"x": 1, "x": 2}, "hypothesis": "b"}'):
        with pytest.raises(DataError, match=r"an input for task 't': the key '(premise|x)' is given twice"):
            made.row_of(twice)
    with pytest.raises(DataError, match="premise"):  # no number in JSON, and no text "nan"
        made.columns(made.row_of('{"premise": NaN, "hypothesis": "b"}') | {"label": "a"}, "the row")
    # One column takes the text as it is, also where it looks like JSON.
    assert form().row_of('{"text": "x"}') == {"text": '{"text": "x"}'}


TEXTS = st.text(st.sampled_from("ab red中é🙂\ufffd\u200d<>"), max_size=140)


@settings(max_examples=150)
@given(TEXTS, TEXTS, st.integers(1, 80), st.sampled_from(["", "Be short.\n"]))
def test_inputs_never_exceed_the_context_and_keep_the_template(a: str, b: str, length: int, prepend: str) -> None:
    made = form(input="A: {a}\nB: {b}\nC:", labels=["yes", "no"])
    row = {"a": a, "b": b}
    frame = len(BASE.encode([prepend + made.input.fill({"a": "", "b": ""})])[0])
    limit = 96 - length - made.output_length(BASE)
    whole = BASE.encode([prepend + made.input.fill(row)])[0]
    if frame > limit:
        if len(whole) > limit:
            with pytest.raises(ContextError):
                made.encode_inputs(BASE, [row], length, prepend=prepend)
        return
    inputs = made.encode_inputs(BASE, [row], length, prepend=prepend)
    (ids,) = inputs.ids
    assert len(ids) <= limit
    assert inputs.truncated == (len(whole) > limit)
    if not inputs.truncated:
        assert ids == whole
        return
    text = BASE.tokenizer.decode(ids)
    head, _, rest = text.partition("\nB: ")
    assert head.startswith(prepend + "A: ")
    assert rest.endswith("\nC:")
    # What is left of each column is its beginning.
    assert a.startswith(head.removeprefix(prepend + "A: "))
    assert b.startswith(rest.removesuffix("\nC:"))


def test_a_long_input_loses_little_more_than_it_must() -> None:
    made = form(labels=["yes", "no"])
    for text in ("red " * 300, "中" * 200, "🙂" * 100, "ab" * 300):
        inputs = made.encode_inputs(BASE, [{"text": text}, {"text": "red"}], 20)
        limit = 96 - 20 - made.output_length(BASE)
        assert inputs.truncated == 1
        assert limit - 4 <= len(inputs.ids[0]) <= limit


def test_what_the_vocabulary_lacks_stays_in_an_input_that_is_cut() -> None:
    """It has a token of its own, which decodes to nothing."""
    base = make_masked("bert")
    made = form(input="{text}", labels=["red", "blue"])
    (whole,) = base.encode(["red 中 Blue ? " * 60])
    inputs = made.encode_inputs(base, [{"text": "red 中 Blue ? " * 60}], 20)
    assert inputs.truncated == 1
    assert inputs.ids == [whole[: 96 - 20 - 2 - 1]]
    assert base.tokenizer.unk_token_id in inputs.ids[0]


def test_a_template_that_does_not_fit_is_told_with_its_length() -> None:
    made = form(input="red " * 90 + "{text}", labels=["yes", "no"])
    with pytest.raises(ContextError, match=r"the template of task 't' alone takes \d+ tokens, and 75 are left"):
        made.encode_inputs(BASE, [{"text": "blue"}], 20)


def test_a_prompt_longer_than_the_context_is_told() -> None:
    made = form(labels=["yes", "no"])
    for length in (95, 96, 500):
        with pytest.raises(ContextError, match=rf"task 't': {length} virtual tokens and 1 output token .* \(96 tokens\)"):
            made.encode_inputs(BASE, [{"text": "blue"}], length)
    assert len(made.encode_inputs(BASE, [{"text": "blue red"}], 94).ids[0]) == 1


def test_a_base_without_a_limit_never_cuts() -> None:
    base = FrozenBase(BASE.model, BASE.tokenizer, "endless", "f")
    base.__dict__["context"] = None
    inputs = form(labels=["yes", "no"]).encode_inputs(base, [{"text": "red " * 500}], 500)
    assert inputs.truncated == 0
    assert len(inputs.ids[0]) == len(BASE.encode(["red " * 500])[0])


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_always", "byte_level"])
def test_labels_have_a_word_mark_where_they_begin_with_a_space_and_no_other(kind: str) -> None:
    base = base_of_kind(kind)
    names = base.tokenizer.convert_ids_to_tokens
    spaced, bare = (form(labels=["yes", "no"], target=target).encode_labels(base) for target in (" {label}", "{label}"))
    assert ["".join(names(list(ids))).replace("Ġ", "▁") for ids in (*spaced, *bare)] == ["▁yes", "▁no", "yes", "no"]
    assert [base.decode([*base.encode(["the"])[0], *ids]) for ids in (*spaced, *bare)] == [
        "the yes", "the no", "theyes", "theno",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_always", "byte_level"])
def test_prompts_of_before_keep_their_labels_tokens(kind: str) -> None:
    """Those whose card does not say that answers are encoded as they stand behind an input."""
    base, made = base_of_kind(kind), form(labels=["yes", "no"], target=" {label}")
    about = {"base": "b", "fingerprint": "f", "num_virtual_tokens": 1, "token_dim": 1, **form_fields(made)}
    old, new = Form.of_card(Card(**about)), Form.of_card(Card(**about, recipe=made.rules(base)))
    alone = tuple(tuple(ids) for ids in base.encode([" yes", " no"]))
    assert old.encode_labels(base) == alone
    assert new.encode_labels(base) == made.encode_labels(base)
    assert (old.encode_labels(base) == new.encode_labels(base)) == (kind != "llama_2")
    assert form_fields(old) == form_fields(new) == form_fields(made)


def test_a_card_says_what_is_done_with_text_and_no_more_than_that() -> None:
    begun = form(labels=["yes", "yes no"])
    assert form(labels=["yes", "no"]).rules(base_of_kind("byte_level")) == {}
    assert begun.rules(base_of_kind("byte_level")) == {"label_end": "</s>"}
    assert begun.rules(base_of_kind("llama_2")) == {
        "label_end": "</s>", "left_out": "<s>", "answers": "as they stand behind an input",
    }  # fmt: skip
    card = Card(
        base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, **form_fields(begun), recipe={"label_end": "x"}
    )
    assert card.changed({"labels": ("a", "b")}).recipe == {}  # of other labels
    assert card.changed({"labels": begun.labels}).recipe == {"label_end": "x"}


@pytest.mark.parametrize("kind", ["llama_2", "byte_level"])
@settings(max_examples=40)
@given(st.lists(st.sampled_from(["</s>", "<|end|>", "red", " ", "<", "|>"]), min_size=1, max_size=6).map("".join))
def test_control_tokens_come_from_the_template_alone(kind: str, text: str) -> None:
    base = base_of_kind(kind)
    made = form(input="<s>{text} =", target="<|user|>{label}<|end|>", labels=["yes", text + "."], instruction=text)
    inputs = made.encode_inputs(base, [{"text": text}] * 2, 4, prepend=text)
    assert [[token for token in row if token < 5] for row in inputs.ids] == [[1], [1]]
    for row in made.encode_labels(base):
        assert [token for token in row if token < 5] == [3, 4]
    assert [token for token in base.encode([made.zero_shot_text()])[0] if token < 5] == []
    longest = made.encode_inputs(base, [{"text": text * 90}], 4)
    assert [token for token in longest.ids[0] if token < 5] == [1]


def test_a_row_that_the_base_cannot_read_is_named_with_the_token() -> None:
    base = FrozenBase(BASE.model, BASE.tokenizer, "small", "f")
    base.__dict__["spelling"] = Spelling(BASE.tokenizer, "small", torch.nn.Embedding(310, 4))
    word = BASE.tokenizer.convert_ids_to_tokens(312).replace("Ġ", " ")
    with pytest.raises(DataError, match=r"row 2 holds the token '.*' \(id 3\d\d\), for which small has no embedding"):
        form().encode_inputs(base, [{"text": "a"}, {"text": word}], 4)
    with pytest.raises(DataError, match=r"task 't': the label '.*' holds the token"):
        form(labels=["a", word], target="{label}").encode_labels(base)


def test_what_is_left_of_a_long_column_keeps_its_first_space() -> None:
    for kind in ("llama_2", "metaspace_always", "byte_level"):
        base = base_of_kind(kind)
        (ids,) = form(input="Q:{text}").encode_inputs(base, [{"text": " red" * 200}], 4).ids
        assert base.decode(ids).startswith("Q: red red")
