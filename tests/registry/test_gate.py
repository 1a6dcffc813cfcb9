"""The gate: two standard errors, the right direction, and no guess where figures are missing."""

from __future__ import annotations

import math

import pytest

from softprompt.prompts.card import Card
from softprompt.registry.gate import reason_to_refuse


def card(metric: str = "accuracy", **metrics: float) -> Card:
    return Card(task="t", base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, metric=metric, metrics=metrics)


def test_the_line_is_two_standard_errors_of_the_difference() -> None:
    error = math.hypot(math.sqrt(0.8 * 0.2 / 400), math.sqrt(0.74 * 0.26 / 400))
    assert 0.8 - 2 * error < 0.742
    assert reason_to_refuse(card(value=0.8, rows=400), card(value=0.742, rows=400)) is None
    assert reason_to_refuse(card(value=0.8, rows=400), card(value=0.738, rows=400)) is not None


@pytest.mark.parametrize(("rows", "refused"), [(50, False), (5000, True)])
def test_more_rows_see_smaller_losses(rows: int, refused: bool) -> None:
    reason = reason_to_refuse(card(value=0.80, rows=rows), card(value=0.77, rows=rows))
    assert (reason is not None) == refused


def test_the_message_has_both_figures() -> None:
    reason = reason_to_refuse(card(value=0.8, rows=500), card(value=0.5, rows=300))
    assert reason is not None
    assert "accuracy 0.5000 on 300 rows, against 0.8000 on 500 rows now: worse by 0.3000" in reason


def test_better_and_equal_pass() -> None:
    for value in (0.8, 0.9, 1.0):
        assert reason_to_refuse(card(value=0.8, rows=500), card(value=value, rows=500)) is None


def test_perplexity_is_better_lower() -> None:
    low, high = card("perplexity", value=10.0, rows=500), card("perplexity", value=12.0, rows=500)
    assert reason_to_refuse(high, low) is None
    assert reason_to_refuse(low, high) == (
        "perplexity 12.0000 on 500 rows, against 10.0000 on 500 rows now: worse by 2.0000"
    )


def test_a_perplexity_below_one_is_no_share() -> None:
    assert reason_to_refuse(card("perplexity", value=0.50, rows=10), card("perplexity", value=0.51, rows=10)) is not None


def test_a_standard_error_in_the_card_is_used() -> None:
    old, new = card("bleu", value=30.0, rows=100, stderr=2.0), card("bleu", value=26.0, rows=100, stderr=2.0)
    assert reason_to_refuse(old, new) is None
    assert reason_to_refuse(old, card("bleu", value=20.0, rows=100, stderr=2.0)) is not None


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
    assert reason_to_refuse(old, new) is None
