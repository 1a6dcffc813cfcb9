"""Who asks: API keys to tenants and scopes."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cachetools import LRUCache
from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from softprompt.errors import Denied, RegistryError
from softprompt.http.errors import ApiError

if TYPE_CHECKING:
    from softprompt.registry.keys import Key
    from softprompt.registry.registry import Registry

T = TypeVar("T")

FRESH_S = 1.0
"""Seconds that an answer of the registry is believed; so long a revoked key may still be let in."""

STALE_S = 300.0
"""Seconds that it is believed while the registry cannot be reached: then no key can be revoked either."""

PATIENCE_S = 5.0
"""Seconds that a request waits for the registry's answer, whatever holds it up; then it is away."""
LOOKS = 4
"""Questions to the registry at once: those that hang hold up nothing else."""

AWAY_S = 5.0
"""Seconds after a failure in which the registry is not asked again for what it has answered before: each question may take
until a connection is given up. So much later may a key be revoked."""


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    tenant: str
    key: Key | None = None
    """None where no key is needed."""
    in_batch: bool = False
    """Whether a batch asks, long after the caller."""

    @property
    def name(self) -> str:
        """What requests without a user are told apart by."""
        return "" if self.key is None else f"key-{self.key.id}"

    @property
    def account(self) -> str:
        """What limits are counted by; batches have one of their own, so that they hold up no other request."""
        return f"batches of {self.name or self.tenant}" if self.in_batch else self.name

    def allows(self, scope: str) -> bool:
        """Whether the caller may do what the scope stands for; without keys everybody may."""
        return self.key is None or self.key.allows(scope)

    def require(self, scope: str) -> None:
        """Raises `ApiError` 403 unless the caller has the scope."""
        try:
            if self.key is not None:
                self.key.require(scope)
        except Denied as error:
            raise ApiError(403, str(error), code="insufficient_permissions") from None

    def require_user(self, user: str | None) -> str | None:
        """The user whose own prompt is asked for, as it is. Raises `ApiError` 403 where the caller may not ask for that
        one; without keys everybody may ask for any."""
        try:
            if self.key is not None and user is not None:
                self.key.require_user(user)
        except Denied as error:
            raise ApiError(403, str(error), code="insufficient_permissions", param="user") from None
        return user


@dataclass
class _Answer:
    """The registry's answer for a secret; `key` is None where it was refused, for the reason in `why`."""

    at: float
    key: Key | None
    why: str = ""


class Keyring:
    """The keys of all tenants, as the registry has them now or had them a moment ago. For one event loop."""

    def __init__(
        self,
        registry: Registry,
        *,
        always: bool = False,
        most_remembered: int = 10_000,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`always` asks for a key also while there are none: for servers that others can reach. Answers are remembered for
        so many secrets, wrong ones among them."""
        self.registry = registry
        self._always = always
        self._clock = clock
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(LOOKS, thread_name_prefix="keys")
        self._answers: LRUCache[bytes, _Answer] = LRUCache(most_remembered)
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._needed = always
        self._needed_at: float | None = None
        self._failed_at: float | None = None

    async def needed(self) -> bool:
        """Whether callers need a key: from the first live key on, until the server ends. Were it otherwise, revoking the
        last key would let everybody in.

        Raises:
            RegistryError: that cannot be known.
        """
        if self._needed or (self._needed_at is not None and self._holds(self._needed_at)):
            return self._needed
        at = self._clock()
        try:
            self._needed = await self._once(b"", self.registry.keys.any_live)
        except RegistryError:
            self._failed_at = self._clock()
            if self._needed_at is None or not self._holds(self._needed_at):
                raise
        else:
            self._needed_at = at
        return self._needed

    async def identify(self, authorization: str | None) -> Caller:
        """Who sends this header.

        Raises:
            ApiError: 401, a key is needed and this is none.
            RegistryError: the registry cannot be asked.
        """
        if not await self.needed():
            return Caller(self.registry.tenant)
        scheme, _, secret = (authorization or "").partition(" ")
        if not authorization:
            raise _refused("this server needs an API key; send it as `Authorization: Bearer KEY`")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _refused("the Authorization header must read `Bearer KEY`")
        answer = await self._ask(secret.strip())
        if answer.key is None:
            raise _refused(answer.why)
        return Caller(answer.key.tenant, answer.key)

    async def _ask(self, secret: str) -> _Answer:
        # Kept by digest: how long a look-up takes shows nothing of the secrets that are there.
        name = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        known = self._answers.get(name)
        if known is not None and self._holds(known.at):
            return known
        try:
            answer: _Answer = await self._once(name, partial(self._look_up, secret))
        except RegistryError:
            self._failed_at = self._clock()
            if known is None or not self._holds(known.at):
                raise
            return known
        self._answers[name] = answer
        return answer

    def _holds(self, at: float) -> bool:
        """Whether what the registry answered at a time is believed without asking again."""
        now = self._clock()
        away = self._failed_at is not None and now - self._failed_at < AWAY_S
        return now - at < FRESH_S or (away and now - at <= STALE_S)

    async def _once(self, name: bytes, question: Callable[[], T]) -> T:
        """The registry's answer to a question, asked once however many wait for it.

        Raises:
            RegistryError: it fails, or does not answer in time.
        """
        asking = self._asked.get(name)
        if asking is None:
            asking = self._asked[name] = asyncio.get_running_loop().run_in_executor(self._pool, question)
            asking.add_done_callback(partial(self._heard, name))
        try:
            return cast(T, await asyncio.wait_for(asyncio.shield(asking), self._patience_s))
        except TimeoutError:
            self._forget(name, asking)  # the next one asks anew: it may be this connection alone
            raise RegistryError(f"the registry did not answer within {self._patience_s:g} s; try again") from None

    def _forget(self, name: bytes, asking: asyncio.Future[Any]) -> None:
        if self._asked.get(name) is asking:
            del self._asked[name]

    def _heard(self, name: bytes, asking: asyncio.Future[Any]) -> None:
        self._forget(name, asking)
        if not asking.cancelled():
            asking.exception()  # of which those that still wait are told

    def _look_up(self, secret: str) -> _Answer:
        at = self._clock()
        try:
            return _Answer(at, self.registry.keys.authenticate(secret))
        except Denied as error:
            return _Answer(at, None, str(error))


def _refused(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def caller_of(request: Request) -> Caller:
    """Who sends a request to `/v1/`; known before its body is read."""
    caller: Caller = request.state.caller
    return caller


_bearer = HTTPBearer(auto_error=False, description="An API key; not needed where there are none.")


def need(scope: str) -> Callable[..., Caller]:
    """A dependency: the caller, who has the scope.

    Raises:
        ApiError: 403, the key lacks it.
    """

    def caller(request: Request, _: object = Depends(_bearer)) -> Caller:
        found = caller_of(request)
        found.require(scope)
        return found

    return caller


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this very machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def comes_from_here(client: tuple[str, int] | None, headers: Mapping[str, str]) -> bool:
    """Whether a request was made on this machine, and not handed on by a proxy that runs here."""
    handed_on = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    return client is not None and is_loopback(client[0]) and not handed_on


def host_of(header: str) -> str:
    """The host in a Host header or an Origin, without scheme and port."""
    rest = header.rpartition("://")[2].partition("/")[0]
    if rest.startswith("["):
        return rest.partition("]")[0].removeprefix("[")
    return rest.partition(":")[0]
