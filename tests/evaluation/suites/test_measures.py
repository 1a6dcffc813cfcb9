"""Metrics of suites against cases by hand, scikit-learn and plain loops; and what rows count, whose mean is the metric."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable

import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.evaluation.metrics import groundedness, score
from softprompt.evaluation.suites.measures import SUITE_METRICS, bleu_counts, calibrate, measure_rows, perplexity, span_f1

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=20)
SETS = st.lists(st.tuples(*[st.sampled_from(["a", "b", "a; b", ""])] * 2), min_size=2, max_size=12)
NUMBERS = st.lists(st.tuples(*[st.sampled_from(["1.0", "2.0", "3.5", "-4.0"])] * 2), min_size=2, max_size=15)
TEXTS = st.lists(st.tuples(*[st.text("ab ., ", max_size=8)] * 2), min_size=1, max_size=10)


@pytest.mark.parametrize(
    ("said", "right", "value"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1.0),
        ("in Paris", "Paris", 2 * (1 / 2 * 1) / (1 / 2 + 1)),
        ("New York City", "York", 0.5),
        ("London", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("the", "", 1.0),
        ("a a b", "a b b", 2 / 3),
        ("well-known", "well known", 0.0),
        ("b b", "b", 2 / 3),
    ],
)
def test_span_f1_by_hand(said: str, right: str, value: float) -> None:
    """Articles, punctuation and case go, as in SQuAD's own script; a hyphen goes too, and leaves one word."""
    assert span_f1(said, right) == pytest.approx(value)


@pytest.mark.parametrize(
    ("said", "right", "value"),
    [
        ('{"a": 1, "b": "x"}', '{"b": " x", "a": 1.0}', 1.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 2 / 3),
        ('{"a": 1, "b": 3}', '{"a": 1, "b": 2}', 0.5),
        ('{"a": {"b": [1, 2]}}', '{"a": {"b": [2, 1]}}', 1.0),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": "1"}', '{"a": 1}', 0.0),
        ('{"a": {"b": 1}}', '{"a/b": 1}', 0.0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1.0),
        ("no object", '{"a": 1}', 0.0),
        ("[1]", '{"a": 1}', 0.0),
        ("{}", "{}", 1.0),
        ("{}", '{"a": []}', 0.0),
    ],
)
def test_f1_over_the_fields_of_json_by_hand(said: str, right: str, value: float) -> None:
    assert measure_rows("json_f1", [said], [right]).value == pytest.approx(value)


@pytest.mark.parametrize(("metric", "value"), [("rouge1", 2 * 3 / 9), ("rouge2", 2 * 1 / 7), ("rougeL", 2 * 2 / 9)])
def test_rouge_by_hand(metric: str, value: float) -> None:
    assert measure_rows(metric, ["on the mat cats"], ["The cats, sat on the."][:1]).value == pytest.approx(value)


def slow_bleu(said: list[str], right: list[str]) -> float:
    logs = []
    for order in range(1, 5):
        hits = total = 0
        for one, other in zip(said, right, strict=True):
            grams = [tuple(one.split()[at : at + order]) for at in range(len(one.split()) - order + 1)]
            theirs = [tuple(other.split()[at : at + order]) for at in range(len(other.split()) - order + 1)]
            hits += sum(min(grams.count(gram), theirs.count(gram)) for gram in set(grams))
            total += len(grams)
        if total:
            logs.append(math.log(hits / total) if hits else -math.inf)
    ours, theirs_length = (sum(len(text.split()) for text in texts) for texts in (said, right))
    if not logs:
        return 0.0
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - theirs_length / ours))


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.lists(st.sampled_from("abc"), max_size=7)] * 2), min_size=1, max_size=6))
def test_bleu_is_that_of_a_plain_loop(pairs: list[tuple[list[str], list[str]]]) -> None:
    said, right = [" ".join(one) for one, _ in pairs], [" ".join(other) for _, other in pairs]
    assert measure_rows("bleu", said, right).value == pytest.approx(slow_bleu(said, right))


def test_bleu_of_a_text_by_hand() -> None:
    right = "the cat is on the mat"
    assert measure_rows("bleu", [right], [right]).value == pytest.approx(1.0)
    found = measure_rows("bleu", ["the cat is on"], [right]).value
    assert found == pytest.approx(math.exp(1 - 6 / 4)), "each n-gram is right, and it is too short"


@pytest.mark.parametrize("metric", ["rouge1", "rougeL", "bleu"])
def test_words_that_differ_in_their_vowel_signs_are_others(metric: str) -> None:
    """In Hindi vowels are marks on letters: ki is not kaa."""
    ki, kaa = "\u0915\u093f", "\u0915\u093e"
    assert measure_rows(metric, [ki], [kaa]).value == 0
    assert measure_rows(metric, [f"{ki} {kaa}"], [f"{ki} {kaa}"]).value == 1
    assert bleu_counts(f"{ki} {kaa}.", "")[-2] == 3


def test_characters_of_chinese_and_japanese_are_words() -> None:
    """As sacrebleu's tokenizer `zh` takes ideographs apart; Korean has spaces."""
    assert measure_rows("rouge1", ["我爱猫。"], ["我爱大狗"]).value == pytest.approx(2 * 2 / 7)
    assert measure_rows("rouge2", ["我爱猫"], ["我爱大狗"]).value == pytest.approx(2 * 1 / 5)
    assert measure_rows("rougeL", ["我有iPhone了"], ["他有iPhone"]).value == pytest.approx(2 * 2 / 7)
    assert bleu_counts("我爱 iPhone。", "")[-2] == 4
    assert measure_rows("rouge1", ["ねこがすき"], ["いぬがすき"]).value == pytest.approx(3 / 5)
    assert measure_rows("span_f1", ["紅い家"], ["赤い家"]).value == pytest.approx(2 / 3)
    assert score("token_f1", ["红房子"], ["蓝房子"]).value == pytest.approx(2 / 3)
    assert measure_rows("rouge1", ["고양이는"], ["고양이가"]).value == 0
    assert groundedness(["红房子", "蓝房子"], ["他住在红色的房子里。"] * 2) == {"groundedness": 0.5}


@pytest.mark.parametrize("metric", ["span_f1", "rouge1", "rougeL", "bleu", "json_f1"])
def test_texts_are_compared_composed(metric: str) -> None:
    text = '{"place": "le caf\u00e9 est d\u00e9j\u00e0 pr\u00eat"}' if metric == "json_f1" else "le caf\u00e9 est pr\u00eat"
    assert measure_rows(metric, [unicodedata.normalize("NFD", text)], [text]).value == 1


def test_perplexity_is_that_of_all_tokens() -> None:
    found = perplexity([2.0, 1.0, 3.0], [4, 1, 1])
    assert found.value == pytest.approx(math.exp(6 / 6))
    assert sum(found.values) / 3 == pytest.approx(found.value)
    assert perplexity([1e9], [1]).value < math.inf


@pytest.mark.parametrize(("metric", "pairs"), [("f1", PAIRS), ("macro_f1", SETS), ("micro_f1", SETS)])
def test_what_rows_count_is_what_is_left_without_each(metric: str, pairs: st.SearchStrategy[list[tuple[str, str]]]) -> None:
    @settings(max_examples=40)
    @given(pairs)
    def holds(rows: list[tuple[str, str]]) -> None:
        said, right = [one for one, _ in rows], [other for _, other in rows]
        found, n = measure_rows(metric, said, right), len(rows)
        assert (found.value, found.stderr) == tuple(score(metric, said, right))
        assert sum(found.values) / n == pytest.approx(found.value)
        without = [score(metric, said[:at] + said[at + 1 :], right[:at] + right[at + 1 :]).value for at in range(n)]
        slow = [n * found.value - (n - 1) * one for one in without]
        mean = sum(slow) / n
        assert found.values == pytest.approx([one - mean + found.value for one in slow])

    holds()


@settings(max_examples=40)
@given(NUMBERS)
def test_what_rows_count_of_a_rank_correlation_has_its_mean(rows: list[tuple[str, str]]) -> None:
    said, right = [one for one, _ in rows], [other for _, other in rows]
    found = measure_rows("spearmanr", said, right)
    assert found.value == score("spearmanr", said, right).value
    assert sum(found.values) / len(rows) == pytest.approx(found.value)


@settings(max_examples=40)
@given(TEXTS, st.sampled_from(["span_f1", "json_f1", "rouge1", "rouge2", "rougeL", "bleu"]))
def test_texts_are_between_nothing_and_equal(pairs: list[tuple[str, str]], metric: str) -> None:
    said, right = [one for one, _ in pairs], [other for _, other in pairs]
    assert -1e-9 <= measure_rows(metric, said, right).value <= 1 + 1e-9
    if metric in ("span_f1", "rouge1", "rougeL"):
        assert measure_rows(metric, right, right).value == pytest.approx(1)
        swapped = measure_rows(metric, right, said)
        assert swapped.value == pytest.approx(measure_rows(metric, said, right).value)


@settings(max_examples=40)
@given(PAIRS)
def test_f1_of_labels_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    said, right = [one for one, _ in pairs], [other for _, other in pairs]
    assert measure_rows("f1", said, right).value == pytest.approx(
        sklearn.metrics.f1_score(right, said, average="macro", zero_division=0)
    )


def slow_error(rows: list[tuple[float, bool]], bins: int) -> float:
    total = 0.0
    for place in range(bins):
        own = [(one, hit) for one, hit in rows if min(int(one * bins), bins - 1) == place]
        if own:
            confidence, accuracy = sum(one for one, _ in own) / len(own), sum(hit for _, hit in own) / len(own)
            total += abs(confidence - accuracy) * len(own) / len(rows)
    return total


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=25), st.integers(2, 12))
def test_the_calibration_error_is_that_of_a_plain_loop(rows: list[tuple[float, bool]], bins: int) -> None:
    found = calibrate([one for one, _ in rows], [hit for _, hit in rows], bins)
    assert found.error.value == pytest.approx(slow_error(rows, bins), abs=1e-9)
    assert sum(one["rows"] for one in found.bins) == len(rows)
    assert sum(found.error.values) / len(rows) == pytest.approx(found.error.value, abs=1e-9)


def test_all_metrics_have_something_behind_them() -> None:
    others: dict[str, Callable[[], object]] = {"perplexity": lambda: perplexity([1.0], [1]), "preference": lambda: 1}
    for metric in SUITE_METRICS:
        if metric in others:
            assert others[metric]()
        else:
            assert len(measure_rows(metric, ["1", "2"], ["1", "3"]).values) == 2
