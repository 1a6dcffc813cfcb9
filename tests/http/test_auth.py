"""Keys: who is let in, for how long an answer of the registry is believed, and what happens while it is away."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from softprompt.errors import Denied, RegistryError
from softprompt.http import auth
from softprompt.http.auth import Caller, Keyring, comes_from_here, host_of, is_loopback
from softprompt.http.errors import ApiError
from softprompt.registry.keys import Key

from .test_limits import Clock


class Registry:
    """Keys in memory, with a way to be away."""

    def __init__(self, tenant: str = "home") -> None:
        self.tenant = tenant
        self.known: dict[str, Key] = {}
        self.away = False
        self.asked = 0

    def add(self, secret: str, *scopes: str, tenant: str = "acme") -> None:
        at = len(self.known) + 1
        self.known[secret] = Key(at, tenant, f"key{at}", frozenset(scopes), secret[:4], "", "", False)

    @property
    def keys(self) -> Registry:
        return self

    def any_live(self) -> bool:
        self._ask()
        return bool(self.known)

    def authenticate(self, secret: str) -> Key:
        self._ask()
        time.sleep(0.01)
        if secret not in self.known:
            raise Denied("this API key is not known")
        return self.known[secret]

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise RegistryError("postgresql://secret-host/db is away")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ring(registry: Any, clock: Clock, **options: Any) -> Keyring:
    return Keyring(registry, clock=clock, **options)


def refused(keyring: Keyring, header: str | None) -> str:
    with pytest.raises(ApiError) as caught:
        asyncio.run(keyring.identify(header))
    assert caught.value.status == 401
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    return caught.value.message


def test_without_keys_any_header_will_do(registry: Registry, clock: Clock) -> None:
    keyring = ring(registry, clock)
    for header in (None, "", "Bearer x", "nonsense"):
        assert asyncio.run(keyring.identify(header)) == Caller("home")
    assert registry.asked == 1
    assert Caller("home").allows("admin")


def test_a_server_that_others_reach_asks_always(registry: Registry, clock: Clock) -> None:
    assert "needs an API key" in refused(ring(registry, clock, always=True), None)


def test_the_first_key_shuts_the_door_within_a_second_and_for_good(registry: Registry, clock: Clock) -> None:
    keyring = ring(registry, clock)
    assert asyncio.run(keyring.identify(None)).key is None
    registry.add("sp-1", "read")
    clock.now += auth.FRESH_S
    assert "needs an API key" in refused(keyring, None)
    assert asyncio.run(keyring.identify("bearer sp-1")).tenant == "acme"
    registry.known.clear()  # the last key is revoked
    clock.now += auth.FRESH_S
    assert "not known" in refused(keyring, "Bearer sp-1")
    assert "needs an API key" in refused(keyring, None)


@pytest.mark.parametrize("header", ["Basic sp-1", "sp-1", "Bearer", "Bearer  "])
def test_other_headers_are_told_what_they_lack(registry: Registry, clock: Clock, header: str) -> None:
    registry.add("sp-1", "read")
    assert "must read `Bearer KEY`" in refused(ring(registry, clock), header)


def test_an_answer_holds_for_a_second(registry: Registry, clock: Clock) -> None:
    registry.add("sp-1", "read")
    keyring = ring(registry, clock)
    for _ in range(5):
        assert asyncio.run(keyring.identify("Bearer sp-1")).key is not None
    assert registry.asked == 2  # are there keys, and is this one
    del registry.known["sp-1"]
    clock.now += auth.FRESH_S - 0.01
    assert asyncio.run(keyring.identify("Bearer sp-1")).key is not None
    clock.now += 0.02
    assert "not known" in refused(keyring, "Bearer sp-1")
    asked = registry.asked
    refused(keyring, "Bearer sp-1")
    assert registry.asked == asked  # a wrong one is remembered, too


def test_many_at_once_ask_once(registry: Registry, clock: Clock) -> None:
    registry.add("sp-1", "read")
    keyring = ring(registry, clock)

    async def many() -> list[Caller]:
        return await asyncio.gather(*(keyring.identify("Bearer sp-1") for _ in range(50)))

    asyncio.run(keyring.needed())
    asked = registry.asked
    assert len(set(asyncio.run(many()))) == 1
    assert registry.asked == asked + 1


def test_wrong_secrets_do_not_fill_the_memory(registry: Registry, clock: Clock) -> None:
    registry.add("sp-1", "read")
    keyring = ring(registry, clock, most_remembered=5)
    for at in range(20):
        refused(keyring, f"Bearer wrong-{at}")
    assert len(keyring._answers) == 5
    assert not keyring._asked


def test_known_keys_are_let_in_while_the_registry_is_away(registry: Registry, clock: Clock) -> None:
    registry.add("sp-1", "read")
    keyring = ring(registry, clock)
    asyncio.run(keyring.identify("Bearer sp-1"))
    refused(keyring, "Bearer wrong")
    registry.away = True
    clock.now += auth.STALE_S - 1
    assert asyncio.run(keyring.identify("Bearer sp-1")).key is not None
    refused(keyring, "Bearer wrong")
    with pytest.raises(RegistryError):
        asyncio.run(keyring.identify("Bearer new"))
    clock.now += 2
    with pytest.raises(RegistryError):
        asyncio.run(keyring.identify("Bearer sp-1"))


def test_a_registry_that_is_away_is_not_asked_for_each_request(registry: Registry, clock: Clock) -> None:
    keyrings = [ring(registry, clock)]
    asyncio.run(keyrings[0].identify(None))  # no key is needed
    registry.add("sp-1", "read")
    keyrings.append(ring(registry, clock))
    asyncio.run(keyrings[1].identify("Bearer sp-1"))
    registry.away = True
    clock.now += auth.FRESH_S
    for keyring in keyrings:
        asked = registry.asked
        for _ in range(5):
            asyncio.run(keyring.identify("Bearer sp-1"))  # each question may take until a connection is given up
        assert registry.asked == asked + 1
    registry.away = False
    registry.known["sp-2"] = registry.known.pop("sp-1")
    clock.now += auth.AWAY_S
    for keyring in keyrings:
        assert "not known" in refused(keyring, "Bearer sp-1")


def test_a_registry_that_never_answers_holds_up_nobody_for_long(registry: Registry, clock: Clock) -> None:
    """Known keys are let in, others are refused, and what else runs in threads is not held up."""
    registry.add("sp-1", "read")
    keyring = ring(registry, clock, patience_s=0.05)
    going = threading.Event()
    authenticate, asked = registry.authenticate, []

    def hangs(secret: str) -> Key:
        asked.append(secret)
        going.wait(20)
        return authenticate(secret)

    async def main() -> None:
        await keyring.identify("Bearer sp-1")
        registry.authenticate = hangs  # type: ignore[method-assign]
        clock.now += auth.FRESH_S
        both = await asyncio.gather(*(keyring.identify("Bearer sp-1") for _ in range(2)))
        assert {caller.tenant for caller in both} == {"acme"}
        assert (await keyring.identify("Bearer sp-1")).tenant == "acme"
        assert asked == ["sp-1"]
        for number in range(40):  # more than there are threads for all else
            with pytest.raises(RegistryError, match=r"did not answer within 0\.05 s"):
                await keyring.identify(f"Bearer other-{number}")
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 10) == "free"
        going.set()
        clock.now += auth.AWAY_S
        assert (await keyring.identify("Bearer sp-1")).tenant == "acme"
        assert not keyring._asked

    asyncio.run(main())


def test_a_registry_that_never_says_whether_keys_are_needed_lets_nobody_in(registry: Registry, clock: Clock) -> None:
    going = threading.Event()
    registry.any_live = lambda: going.wait(20)  # type: ignore[method-assign]

    async def main() -> None:
        keyring = ring(registry, clock, patience_s=0.05)
        with pytest.raises(RegistryError, match="did not answer"):
            await keyring.identify(None)
        going.set()

    asyncio.run(main())


def test_nobody_is_let_in_where_it_was_never_known_whether_keys_are_needed(registry: Registry, clock: Clock) -> None:
    registry.away = True
    with pytest.raises(RegistryError):
        asyncio.run(ring(registry, clock).identify("Bearer x"))


def test_scopes(registry: Registry, clock: Clock) -> None:
    registry.add("sp-1", "read", "predict")
    registry.add("sp-2", "admin")
    keyring = ring(registry, clock)
    reader, admin = (asyncio.run(keyring.identify(f"Bearer {secret}")) for secret in registry.known)
    reader.require("predict")
    with pytest.raises(ApiError, match="lacks the scope 'train'") as caught:
        reader.require("train")
    assert caught.value.status == 403
    admin.require("train")
    assert reader.name != admin.name


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("localhost", "localhost"),
        ("http://evil.example:80/x", "evil.example"),
        ("", ""),
    ],
)
def test_the_host_in_a_header(header: str, host: str) -> None:
    assert host_of(header) == host


def test_what_is_this_machine() -> None:
    for here in ("127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST.", "::1", "[::1]"):
        assert is_loopback(here)
    for other in ("0.0.0.0", "10.0.0.1", "::", "localhost.evil.example", "127.0.0.1.evil.example", "", "null"):
        assert not is_loopback(other)
    assert comes_from_here(("127.0.0.1", 5), {})
    assert not comes_from_here(("10.0.0.1", 5), {})
    assert not comes_from_here(("127.0.0.1", 5), {"x-forwarded-for": "10.0.0.1"})
    assert not comes_from_here(None, {})
