"""Buckets and accounts, against arithmetic done the long way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import StoreError
from softprompt.http.errors import ApiError
from softprompt.http.limits import Bucket, Limits, Meter
from softprompt.http.routes.files import refusals_of


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 90), st.integers(0, 120), st.booleans()), max_size=30),
)
def test_a_bucket_never_gives_more_than_its_rate(rate: int, steps: list[tuple[float, int, bool]]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    given_out, began = 0, clock.now
    for pause, units, waits in steps:
        clock.now += pause
        wait = bucket.take(units)
        if wait and waits and units <= rate:
            clock.now += wait + 1e-6
            assert bucket.take(units) == 0
            wait = 0
        if wait == 0:
            given_out += units
        assert given_out <= rate + (clock.now - began) * rate / 60 + 1e-3
        assert 0 <= bucket.left <= rate


def test_a_bucket_is_full_after_a_minute_and_no_fuller() -> None:
    clock = Clock()
    bucket = Bucket(6, clock)
    assert bucket.take(6) == 0
    assert bucket.take(1) == pytest.approx(10)
    clock.now += 10
    assert bucket.left == 1
    clock.now += 600
    assert bucket.left == 6
    bucket.settle(16)
    assert bucket.left == 0
    assert bucket.take(0) == pytest.approx(100)
    bucket.settle(-1000)
    assert bucket.left == 6


def test_accounts_are_apart_and_are_forgotten_in_turn() -> None:
    meter = Meter(Limits(requests_per_minute=2), Clock(), most_accounts=3)
    for _ in range(2):
        meter.admit("a")
    with pytest.raises(ApiError, match="more than 2 requests a minute") as refused:
        meter.admit("a")
    assert refused.value.status == 429
    assert refused.value.headers["retry-after"] == "30"
    meter.admit("b")
    for name in "bcd":
        meter.account(name)
    assert meter.account("d").headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "0.000s",
    }
    meter.admit("a")  # forgotten meanwhile


def test_reserved_tokens_are_given_back_but_for_those_used() -> None:
    meter = Meter(Limits(tokens_per_minute=100), Clock())
    bucket = meter.account("a").tokens
    assert bucket is not None
    held = meter.reserve("a", 80)
    assert bucket.left == 20
    with pytest.raises(ApiError, match="more than 100 tokens a minute"):
        meter.reserve("a", 21)
    held.settle(5)
    held.settle(50)
    assert bucket.left == 95
    with pytest.raises(ApiError, match="101 tokens, and 100 a minute") as refused:
        meter.reserve("a", 101)
    assert refused.value.status == 400
    meter.reserve("a", 0).settle(200)
    with pytest.raises(ApiError, match="try again in 63 s"):
        meter.reserve("a", 0)


def test_streams_are_bounded_and_counted_down_when_one_fails() -> None:
    meter = Meter(Limits(max_streams=1))
    with meter.stream(), pytest.raises(ApiError, match="1 streams are open"), meter.stream():
        raise AssertionError
    with pytest.raises(ZeroDivisionError), meter.stream():
        raise ZeroDivisionError
    with meter.stream():
        assert meter.streams == 1
    assert meter.streams == 0


def test_without_limits_nothing_is_refused() -> None:
    meter = Meter(Limits())
    for _ in range(1000):
        meter.admit("")
    meter.reserve("", 10**9).settle(10**9)
    assert meter.account("").headers() == {}


def test_a_file_that_cannot_be_kept_just_now_says_when_to_come_again() -> None:
    with pytest.raises(ApiError, match="try again") as caught, refusals_of("file"):
        raise StoreError("the disk is full; free some space")
    assert (caught.value.status, caught.value.code, caught.value.headers["retry-after"]) == (503, "storage", "1")
