"""The gate: two standard errors, the right direction, and no guess where figures are missing."""

from __future__ import annotations

import math

import pytest

from softprompt.prompts.card import Card
from softprompt.registry.gate import weigh


def card(metric: str = "accuracy", test: str | None = None, **metrics: float) -> Card:
    recipe = {} if test is None else {"test_digest": test}
    made = {"task": "t", "base": "b", "fingerprint": "f", "num_virtual_tokens": 1, "token_dim": 1}
    return Card.model_validate({**made, "metric": metric, "metrics": metrics, "recipe": recipe})


def refusal(current: Card, candidate: Card) -> str | None:
    return weigh(current, candidate).refusal


def test_the_line_is_two_standard_errors_of_the_difference() -> None:
    error = math.hypot(math.sqrt(0.8 * 0.2 / 400), math.sqrt(0.74 * 0.26 / 400))
    assert 0.8 - 2 * error < 0.742
    assert refusal(card(value=0.8, rows=400), card(value=0.742, rows=400)) is None
    assert refusal(card(value=0.8, rows=400), card(value=0.738, rows=400)) is not None


@pytest.mark.parametrize(("rows", "refused"), [(50, False), (5000, True)])
def test_more_rows_see_smaller_losses(rows: int, refused: bool) -> None:
    reason = refusal(card(value=0.80, rows=rows), card(value=0.77, rows=rows))
    assert (reason is not None) == refused


def test_the_message_has_both_figures() -> None:
    reason = refusal(card(value=0.8, rows=500), card(value=0.5, rows=500))
    assert reason is not None
    assert "accuracy 0.5000 on 500 rows, against 0.8000 on 500 rows now: worse by 0.3000" in reason


def test_better_and_equal_pass() -> None:
    for value in (0.8, 0.9, 1.0):
        assert refusal(card(value=0.8, rows=500), card(value=value, rows=500)) is None


def test_perplexity_is_better_lower() -> None:
    low, high = card("perplexity", value=10.0, rows=500), card("perplexity", value=12.0, rows=500)
    assert refusal(high, low) is None
    assert refusal(low, high) == ("perplexity 12.0000 on 500 rows, against 10.0000 on 500 rows now: worse by 2.0000")


def test_a_perplexity_below_one_is_no_share() -> None:
    assert refusal(card("perplexity", value=0.50, rows=10), card("perplexity", value=0.51, rows=10)) is not None


def test_a_standard_error_in_the_card_is_used() -> None:
    old, new = card("bleu", value=30.0, rows=100, stderr=2.0), card("bleu", value=26.0, rows=100, stderr=2.0)
    assert refusal(old, new) is None
    assert refusal(old, card("bleu", value=20.0, rows=100, stderr=2.0)) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (card(value=0.9), card(value=0.1)),
        (card(value=0.9, rows=500), card(value=0.1)),
        (card(value=0.9, rows=500), card(rows=500)),
        (card(), card(value=0.1, rows=500)),
        (card(value=0.9, rows=500), card("f1", value=0.1, rows=500)),
        (card(value=0.9, rows=0), card(value=0.1, rows=0)),
        (card(value=math.nan, rows=500), card(value=0.1, rows=500)),
    ],
)
def test_without_figures_of_one_metric_nothing_is_refused(old: Card, new: Card) -> None:
    assert refusal(old, new) is None


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (card(test="a", value=0.9, rows=500), card(test="b", value=0.1, rows=500), False),
        (card(value=0.9, rows=500), card(value=0.1, rows=300), False),
        (card(test="a", value=0.9, rows=500), card(value=0.1, rows=300), False),
        (card(test="a", value=0.9, rows=500), card("f1", test="a", value=0.1, rows=500), None),
    ],
)
def test_scores_of_other_rows_or_metrics_are_not_compared_and_that_is_said(old: Card, new: Card, same: bool | None) -> None:
    found = weigh(old, new)
    assert (found.same_rows, found.loss, found.refusal) == (same, None, None)
    assert found.words.startswith("not comparable: ")


def test_on_other_rows_what_has_not_learnt_does_not_replace_what_has() -> None:
    learnt, not_learnt = card(test="a", value=0.9, rows=50, majority=0.5), card(test="b", value=0.5, rows=60, majority=0.5)
    found = weigh(learnt, not_learnt)
    assert (found.same_rows, found.loss) == (False, None)
    assert found.refusal == (
        "accuracy 0.5000 on 60 rows, where a baseline is as good; the version there now has learnt (accuracy 0.9000 on 50 "
        "other rows)"
    )
    assert refusal(card("f1", test="a", value=0.9, rows=50, majority=0.5), not_learnt) is not None
    assert refusal(not_learnt, card(test="c", value=0.4, rows=60, majority=0.5)) is None
    assert refusal(card(test="a", value=0.9, rows=50), not_learnt) is None, "whether the first has learnt is not known"
    assert refusal(learnt, card(test="b", value=0.6, rows=60, majority=0.5)) is None
    assert refusal(learnt, card(test="b", value=0.1, rows=60)) is None


def test_a_comparison_says_what_it_rests_on() -> None:
    same = [card(test="a", value=value, rows=100) for value in (0.8, 0.7, 0.3, 0.9, 0.8)]
    found = [weigh(same[0], other) for other in same[1:]]
    assert [one.same_rows for one in found] == [True] * 4
    assert [one.loss for one in found] == pytest.approx([0.1, 0.5, -0.1, 0])
    worse, clearly, better, equal = (one.words for one in found)
    assert worse == "worse by 0.1000, within 2 standard errors, on the same 100 rows"
    assert clearly == "clearly worse, by 0.5000, on the same 100 rows"
    assert (better, equal) == ("better by 0.1000, on the same 100 rows", "as good, on the same 100 rows")
    unknown = weigh(card(value=0.8, rows=100), same[3])
    assert (unknown.same_rows, unknown.words) == (None, "better by 0.1000, on 100 rows each, if they are the same")
