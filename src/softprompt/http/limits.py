"""How much may be asked: sizes of requests, and how many of them in a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from softprompt.http.errors import RETRY_SOON_S, ApiError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on requests. Rates are per key; where no keys are needed, for all callers together."""

    body_bytes: int = 4 << 20
    """Longest body, but for uploads."""
    upload_bytes: int = 100 << 20
    """Longest upload to `/v1/files`."""
    trained_rows: int = 2_000_000
    """Rows that a job may train on, each counted as often as it is seen."""
    body_s: float = 30.0
    """Longest silence inside a body."""
    max_tokens: int = 4096
    """Most tokens that one continuation may be asked to have."""
    max_rows: int = 256
    """Most inputs of a request, or prompts times `n`."""
    max_streams: int = 1024
    """Most streams at once."""
    requests_per_minute: int | None = None
    """Requests to `/v1/`; None for as many as come."""
    tokens_per_minute: int | None = None
    """Tokens of inputs and answers; a request reserves what it may generate. None for no limit."""

    def check_max_tokens(self, max_tokens: int, field: str = "max_tokens") -> None:
        """Raises `ApiError` 400 where one continuation may not be that long."""
        if max_tokens > self.max_tokens:
            raise ApiError(
                400, f"{field}: {max_tokens} tokens are asked for, and at most {self.max_tokens} may be; ask for fewer",
                param=field, code="invalid_value",
            )  # fmt: skip

    def check_rows(self, rows: int, field: str) -> None:
        """Raises `ApiError` 400 where a request has too many rows."""
        if rows > self.max_rows:
            raise ApiError(
                400, f"{field}: {rows} rows in one request, and at most {self.max_rows} may be; send several requests",
                param=field, code="too_many_rows",
            )  # fmt: skip


class Bucket:
    """Allows `per_minute` units a minute, and as many at once after a minute of rest. May be overdrawn by a settlement."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.size, self._level + max(0.0, now - self._at) * self.size / 60)
        self._at = now

    @property
    def left(self) -> int:
        """Whole units that may be taken now."""
        self._refill()
        return max(0, math.floor(self._level))

    def wait_for(self, units: int) -> float:
        """Seconds until so many units are there; 0 when they are."""
        self._refill()
        return max(0.0, (units - self._level) * 60 / self.size)

    def take(self, units: int) -> float:
        """Take units and return 0, or take none and return the seconds to wait for them."""
        wait = self.wait_for(units)
        if wait == 0:
            self._level -= units
        return wait

    def settle(self, units: int) -> None:
        """Take units that were used already (or give some back, where negative)."""
        self._refill()
        self._level = min(self.size, self._level - units)


@dataclass
class Account:
    """What one caller has left."""

    requests: Bucket | None
    tokens: Bucket | None

    def headers(self) -> dict[str, str]:
        """The rates as clients of OpenAI read them; resets are seconds until all is there again."""
        found: dict[str, str] = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.size)
                found[f"x-ratelimit-remaining-{name}"] = str(bucket.left)
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.wait_for(bucket.size):.3f}s"
        return found


class Reservation:
    """Tokens set aside for a request."""

    def __init__(self, bucket: Bucket | None, reserved: int) -> None:
        self._bucket, self._reserved = bucket, reserved

    def settle(self, used: int) -> None:
        """Replace what was set aside by what was used; the first call counts."""
        if self._bucket is not None:
            self._bucket.settle(used - self._reserved)
        self._bucket = None


class Meter:
    """Counts what callers do against the limits. For one event loop."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic, *, most_accounts: int = 10_000) -> None:
        """`most_accounts` callers are remembered."""
        self.limits = limits
        self.streams = 0
        self._clock = clock
        self._accounts: LRUCache[str, Account] = LRUCache(most_accounts)

    def account(self, caller: str) -> Account:
        """What a caller has left. One that was long silent is forgotten: by then all is there again."""
        found = self._accounts.get(caller)
        if found is None:
            rates = (self.limits.requests_per_minute, self.limits.tokens_per_minute)
            found = Account(*(Bucket(rate, self._clock) if rate else None for rate in rates))
            self._accounts[caller] = found
        return found

    def admit(self, caller: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429, the caller has sent too many.
        """
        bucket = self.account(caller).requests
        if bucket is not None and (wait := bucket.take(1)):
            raise _too_fast(f"more than {bucket.size} requests a minute", wait)

    def reserve(self, caller: str, tokens: int) -> Reservation:
        """Set tokens aside for a request.

        Raises:
            ApiError: 429, the caller has used too many; 400, it never has so many.
        """
        bucket = self.account(caller).tokens
        if bucket is not None and tokens > bucket.size:
            raise ApiError(
                400, f"the request may generate {tokens} tokens, and {bucket.size} a minute are allowed; ask for fewer",
                code="too_many_tokens", param="max_tokens",
            )  # fmt: skip
        if bucket is not None and (wait := bucket.take(tokens)):
            raise _too_fast(f"more than {bucket.size} tokens a minute", wait)
        return Reservation(bucket, tokens)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream while it runs.

        Raises:
            ApiError: 429, there are too many.
        """
        if self.streams >= self.limits.max_streams:
            raise ApiError(
                429, f"{self.streams} streams are open and no more may be; try again later", code="too_many_streams",
                retry_after=RETRY_SOON_S,
            )  # fmt: skip
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


def _too_fast(what: str, wait: float) -> ApiError:
    return ApiError(
        429, f"{what} are not allowed; try again in {math.ceil(wait)} s", code="rate_limit_exceeded", retry_after=wait
    )
