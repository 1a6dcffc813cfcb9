"""Promotions, rollbacks, deletions and restorations in any order do what a model of a few lines does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from softprompt.errors import LibraryError, NotFound
from softprompt.library.library import Library
from tests.library_data import make_prompt

ALIASES = ("production", "staging")


class Aliases(RuleBasedStateMachine):
    """The model: which versions are deleted, and a stack of promotions for each alias."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.library = Library.open(Path(self.folder.name) / "home", store="memory://model")
        self.deleted: list[bool] = []
        self.trails: dict[str, list[int]] = {}

    def teardown(self) -> None:
        problems = self.library.verify().problems
        self.library.close()
        self.folder.cleanup()
        assert not problems

    @rule(seed=st.integers(0, 3))
    def publish(self, seed: int) -> None:
        self.deleted.append(False)
        assert self.library.publish(make_prompt(seed=seed), base="b").number == len(self.deleted)

    @precondition(lambda self: self.deleted)
    @rule(data=st.data(), alias=st.sampled_from(ALIASES))
    def promote(self, data: st.DataObject, alias: str) -> None:
        number = data.draw(st.integers(1, len(self.deleted)))
        if self.deleted[number - 1]:
            with pytest.raises(NotFound):
                self.library.promote(f"trec6@{number}", alias)
            return
        self.library.promote(f"trec6@{number}", alias)
        trail = self.trails.setdefault(alias, [])
        if not trail or trail[-1] != number:
            trail.append(number)

    @precondition(lambda self: self.deleted)
    @rule(alias=st.sampled_from(ALIASES))
    def rollback(self, alias: str) -> None:
        trail = self.trails.get(alias, [])
        back = list(trail)
        while back and (back[-1] == trail[-1] or self.deleted[back[-1] - 1]):
            back.pop()
        if not back:
            with pytest.raises(NotFound):
                self.library.rollback("trec6", alias)
            return
        assert self.library.rollback("trec6", alias).after == back[-1]
        self.trails[alias] = back

    @precondition(lambda self: self.deleted)
    @rule(data=st.data(), force=st.booleans())
    def delete(self, data: st.DataObject, force: bool) -> None:
        number = data.draw(st.integers(1, len(self.deleted)))
        here = [alias for alias, trail in self.trails.items() if trail[-1] == number]
        if self.deleted[number - 1] or (here and not force):
            with pytest.raises(LibraryError):
                self.library.registry.delete(f"trec6@{number}", force=force)
            return
        self.library.registry.delete(f"trec6@{number}", force=force)
        self.deleted[number - 1] = True
        for alias in here:
            del self.trails[alias]

    @precondition(lambda self: any(self.deleted))
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([place + 1 for place, gone in enumerate(self.deleted) if gone]))
        self.library.restore(f"trec6@{number}")
        self.deleted[number - 1] = False

    @precondition(lambda self: self.deleted)
    @rule()
    def collect(self) -> None:
        self.library.gc()

    @invariant()
    def agrees(self) -> None:
        if not self.deleted:
            assert self.library.registry.tasks() == []
            return
        at = {alias: trail[-1] for alias, trail in sorted(self.trails.items())}
        assert self.library.registry.aliases.of("trec6") == at
        live = [place + 1 for place, gone in enumerate(self.deleted) if not gone]
        assert [version.number for version in self.library.registry.versions("trec6", deleted=False)] == live
        listed = [(entry.version, entry.versions) for entry in self.library.registry.tasks()]
        assert listed == ([(live[-1], len(live))] if live else [])
        bare = at.get("production", live[-1] if live else None)
        if bare is None:
            with pytest.raises(NotFound):
                self.library.registry.resolve("trec6")
        else:
            assert self.library.registry.resolve("trec6").number == bare
            assert self.library.read("trec6")


TestAliases = Aliases.TestCase
TestAliases.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
