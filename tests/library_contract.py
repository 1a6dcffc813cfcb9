"""What a whole library keeps to on every pair of store and database. A test class gives `opened` and `damage`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from softprompt.errors import LibraryError, NotFound, PromotionRefused, PromptFileError, SoftPromptError, StoreError
from softprompt.library.library import Library
from softprompt.library.maintenance import Garbage
from softprompt.prompts.file import digest_of
from softprompt.registry import tables
from softprompt.registry.records import Origin
from softprompt.stores.base import Store
from tests.library_data import make_prompt, scored
from tests.store_contract import Damage

BASE = "builtin/tiny"
Opener = Callable[..., Library]


class Collected:
    """A store whose garbage another library collects right behind the first blob that is put into it."""

    def __init__(self, store: Store, other: Library) -> None:
        self._store, self._other = store, other
        self._collected = False

    def put(self, data: bytes) -> str:
        digest = self._store.put(data)
        if not self._collected:
            self._collected = True
            assert len(self._other.gc()) == 1
        return digest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class LibraryContract:
    @pytest.fixture
    def library(self, opened: Opener) -> Iterator[Library]:
        with opened() as library:
            yield library

    def test_publishes_and_reads_back(self, library: Library) -> None:
        data = make_prompt(labels=("yes", "no"))
        version = library.publish(data, base=BASE, tags=["x"])
        assert version.digest == digest_of(data)
        assert library.read("trec6") == library.read(version) == data
        assert library.registry.resolve("trec6@1") == version
        assert not library.verify().problems

    def test_publishing_known_bytes_makes_a_version_and_no_blob(self, library: Library) -> None:
        assert [library.publish(make_prompt(), base=BASE).number for _ in range(3)] == [1, 2, 3]
        assert len(list(library.store.list())) == 1

    def test_many_are_published_in_the_order_given(self, library: Library) -> None:
        library.publish(make_prompt("b"), base=BASE)
        files = [make_prompt("b", 1), make_prompt("a", 2), make_prompt("b", 1), make_prompt("b", 3)]
        versions = library.publish_all(files, base=BASE, tags=["x"])
        assert [version.ref for version in versions] == ["b@2", "a@1", "b@3", "b@4"]
        assert [library.read(version) for version in versions] == files
        assert [library.registry.resolve(version.ref) for version in versions] == versions
        assert [entry.after and entry.after["version"] for entry in library.registry.audit("b")] == [1, 2, 3, 4]
        assert library.publish_all([], base=BASE) == []
        assert not library.verify().problems

    def test_of_many_that_fail_on_the_way_none_is_published(self, library: Library) -> None:
        library.publish(make_prompt("b"), base=BASE)
        before = library.registry.audit()
        files = [make_prompt(task, 1) for task in "abc"]
        with pytest.raises(PromptFileError):
            library.publish_all([*files, b"broken"], base=BASE)
        assert len(list(library.store.list())) == 1, "all are read before any is stored"

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            library.publish_all(files, base=BASE, also=interrupted)
        assert [(entry.task, entry.versions) for entry in library.registry.tasks()] == [("b", 1)]
        assert library.registry.audit() == before
        assert not library.verify().problems
        assert len(library.gc()) == 3
        assert [version.ref for version in library.publish_all(files, base=BASE)] == ["a@1", "b@2", "c@1"]

    @pytest.mark.parametrize("cut", [0, 5, 100, -1])
    def test_broken_files_are_refused_before_anything_is_stored(self, library: Library, cut: int) -> None:
        with pytest.raises(PromptFileError):
            library.publish(make_prompt()[:cut], base=BASE)
        assert list(library.store.list()) == []
        assert library.registry.tasks() == []

    def test_a_flipped_byte_is_refused_everywhere(self, library: Library, damage: Damage) -> None:
        data = make_prompt()
        library.publish(make_prompt(seed=1), base=BASE)
        library.promote("trec6@1")
        version = library.publish(data, base=BASE)
        flipped = bytearray(data)
        flipped[-1] ^= 1
        damage(version.digest, bytes(flipped))
        for attempt in (lambda: library.read("trec6@2"), lambda: library.promote("trec6@2")):
            with pytest.raises(StoreError, match=rf"trec6@2: blob {version.digest}.*altered.*import the prompt file"):
                attempt()
        assert library.registry.aliases.of("trec6") == {"production": 1}
        problems = library.verify().problems
        assert [(problem.what, problem.digest, problem.versions) for problem in problems] == [
            ("blob altered", version.digest, ("default/trec6@2",))
        ]
        library.publish(data, base=BASE)  # the mend that the message names
        assert library.read("trec6@2") == data
        assert not library.verify().problems

    def test_a_lost_blob_is_told_with_the_mend(self, library: Library) -> None:
        version = library.publish(make_prompt(), base=BASE)
        library.store.delete(version.digest)
        with pytest.raises(NotFound, match=rf"trec6@1: blob {version.digest} is not in.*library copy"):
            library.read("trec6")
        with pytest.raises(NotFound, match="is not in"):
            library.promote("trec6@1")
        assert [problem.what for problem in library.verify().problems] == ["blob gone"]

    def test_a_rollback_never_leads_to_a_lost_blob(self, library: Library) -> None:
        for seed in range(2):
            library.publish(make_prompt(seed=seed), base=BASE)
            library.promote(f"trec6@{seed + 1}")
        library.store.delete(library.registry.resolve("trec6@1").digest)
        with pytest.raises(NotFound, match="trec6@1"):
            library.rollback("trec6")
        assert library.registry.resolve("trec6").number == 2

    def test_promotion_gate_and_rollback(self, library: Library) -> None:
        library.publish(make_prompt(metrics=scored(0.9)), base=BASE)
        library.publish(make_prompt(seed=1, metrics=scored(0.5)), base=BASE)
        library.promote("trec6@1")
        with pytest.raises(PromotionRefused):
            library.promote("trec6@2")
        library.promote("trec6@2", force=True, reason="a test")
        assert library.rollback("trec6").after == 1

    def test_verify_finds_what_was_done_behind_its_back(self, library: Library) -> None:
        for seed in range(3):
            library.publish(make_prompt(seed=seed), base=BASE)
        library.promote("trec6@1")
        second = library.registry.resolve("trec6@2")
        library.store.put(b"no version names this")
        v = tables.versions.c
        with library.registry.database.write() as connection:
            connection.execute(sa.update(tables.versions).where(v.number == 1).values(deleted=True))
            connection.execute(sa.update(tables.cards).where(tables.cards.c.digest == second.digest).values(card="{}"))
        report = library.verify()
        assert {problem.what for problem in report.problems} == {"alias", "count", "card differs"}
        assert report.unneeded == 1
        assert (report.blobs, report.versions) == (3, 3)

    # Garbage

    def test_gc_tells_first_and_keeps_what_is_needed(self, library: Library) -> None:
        kept = library.publish(make_prompt(), base=BASE).digest
        deleted = library.publish(make_prompt(seed=1), base=BASE)
        library.for_tenant("other").publish(make_prompt(seed=2), base=BASE)
        library.registry.delete(deleted.ref)
        stray = library.store.put(b"left by a killed publish")
        plan = library.plan_gc()
        assert [item.digest for item in plan] == [stray]
        assert library.store.has(stray), "telling deletes nothing"
        assert library.gc(plan) == [stray]
        assert library.restore(deleted.ref).number == 2
        assert library.store.has(kept)
        assert len(list(library.store.list())) == 3
        assert not library.verify().problems

    def test_purging_gives_deleted_versions_up(self, library: Library) -> None:
        shared = make_prompt()
        library.publish(shared, base=BASE)
        library.publish(shared, base=BASE)
        lost = library.publish(make_prompt(seed=1), base=BASE)
        library.registry.delete("trec6@2")
        library.registry.delete("trec6@3")
        plan = library.plan_gc(purge_deleted=True)
        assert [(item.digest, item.versions) for item in plan] == [(lost.digest, ("default/trec6@3",))]
        assert library.gc(plan) == [lost.digest]
        with pytest.raises(NotFound, match="its bytes are gone for good"):
            library.restore("trec6@3")
        assert library.restore("trec6@2").number == 2
        assert not library.verify().problems
        assert library.registry.audit()[-2].action == "purge"
        again = library.publish(make_prompt(seed=1), base=BASE)
        assert again.number == 4
        assert library.restore("trec6@3").digest == again.digest, "its bytes are there again"
        assert library.plan_gc(purge_deleted=True) == []
        assert not library.verify().problems

    def test_gc_after_the_plan_was_made_keeps_what_became_needed(self, library: Library) -> None:
        data = make_prompt()
        library.store.put(data)
        library.publish(make_prompt(seed=1), base=BASE)
        library.registry.delete("trec6@1")
        plan = library.plan_gc(purge_deleted=True)
        assert len(plan) == 2
        library.publish(data, base=BASE)
        library.restore("trec6@1")
        assert library.gc(plan) == []
        assert not library.verify().problems

    def test_racing_publishers_of_many_neither_lose_a_number_nor_wait_in_a_ring(self, opened: Opener) -> None:
        tasks = ["a", "b", "c"]

        def publish(place: int) -> list[str]:
            order = [tasks[(place + offset) % 3] for offset in range(3)]
            with opened() as library:
                refs = []
                for step in range(6):
                    files = [make_prompt(task, step % 2) for task in (order if step % 2 else reversed(order))]
                    refs += [version.ref for version in library.publish_all(files, base=BASE)]
                return refs

        with ThreadPoolExecutor(4) as pool:
            refs = [ref for found in pool.map(publish, range(4)) for ref in found]
        assert sorted(refs) == sorted(f"{task}@{number + 1}" for task in tasks for number in range(24))

    def test_gc_refuses_where_the_registry_names_nothing(self, library: Library, tmp_path: Path) -> None:
        """The store is another registry's, or the registry was lost."""
        version = library.publish(make_prompt(), base=BASE)
        plan = [Garbage(version.digest, 1)]
        with Library.open(tmp_path / "empty") as empty:
            assert empty.gc() == empty.plan_gc(purge_deleted=True) == []
            astray = Library(empty.home, empty.registry, library.store)
            for collect in (astray.plan_gc, astray.gc, lambda: astray.gc(plan), lambda: astray.gc(purge_deleted=True)):
                with pytest.raises(LibraryError, match=r"names no version at all, and the store .* holds 1 blobs: .*mend"):
                    collect()
        assert library.read("trec6") == make_prompt()

    def test_gc_racing_publish_loses_nothing(self, opened: Opener) -> None:
        """The same few blobs are published, deleted and collected at once, over and over."""
        done, met = threading.Event(), threading.Event()
        with opened() as library:  # where nothing at all was published, nothing is collected
            library.publish(make_prompt("first"), base=BASE)

        def publish(place: int) -> int:
            with opened() as library:
                for step in itertools.takewhile(lambda step: step < 12 or not met.is_set(), range(500)):
                    version = library.publish(make_prompt(f"task{place}", seed=step % 2), base=BASE)
                    assert library.read(version) == make_prompt(f"task{place}", seed=step % 2)
                    library.registry.delete(version.ref)
            return step

        def collect() -> int:
            with opened() as library:
                collected = 0
                while not done.is_set():
                    if found := len(library.gc(purge_deleted=True)):
                        collected += found
                        met.set()
                return collected

        with ThreadPoolExecutor(5) as pool:
            collectors = [pool.submit(collect) for _ in range(2)]
            publishers = [pool.submit(publish, place) for place in range(3)]
            try:
                lasts = [publisher.result() for publisher in publishers]
                assert min(lasts) >= 11
            finally:
                done.set()
            assert sum(collector.result() for collector in collectors) > 0
        with opened() as library:
            assert not library.verify().problems
            for place, last in enumerate(lasts):
                assert len(library.registry.versions(f"task{place}")) == last + 1

    def test_gc_between_a_blob_and_its_row(self, library: Library, opened: Opener) -> None:
        """A publish has stored its blob; before its row is there, a collection takes the blob."""
        library.publish(make_prompt("first"), base=BASE)
        with opened() as other:
            data = make_prompt()
            Library(library.home, library.registry, Collected(library.store, other)).publish(data, base=BASE)
            assert other.read("trec6") == data

    # Tenants

    def test_tenants_read_nothing_of_each_other(self, library: Library) -> None:
        other = library.for_tenant("other")
        mine, theirs = make_prompt(), make_prompt(seed=1)
        version = library.publish(mine, base=BASE)
        foreign = other.publish(theirs, base=BASE)
        assert library.read("trec6") == mine
        assert other.read("trec6") == theirs
        other.read(foreign)
        with pytest.raises(NotFound, match="no version of tenant 'default'"):
            library.read(foreign)
        with pytest.raises(NotFound, match="no version of tenant 'other'"):
            other.read(version)
        library.promote("trec6@1")
        assert other.registry.aliases.of("trec6") == {}
        both = library.publish(theirs, base=BASE)  # the same bytes, now of both
        assert library.read(both) == theirs

    def test_one_tenants_garbage_is_anothers_prompt(self, library: Library) -> None:
        other = library.for_tenant("other")
        data = make_prompt()
        library.publish(data, base=BASE)
        other.publish(data, base=BASE)
        library.registry.delete("trec6@1")
        assert library.gc(purge_deleted=True) == []
        assert other.read("trec6") == data

    def test_purging_is_told_to_the_tenant_alone_whose_version_it_was(self, library: Library) -> None:
        other = library.for_tenant("other")
        other.publish(make_prompt("theirs"), base=BASE)
        other.registry.delete("theirs@1")
        assert len(library.gc(purge_deleted=True)) == 1
        assert library.registry.audit() == []
        assert other.registry.audit("theirs")[-1].action == "purge"

    # Copies

    def test_copies_everything_and_goes_on_from_there(self, library: Library, tmp_path: Path) -> None:
        for seed in range(3):
            library.publish(make_prompt(seed=seed), base=BASE, tags=["t"])
            library.promote(f"trec6@{seed + 1}")
        library.publish(make_prompt(seed=9), base=BASE)
        library.registry.delete("trec6@4")
        other = library.for_tenant("other")
        other.publish(make_prompt("theirs"), base=BASE)
        secret = other.registry.keys.create("ci", ["read"]).secret
        origin = Origin("run-1", {"task": "trained"}, [{"split": "train", "address": "a", "digest": "d", "rows": 1}])
        assert library.publish_all([make_prompt("trained")], base=BASE, origins=[origin])[0].number == 1
        report = library.copy(tmp_path / "copy")
        assert (report.blobs, report.present, report.missing) == (6, 0, 0)
        with Library.open(tmp_path / "copy") as copy:
            assert copy.registry.versions("trec6") == library.registry.versions("trec6")
            assert copy.registry.audit() == library.registry.audit()
            assert copy.read("trec6") == library.read("trec6")
            assert copy.registry.origin("trained@1") == library.registry.origin("trained") == origin
            assert copy.publish_all([make_prompt("trained", 1)], base=BASE, origins=[origin])[0].number == 1
            assert copy.rollback("trec6").after == 2
            assert copy.publish(make_prompt(seed=5), base=BASE).number == 5
            assert copy.restore("trec6@4").number == 4
            assert copy.registry.keys.authenticate(secret).tenant == "other"
            assert copy.for_tenant("other").registry.resolve("theirs").number == 1
            assert not copy.verify().problems
        with pytest.raises(LibraryError, match="is no former copy of this library: only there was 'rollback' of 'trec6'"):
            library.copy(tmp_path / "copy")

    def test_copies_the_blobs_alone(self, library: Library, tmp_path: Path) -> None:
        library.publish(make_prompt(), base=BASE)
        library.publish(make_prompt(seed=1), base=BASE)
        assert library.copy(store=str(tmp_path / "blobs")).row() == {
            "blobs": 2,
            "present": 0,
            "missing": 0,
            "rows": 0,
            "bytes": 2 * len(make_prompt()),
            "added": {},
            "changed": (),
            "left": 0,
        }
        assert library.copy(store=str(tmp_path / "blobs")).present == 2, "again, it goes on where it was"

    def test_a_copy_mends_what_is_damaged(self, library: Library, damage: Damage, tmp_path: Path) -> None:
        data = make_prompt()
        version = library.publish(data, base=BASE)
        lost = library.publish(make_prompt(seed=1), base=BASE)
        library.copy(tmp_path / "backup")
        damage(version.digest, data[:-1] + b"x")
        library.store.delete(lost.digest)
        assert len(library.verify().problems) == 2
        with Library.open(tmp_path / "backup") as backup:
            assert backup.copy(store=_address(library)).blobs == 2
        assert not library.verify().problems

    def test_does_not_copy_damage(self, library: Library, damage: Damage, tmp_path: Path) -> None:
        version = library.publish(make_prompt(), base=BASE)
        damage(version.digest, b"other")
        with pytest.raises(StoreError, match=version.digest):
            library.copy(tmp_path / "copy")
        with Library.open(tmp_path / "copy") as copy:
            assert copy.registry.tasks() == [], "the rows go last"

    def test_does_not_copy_onto_itself(self, library: Library, opened: Opener) -> None:
        library.publish(make_prompt(), base=BASE)
        with pytest.raises(LibraryError, match="the library itself"):
            library.copy(store=_address(library))

    # Many at once

    def test_everything_at_once(self, opened: Opener) -> None:
        def work(place: int) -> None:
            with opened() as library:
                for step in range(6):
                    version = library.publish(make_prompt(seed=place * 10 + step), base=BASE)
                    try:
                        library.promote(version.ref)
                        library.registry.delete(f"trec6@{max(1, version.number - 3)}")
                        library.rollback("trec6")
                    except SoftPromptError:
                        pass  # another was quicker
                    library.registry.tasks()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        with opened() as library:
            assert len(library.registry.versions("trec6")) == 36
            assert not library.verify().problems
            assert library.stats()["blobs"] == 36


def _address(library: Library) -> str:
    return library.store.shown
