"""Residents: prompts by reference, loaded once, bounded, and out of date for a moment at most."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.errors import (
    EngineError,
    FingerprintMismatch,
    NameRefused,
    NotFound,
    PromptFileError,
    RegistryError,
    SoftPromptError,
    StoreError,
)
from softprompt.library import personal
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Origin
from softprompt.registry.registry import Registry
from softprompt.serving.residents.residents import Residents
from softprompt.stores.memory import MemoryStore
from tests.models import make_base, some_prompt

LABELS = ("yes", "no")
ROW = 32 * 4
"""Bytes of a virtual token on the tiny base."""


class Shop(MemoryStore):
    """A store that can fail, stand still and count."""

    def __init__(self) -> None:
        super().__init__("shop")
        self.failing = False
        self.open = threading.Event()
        self.open.set()
        self.reads: list[str] = []

    def get(self, digest: str) -> bytes:
        self.reads.append(digest)
        if self.failing:
            raise StoreError("the shop is closed")
        assert self.open.wait(20)
        return super().get(digest)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    opened = Library.open(tmp_path / "home")
    opened.store = Shop()
    with opened:
        yield opened


@contextlib.contextmanager
def residents_of(
    library: Library,
    base: FrozenBase,
    *,
    max_bytes: int = 1 << 20,
    max_prompts: int = 100,
    fresh_s: float = 0.0,
    away_s: float = 0.02,
    most_unknown: int = 1024,
    **more: Any,
) -> Iterator[Residents]:
    bounds = {"max_bytes": max_bytes, "max_prompts": max_prompts, "most_unknown": most_unknown}
    made = Residents(library, base, fresh_s=fresh_s, away_s=away_s, **bounds, **more)
    try:
        yield made
    finally:
        made.close()


def publish(library: Library, base: FrozenBase, task: str, seed: int = 0, rows: int = 2, **fields: Any) -> SoftPrompt:
    prompt = some_prompt(base, task, seed=seed, rows=rows, **fields)
    library.publish(prompt.to_bytes(), base=base.address)
    return prompt


def shop(library: Library) -> Shop:
    assert isinstance(library.store, Shop)
    return library.store


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Calls of a method of the registry."""
    calls: list[Any] = []
    honest = getattr(Registry, name)
    monkeypatch.setattr(Registry, name, lambda self, *args, **more: calls.append(args) or honest(self, *args, **more))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resident_is_the_prompt_of_the_file_ready_for_its_base(library: Library, dtype: torch.dtype) -> None:
    base = make_base("llama", dtype=dtype)
    prompt = publish(library, base, "mood", labels=LABELS, input="So: {text}")
    answer = publish(library, base, "tell", seed=1)
    with residents_of(library, base) as residents:
        found = residents.get("mood")
        assert (found.task, found.version, found.digest, found.ref) == ("mood", 1, prompt.digest, "mood@1")
        assert found.vectors.digest == prompt.digest
        assert found.tensor.dtype == dtype
        assert torch.equal(found.tensor, prompt.vectors_PD.to(dtype))
        assert found.form.input.text == "So: {text}"
        assert found.labels == found.form.encode_labels(base)
        assert residents.get("tell").labels is None
        assert asyncio.run(residents.aget("tell")).digest == answer.digest
        assert residents.status().bytes == 2 * 2 * 32 * dtype.itemsize


def test_all_names_of_a_version_share_its_vectors(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mood")
    publish(library, base, "mood")  # the same bytes as a second version
    library.promote("mood@1", "production")
    shop(library).reads.clear()
    with residents_of(library, base, fresh_s=60) as residents:
        names = {name: residents.get(name) for name in ("mood", "mood@1", "mood@2", "mood@production")}
        assert {name: found.version for name, found in names.items()} == {
            "mood": 1,
            "mood@1": 1,
            "mood@2": 2,
            "mood@production": 1,
        }
        assert len({id(found.vectors) for found in names.values()}) == 1
        assert residents.status().prompts == 1
        assert residents.status().bytes == 2 * ROW
        assert len(shop(library).reads) == 1


def test_what_is_there_costs_no_question(library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(library, base, "mood")
    with residents_of(library, base, fresh_s=60) as residents:
        first = residents.get("mood")
        assert residents.get("mood") is first
        resolved, asked = counted(monkeypatch, "resolve"), counted(monkeypatch, "state")
        for _ in range(1000):
            residents.get("mood")
        assert not resolved
        assert not asked
        assert residents.status().misses == 1


def test_while_nothing_changes_one_question_serves_for_all(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(20):
        publish(library, base, f"t{place}", seed=place)
    resolved, asked = counted(monkeypatch, "resolve"), counted(monkeypatch, "state")
    with residents_of(library, base) as residents:

        def use_all(rounds: int) -> None:
            for _ in range(rounds):
                for place in range(20):
                    residents.get(f"t{place}")
                time.sleep(0.002)

        use_all(1)
        eventually(lambda: use_all(1) is None and all(e.asked == 1 for e in residents._entries.values()))
        before = len(resolved)
        assert before == 20  # to load each
        use_all(20)
        eventually(lambda: use_all(1) is None and len(asked) > 5)
        assert len(resolved) == before


def test_one_load_serves_all_who_wait_in_threads_and_on_a_loop(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mood")
    shop(library).open.clear()
    with residents_of(library, base) as residents, ThreadPoolExecutor(8) as threads:

        async def many() -> list[Any]:
            waiting = [asyncio.create_task(residents.aget("mood")) for _ in range(8)]
            in_threads = [threads.submit(residents.get, "mood") for _ in range(8)]
            while residents.status().misses < 16:
                await asyncio.sleep(0.001)
            assert not any(one.done() for one in (*waiting, *in_threads))
            shop(library).open.set()
            return [*await asyncio.gather(*waiting), *(one.result() for one in in_threads)]

        found = asyncio.run(many())
        assert len({id(one) for one in found}) == 1
        assert len(shop(library).reads) == 1


def test_a_slow_load_holds_up_nobody_else(library: Library, base: FrozenBase) -> None:
    publish(library, base, "quick")
    slow = publish(library, base, "slow", seed=1)
    third = publish(library, base, "third", seed=2)
    with residents_of(library, base) as residents:
        residents.get("quick")

        async def meanwhile() -> None:
            shop(library).open.clear()
            waiting = asyncio.create_task(residents.aget("slow"))
            while slow.digest not in shop(library).reads:
                await asyncio.sleep(0.001)
            assert (await residents.aget("quick")).task == "quick"
            assert residents.get("quick").task == "quick"
            others = asyncio.create_task(residents.aget("third"))
            while third.digest not in shop(library).reads:
                await asyncio.sleep(0.001)
            shop(library).open.set()
            assert [(await waiting).task, (await others).task] == ["slow", "third"]

        asyncio.run(meanwhile())


def test_one_who_gives_up_waiting_leaves_the_load_to_the_others(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mood")
    shop(library).open.clear()
    with residents_of(library, base) as residents:

        async def run() -> None:
            one, other = (asyncio.create_task(residents.aget("mood")) for _ in range(2))
            while not shop(library).reads:
                await asyncio.sleep(0.001)
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
            shop(library).open.set()
            assert (await other).task == "mood"

        asyncio.run(run())


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def two_versions(library: Library, base: FrozenBase) -> None:
    for seed in (0, 1):
        publish(library, base, "mood", seed=seed)
    library.promote("mood@1", "production")


@pytest.mark.parametrize("pause", [1.0, 7.0, 3600.0, 1e7])
@pytest.mark.parametrize("through_loop", [False, True])
def test_what_changed_in_a_pause_is_seen_by_the_first_request_behind_it(
    library: Library, base: FrozenBase, pause: float, through_loop: bool
) -> None:
    two_versions(library, base)
    clock = Clock()
    with residents_of(library, base, fresh_s=1.0, away_s=5.0, clock=clock) as residents:

        def version(ref: str) -> int:
            return (asyncio.run(residents.aget(ref)) if through_loop else residents.get(ref)).version

        assert [version("mood"), version("mood@2"), version("mood@production")] == [1, 2, 1]
        library.promote("mood@2", "production")
        clock.now += pause
        assert [version("mood@production"), version("mood")] == [2, 2]
        library.rollback("mood")
        library.registry.delete("mood@2")
        clock.now += pause
        with pytest.raises(NotFound, match="mood@2 is deleted"):
            version("mood@2")
        assert version("mood") == 1
        publish(library, base, "mood", seed=3)
        library.registry.delete("mood@1", force=True)
        clock.now += pause
        assert version("mood") == 3
        library.registry.delete("mood@3")
        clock.now += pause
        with pytest.raises(NotFound, match="no live version"):
            version("mood")
        assert residents.status().failures == 0


def test_no_answer_is_older_than_the_interval_while_requests_come(library: Library, base: FrozenBase) -> None:
    two_versions(library, base)
    clock, draw = Clock(), random.Random(3)
    with residents_of(library, base, fresh_s=1.0, clock=clock) as residents:
        live, before, moved_at = 1, 1, -1.0
        for _ in range(300):
            clock.now += draw.choice((0.0, 0.1, 0.4, 0.7, 2.0))
            if draw.random() < 0.2:
                before, live, moved_at = live, 3 - live, clock.now
                library.promote(f"mood@{live}", "production")
            seen = residents.get("mood").version
            assert seen == live or (seen == before and clock.now - moved_at < 1.0)


def test_nobody_waits_for_the_registry_while_requests_come(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(library, base, "mood")
    clock, honest, going = Clock(), Registry.state, threading.Event()
    asked: list[float] = []

    def slow(self: Registry) -> tuple[int, int]:
        asked.append(clock.now)
        assert going.wait(20)
        return honest(self)

    with residents_of(library, base, fresh_s=1.0, clock=clock) as residents:
        residents.get("mood")
        monkeypatch.setattr(Registry, "state", slow)
        for _ in range(50):
            clock.now += 0.009
            residents.get("mood")
        assert not asked  # the last word is fresh
        clock.now += 0.1
        for _ in range(50):
            residents.get("mood")
        eventually(lambda: bool(asked))
        assert asked == [clock.now]  # one question for all, ahead of time
        going.set()
        eventually(lambda: residents.changes._asking is None)
        clock.now += 0.8
        residents.get("mood")
        assert residents.status().failures == 0


def test_a_registry_that_hangs_is_waited_for_once_and_then_left_alone(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two_versions(library, base)
    clock, honest, going = Clock(), Registry.state, threading.Event()
    with residents_of(library, base, fresh_s=1.0, patience_s=0.2, away_s=5.0, clock=clock) as residents:
        residents.get("mood")
        monkeypatch.setattr(Registry, "state", lambda self: going.wait(20) and honest(self))
        library.promote("mood@2", "production")
        clock.now += 60
        began = time.monotonic()
        assert residents.get("mood").version == 1
        assert time.monotonic() - began < 5
        assert "the registry does not answer: RegistryError: nothing came within 0.1 s" in caplog.text
        failures = residents.status().failures
        for _ in range(100):
            assert residents.get("mood").version == 1
        assert residents.status().failures == failures == 1
        going.set()
        eventually(lambda: residents.changes._asking is None)
        assert residents.get("mood").version == 2


def test_a_failure_of_long_ago_blinds_nobody(library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    two_versions(library, base)
    clock = Clock()

    def down(_: Registry) -> Any:
        raise RegistryError("down")

    with residents_of(library, base, fresh_s=1.0, away_s=5.0, clock=clock) as residents:
        residents.get("mood")
        clock.now += 2
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "state", down)
            assert residents.get("mood").version == 1
            assert residents.status().failures == 1
        library.promote("mood@2", "production")
        clock.now += 3600
        assert residents.get("mood").version == 2


def test_a_new_version_that_does_not_come_leaves_the_old_one_unless_that_is_deleted(
    library: Library, base: FrozenBase, caplog: pytest.LogCaptureFixture
) -> None:
    two_versions(library, base)
    clock = Clock()
    with residents_of(library, base, fresh_s=1.0, patience_s=0.2, away_s=5.0, clock=clock) as residents:
        old = residents.get("mood")
        library.promote("mood@2", "production")
        shop(library).open.clear()
        clock.now += 60
        try:
            assert residents.get("mood") is old
            assert asyncio.run(residents.aget("mood")) is old
            assert "'mood' of tenant 'default' stays at mood@1: StoreError: nothing came within 0.2 s" in caplog.text
            library.registry.delete("mood@1")
            clock.now += 60
            with pytest.raises(StoreError, match=r"nothing came within 0\.2 s"):
                residents.get("mood")
        finally:
            shop(library).open.set()
        eventually(lambda: residents.get("mood").version == 2)


def test_a_users_own_prompt_goes_by_the_wishes_of_what_its_task_means_now(library: Library, base: FrozenBase) -> None:
    for seed, how in enumerate(("conversation", "last_user_message")):
        data = some_prompt(base, "mood", seed=seed).to_bytes()
        library.publish_all([data], base=base.address, origins=[Origin(None, {"serving": {"chat_input": how}}, [])])
    library.promote("mood@1", "production")
    personal.publish(library, "mood", [("ann", some_prompt(base, "mood", seed=9).to_bytes())], base=base.address)
    with residents_of(library, base) as residents:

        def wish() -> str | None:
            found = asyncio.run(residents.aget("mood", user="ann"))
            assert (found.user, found.ref) == ("ann", "mood~ann@1")
            return found.wishes.chat_input

        assert wish() == "conversation"
        vectors = asyncio.run(residents.aget("mood", user="ann")).vectors
        library.promote("mood@2", "production")
        eventually(lambda: wish() == "last_user_message")
        assert asyncio.run(residents.aget("mood", user="ann")).vectors is vectors, "nothing is loaded again"


def test_a_newly_published_version_is_what_a_bare_task_means(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mood")
    with residents_of(library, base) as residents:
        assert residents.get("mood").version == 1
        publish(library, base, "mood", seed=1)
        eventually(lambda: residents.get("mood").version == 2)
        assert residents.get("mood@1").version == 1


def close_shop(library: Library, base: FrozenBase, new: SoftPrompt) -> None:
    shop(library).failing = True


def damage(library: Library, base: FrozenBase, new: SoftPrompt) -> None:
    blobs = shop(library)._blobs
    blobs[new.digest] = blobs[new.digest][:-1] + b"\x00\x00"


def lose(library: Library, base: FrozenBase, new: SoftPrompt) -> None:
    del shop(library)._blobs[new.digest]


@pytest.mark.parametrize("break_it", [close_shop, damage, lose])
def test_a_version_that_fails_its_check_leaves_the_old_one_in_place(
    library: Library, base: FrozenBase, break_it: Any, caplog: pytest.LogCaptureFixture
) -> None:
    publish(library, base, "mood")
    with residents_of(library, base) as residents:
        old = residents.get("mood")
        new = publish(library, base, "mood", seed=1)
        whole = shop(library)._blobs[new.digest]
        break_it(library, base, new)
        eventually(lambda: residents.get("mood") is old and residents.status().failures > 0)
        assert "'mood' of tenant 'default' stays at mood@1" in caplog.text
        for _ in range(20):
            assert residents.get("mood") is old
        with pytest.raises((StoreError, PromptFileError)):
            residents.get("mood@2")
        shop(library).failing = False
        shop(library)._blobs[new.digest] = whole
        eventually(lambda: residents.get("mood").version == 2)


def test_a_version_on_another_base_leaves_the_old_one_in_place(library: Library, base: FrozenBase) -> None:
    other = make_base("llama", seed=7)
    publish(library, base, "mood")
    with residents_of(library, base) as residents:
        residents.get("mood")
        foreign = publish(library, other, "mood", seed=1)
        eventually(lambda: residents.get("mood").version == 1 and residents.status().failures > 0)
        with pytest.raises(FingerprintMismatch) as caught:
            residents.get("mood@2")
        for part in ("mood@2", base.fingerprint, other.fingerprint, "random/llama"):
            assert part in str(caught.value)
        assert foreign.digest not in shop(library).reads  # refused before anything is fetched


def test_a_registry_that_is_down_is_reported_and_what_is_there_is_served(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(library, base, "mood")

    def down(*_: Any, **__: Any) -> Any:
        raise RegistryError("the registry is down")

    with residents_of(library, base) as residents:
        found = residents.get("mood")
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "state", down)
            patch.setattr(Registry, "resolve", down)
            eventually(lambda: residents.get("mood").digest == found.digest and residents.status().failures > 2)
            with pytest.raises(RegistryError, match="down"):
                residents.get("mood@1")
        assert "the registry cannot be asked: RegistryError: the registry is down" in caplog.text
        publish(library, base, "mood", seed=1)
        eventually(lambda: residents.get("mood").version == 2)


def test_what_is_deleted_is_dropped_and_then_not_found(library: Library, base: FrozenBase) -> None:
    for seed in (0, 1):
        publish(library, base, "mood", seed=seed)
    publish(library, base, "wood", seed=2)
    library.promote("mood@2", "staging")
    with residents_of(library, base) as residents:
        used = residents.get("mood@2")
        residents.get("mood")
        residents.get("mood@staging")
        library.registry.delete("mood@2", force=True)

        def gone(name: str) -> bool:
            try:
                return residents.get(name).version != 2
            except NotFound:
                return True

        eventually(lambda: all(gone(name) for name in ("mood@2", "mood@staging", "mood")))
        with pytest.raises(NotFound, match="version mood@2 is deleted"):
            residents.get("mood@2")
        with pytest.raises(NotFound, match="no alias 'staging'"):
            residents.get("mood@staging")
        assert residents.get("mood").version == 1
        assert float(used.tensor.sum()) == float(used.tensor.sum())  # those who still use it can
        with pytest.raises(NotFound, match="did you mean 'wood'"):
            residents.get("woood")
        assert residents.status().failures == 0
        assert residents.status().bytes == 2 * ROW


def test_unknown_names_are_remembered_for_a_moment_and_not_without_bound(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = counted(monkeypatch, "resolve")
    with residents_of(library, base, fresh_s=0.5) as residents:
        for _ in range(5):
            with pytest.raises(NotFound, match="no task 'mood'"):
                residents.get("mood")
        assert len(resolved) == 1
        publish(library, base, "mood")

        def there() -> bool:
            with contextlib.suppress(NotFound):
                return residents.get("mood").version == 1
            return False

        eventually(there)
        before = len(resolved)
        for wrong in ("a b", "", "x" * 1000, "mood@", "mood@0", "../mood"):
            with pytest.raises(NameRefused):
                residents.get(wrong)
        assert len(resolved) == before
    with residents_of(library, base, fresh_s=60, most_unknown=50) as residents:
        for place in range(200):
            with pytest.raises(NotFound):
                residents.get(f"made-up-{place}")
        assert len(residents._unknown) == 50
        assert not residents._loading


def test_tenants_see_their_own_and_share_the_bound(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mine", rows=4)
    other = library.for_tenant("other")
    publish(other, base, "theirs", seed=1, rows=4)
    publish(other, base, "same", seed=2)
    publish(library, base, "same", seed=2)
    with residents_of(library, base, max_bytes=9 * ROW, fresh_s=0.0) as residents:
        assert residents.get("theirs", "other").task == "theirs"
        messages = []
        for name in ("theirs", "nobody"):  # another tenant's task, and one that never was
            with pytest.raises(NotFound) as caught:
                residents.get(name)
            messages.append(str(caught.value).replace(name, "NAME"))
        assert messages[0] == messages[1]
        one, two = residents.get("same"), residents.get("same", "other")
        assert one.vectors is two.vectors
        assert residents.status().bytes == 6 * ROW
        residents.get("mine")
        assert residents.status().bytes == 6 * ROW  # that of the other tenant made room
        with pytest.raises(NameRefused):
            residents.get("same", "no/tenant")


@settings(max_examples=15)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 12),
)
def test_the_last_used_stay_within_both_bounds(tmp_path_factory: Any, uses: list[int], most: int, rows: int) -> None:
    base = make_base_once()
    library = filled_library(tmp_path_factory)
    sizes = {f"t{place}": (1 + place % 4) * ROW for place in range(8)}
    twin: OrderedDict[str, int] = OrderedDict()
    with residents_of(library, base, max_bytes=rows * ROW, max_prompts=most, fresh_s=60) as residents:
        for place in uses:
            name = f"t{place}"
            assert residents.get(name).task == name
            if sizes[name] <= rows * ROW:
                twin[name] = sizes[name]
                twin.move_to_end(name)
            while sum(twin.values()) > rows * ROW or len(twin) > most:
                twin.popitem(last=False)
            eventually(lambda: not residents._loading)
            status = residents.status()
            assert (status.prompts, status.bytes) == (len(twin), sum(twin.values()))
            assert {key[1] for key in residents._entries} == set(twin)


_made: dict[str, Any] = {}


def make_base_once() -> FrozenBase:
    return _made.setdefault("base", make_base("llama"))


def filled_library(tmp_path_factory: Any) -> Library:
    if "library" not in _made:
        _made["library"] = Library.open(tmp_path_factory.mktemp("filled") / "home")
        for place in range(8):
            publish(_made["library"], make_base_once(), f"t{place}", seed=place, rows=1 + place % 4)
    return _made["library"]


def test_a_prompt_larger_than_the_bound_is_served_and_not_kept(library: Library, base: FrozenBase) -> None:
    publish(library, base, "large", rows=10)
    publish(library, base, "small", seed=1, rows=1)
    with residents_of(library, base, max_bytes=9 * ROW) as residents:
        residents.get("small")
        assert len(residents.get("large").vectors) == 10
        assert residents.status().bytes == ROW
        assert residents.get("small").task == "small"


def test_many_threads_with_promotions_evictions_and_failures_see_only_true_versions(
    library: Library, base: FrozenBase
) -> None:
    truth = {}
    for place in range(6):
        for seed in range(2):
            prompt = publish(library, base, f"t{place}", seed=10 * place + seed, rows=1 + place)
            truth[(f"t{place}", seed + 1)] = prompt
    stop = threading.Event()
    wrong: list[object] = []
    with residents_of(library, base, max_bytes=12 * ROW, max_prompts=4) as residents:

        def use(seed: int) -> None:
            draw = random.Random(seed)
            while not stop.is_set():
                name = f"t{draw.randrange(6)}{draw.choice(['', '@1', '@2', '@live'])}"
                try:
                    found = residents.get(name)
                except NotFound:
                    if not name.endswith("@live"):
                        wrong.append(name)
                    continue
                except SoftPromptError:
                    continue  # the shop was closed
                prompt = truth.get((found.task, found.version))
                if prompt is None or found.digest != prompt.digest or not torch.equal(found.tensor, prompt.vectors_PD):
                    wrong.append((name, found))
                status = residents.status()
                if status.bytes > 12 * ROW or status.prompts > 4:
                    wrong.append(status)

        users = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
        for user in users:
            user.start()
        draw = random.Random(0)
        for _ in range(40):
            library.promote(f"t{draw.randrange(6)}@{draw.randrange(1, 3)}", "live", force=True, reason="test")
            shop(library).failing = draw.random() < 0.2
            time.sleep(0.005)
            shop(library).failing = False
        stop.set()
        for user in users:
            user.join()
        assert not wrong
        eventually(lambda: not residents._loading)
        for place in range(6):
            number = library.registry.aliases.of(f"t{place}").get("live")
            if number is not None:
                eventually(lambda: residents.get(f"t{place}@live").version == number)  # noqa: B023
        held = {entry.resident.digest: entry.resident.bytes for entry in residents._entries.values()}
        assert residents.status().bytes == sum(held.values())


def test_a_closed_one_serves_what_it_has(library: Library, base: FrozenBase) -> None:
    publish(library, base, "mood")
    with residents_of(library, base) as residents:
        residents.get("mood")
        residents.close()
        assert residents.get("mood").task == "mood"
        with pytest.raises(EngineError, match="closed"):
            residents.get("mood@1")
