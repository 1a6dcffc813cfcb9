"""Answers in the shadow are counted, also where somebody always waits, and where the last one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from softprompt.errors import EngineError
from softprompt.serving import shadow
from softprompt.serving.shadow import COUNT_S, Shadow

SHARE: Any = SimpleNamespace(experiment=SimpleNamespace(id=7, shadow=True))


class Counts:
    """A registry that hears of comparisons."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []
        self.experiments = SimpleNamespace(took_comparisons=lambda *counts: self.told.append(counts))


async def same() -> Sequence[str]:
    return ("yes",)


async def fails() -> Sequence[str]:
    raise EngineError("away")


async def over(of: Shadow) -> None:
    while of._running:
        await asyncio.gather(*of._running)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "AFTER_S", 0.0)


def test_they_are_counted_though_somebody_always_waits() -> None:
    async def main() -> None:
        counts, now = Counts(), 0.0
        made = Shadow(counts, lambda: now)  # type: ignore[arg-type]

        async def another() -> Sequence[str]:
            nonlocal now
            if now < 4 * COUNT_S:
                now += COUNT_S / 2
                made.follow(SHARE, ("yes",), another)
                made.follow(SHARE, ("no",), same)
            elif not counts.told:
                raise AssertionError("nothing was counted")
            return ("yes",)

        made.follow(SHARE, ("yes",), another)
        await over(made)
        assert len(counts.told) > 2
        assert [sum(one) for one in zip(*((compared, agreed) for _, compared, agreed in counts.told), strict=True)] == [
            17,
            9,
        ]

    asyncio.run(main())


def test_they_are_counted_where_the_last_one_fails() -> None:
    async def main() -> None:
        counts = Counts()
        made = Shadow(counts, lambda: 0.0)  # type: ignore[arg-type]
        made.follow(SHARE, ("yes",), same)
        made.follow(SHARE, ("yes",), fails)
        await over(made)
        assert counts.told == [(7, 1, 1)]

    asyncio.run(main())
