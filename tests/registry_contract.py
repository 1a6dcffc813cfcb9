"""What the registry keeps to on every database. A test class inherits from it and gives `url`, of an empty one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from softprompt.errors import Denied, LibraryError, NameRefused, NotFound, PromotionRefused, RegistryError
from softprompt.prompts.file import digest_of, read_card
from softprompt.registry import database, records, tables
from softprompt.registry.records import Origin
from softprompt.registry.registry import Filters, Registry, Version
from softprompt.registry.traffic.feedback import Said
from softprompt.registry.traffic.reviews import Review
from tests.library_data import make_prompt, scored
from tests.outcome_data import check, outcome

TRICKS = [
    "",
    " ",
    "a b",
    "../up",
    "a/b",
    "/etc",
    ".hidden",
    "-rf",
    "a\0b",
    "a\nb",
    "x'; DROP TABLE tasks; --",
    'x" OR "1"="1',
    "naïve",
    "１",
    "a" * 129,
    "a@b@c",
    "%",
]


def publish(
    registry: Registry,
    task: str = "trec6",
    seed: int = 0,
    tags: tuple[str, ...] = (),
    origin: Origin | None = None,
    **fields: Any,
) -> Version:
    data = make_prompt(task, seed, **fields)
    base = fields.get("base", "builtin/tiny")
    prompts = [(read_card(data), digest_of(data))]
    (version,) = registry.publish(prompts, base=base, tags=tags, origins=[origin], ensure_blob=lambda _: None)
    return version


def origin_of(run: str | None = "run-1") -> Origin:
    """The origin of a run, with text of all kinds in it."""
    data = [{"split": "train", "address": "rows.jsonl", "digest": "d" * 64, "rows": 7}]
    return Origin(run, {"task": "trec6", "labels": ["naïve", "\udcff"], "seed": 3, "learning_rate": 0.3}, data)


def go_back(registry: Registry, task: str = "trec6", alias: str = "production") -> int:
    target = registry.aliases.rollback_target(task, alias).number
    move = registry.aliases.rollback(task, alias, to=target)
    assert move is not None
    return move.after


class RegistryContract:
    @pytest.fixture
    def registry(self, url: str) -> Iterator[Registry]:
        registry = Registry.open(url, actor="tester")
        yield registry
        registry.close()

    # Versions

    def test_versions_count_up_also_for_equal_bytes(self, registry: Registry) -> None:
        first, second = publish(registry), publish(registry)
        assert (first.number, second.number) == (1, 2)
        assert first.digest == second.digest
        assert first.ref == "trec6@1"
        assert first.actor == "tester"

    def test_resolves_number_alias_and_bare_name(self, registry: Registry) -> None:
        for seed in range(3):
            publish(registry, seed=seed)
        assert registry.resolve("trec6").number == 3
        registry.aliases.promote("trec6@2", "production")
        registry.aliases.promote("trec6@1", "staging")
        assert registry.resolve("trec6").number == 2
        assert registry.resolve("trec6@production").number == 2
        assert registry.resolve("trec6@staging").number == 1
        assert registry.resolve("trec6@3").number == 3
        assert registry.aliases.of("trec6") == {"production": 2, "staging": 1}

    def test_what_comes_back_is_what_was_published(self, registry: Registry) -> None:
        version = publish(registry, tags=("b", "a"), labels=("é", "日本"), metrics=scored(0.5), parents=("p" * 64,))
        again = registry.resolve("trec6@1")
        assert again == version
        assert again.tags == ("a", "b")
        assert again.card.labels == ("é", "日本")
        assert again.card.parents == ("p" * 64,)
        assert registry.versions("trec6") == [version]

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            ("trec", "did you mean 'trec6'"),
            ("trec6@9", "no version 9: the highest is 1"),
            ("trec6@produktion", "did you mean 'production'"),
            ("trec6@x", "no alias 'x'"),
        ],
    )
    def test_what_is_not_there_is_told_with_the_nearest(self, registry: Registry, ref: str, message: str) -> None:
        publish(registry)
        registry.aliases.promote("trec6@1", "production")
        with pytest.raises(NotFound, match=message):
            registry.resolve(ref)

    @pytest.mark.parametrize("name", TRICKS)
    def test_tricks_in_names_are_refused_everywhere(self, registry: Registry, name: str) -> None:
        publish(registry)
        attempts: list[Callable[[], object]] = [
            lambda: registry.resolve(name),
            lambda: registry.resolve(f"trec6@{name}"),
            lambda: registry.versions(name),
            lambda: registry.aliases.promote("trec6@1", name),
            lambda: registry.aliases.rollback_target(name, "production"),
            lambda: registry.tag("trec6@1", add=[name]),
            lambda: registry.for_tenant(name),
            lambda: registry.keys.create(name, ["read"]),
            lambda: registry.tasks(Filters(tag=name)),
            lambda: publish(registry, task=name),
        ]
        for attempt in attempts:
            with pytest.raises(NameRefused):
                attempt()
        assert len(registry.tasks()) == 1

    @pytest.mark.parametrize("text", TRICKS)
    def test_tricks_in_filters_find_nothing(self, registry: Registry, text: str) -> None:
        publish(registry)
        text = text.replace("\0", "")  # PostgreSQL knows no NUL
        assert registry.tasks(Filters(task=text)) == []
        assert registry.tasks(Filters(base=text)) == []
        for metric in ("x y", "accuracy>", "accuracy>>1", "accuracy>=abc", "accuracy;--"):
            with pytest.raises(NameRefused, match="metric filter"):
                registry.tasks(Filters(metric=metric))

    def test_version_numbers_that_fit_no_integer(self, registry: Registry) -> None:
        publish(registry)
        for ref in ("trec6@0", "trec6@00", "trec6@99999999999999999999"):
            with pytest.raises(NameRefused, match="versions count from 1"):
                registry.resolve(ref)
        with pytest.raises(NotFound):
            registry.resolve("trec6@999999999")

    def test_text_that_is_no_unicode_is_refused(self, registry: Registry) -> None:
        publish(registry)
        for attempt in (
            lambda: registry.aliases.promote("trec6@1", "production", reason="\udcff"),
            lambda: registry.tasks(Filters(base="\udcff")),
            lambda: registry.tasks(Filters(task="\udcff*")),
        ):
            with pytest.raises(NameRefused, match="no valid Unicode"):
                attempt()
        assert registry.aliases.of("trec6") == {}

    def test_text_with_nul_is_refused_and_rows_for_review_are_kept_without(self, registry: Registry) -> None:
        """By every database alike, as a fault of whoever wrote it; rows come from anybody, and hold up no others."""
        publish(registry)
        for attempt in (
            lambda: registry.aliases.promote("trec6@1", "production", reason="be\0cause"),
            lambda: registry.feedback.add(Said("trec6", "chatcmpl-1", 1, comment="a\0b")),
            lambda: registry.feedback.add(Said("trec6", "chat\0cmpl-1", 1, comment="ab")),
            lambda: registry.tasks(Filters(base="a\0b")),
            lambda: registry.keys.revoke("a\0b"),
        ):
            with pytest.raises(NameRefused, match="holds the character NUL"):
                attempt()
        assert registry.aliases.of("trec6") == {}
        rows = [Review(0, "trec6", 1, text, "x", 0.5) for text in ("a\0b", "plain")]
        registry.reviews.add("trec6", rows)
        assert [row.text for row in registry.reviews.of("trec6")] == ["a\ufffdb", "plain"]

    # Origins

    def test_an_origin_is_kept_beside_its_version(self, registry: Registry) -> None:
        publish(registry)
        assert publish(registry, origin=origin_of()).number == 2
        publish(registry, origin=origin_of(None))
        publish(registry, origin=origin_of(None))
        assert registry.origin("trec6@2") == origin_of()
        assert registry.origin("trec6@3") == registry.origin("trec6") == origin_of(None)
        assert registry.origin("trec6@1") is None
        registry.delete("trec6@2")
        assert registry.origin("trec6@2") == origin_of()
        for ref in ("trec6@9", "trec7"):
            with pytest.raises(NotFound):
                registry.origin(ref)

    def test_a_run_publishes_once(self, registry: Registry) -> None:
        first = publish(registry, origin=origin_of())
        audit = registry.audit()
        assert publish(registry, seed=1, tags=("late",), origin=origin_of()) == first, "nothing is added or changed"
        gone = registry.delete(first.ref)
        assert publish(registry, origin=origin_of()) == gone
        assert [entry.action for entry in registry.audit()[len(audit) :]] == ["delete"]
        assert publish(registry, origin=origin_of("run-2")).number == 2

    def test_a_run_is_of_one_task_and_one_tenant(self, registry: Registry) -> None:
        publish(registry, origin=origin_of())
        other = registry.for_tenant("other")
        for attempt in (
            lambda: publish(registry, "words", origin=origin_of()),
            lambda: publish(other, origin=origin_of()),
        ):
            with pytest.raises(LibraryError, match=r"run 'run-1' has published another task already.*an id of its own"):
                attempt()
        assert [entry.versions for entry in registry.tasks()] == [1]
        assert other.tasks() == []

    def test_of_many_only_those_whose_run_has_published_are_left_out(self, registry: Registry) -> None:
        kept = publish(registry, origin=origin_of())
        files = [make_prompt("trec6", 1), make_prompt("words", 2), make_prompt("trec6", 3)]
        seen: list[list[Version]] = []
        versions = registry.publish(
            [(read_card(data), digest_of(data)) for data in files],
            base="builtin/tiny",
            origins=[origin_of(), origin_of("run-2"), None],
            ensure_blob=lambda _: None,
            also=lambda connection, versions: seen.append(versions),
        )
        assert [version.ref for version in versions] == ["trec6@1", "words@1", "trec6@2"]
        assert versions[0] == kept
        assert seen == [versions]
        with pytest.raises(ValueError, match="argument"):
            registry.publish([], base="builtin/tiny", origins=[None], ensure_blob=lambda _: None)

    def test_racing_publishers_of_one_run_publish_once(self, registry: Registry, url: str) -> None:
        others = [Registry.open(url) for _ in range(4)]

        def work(place: int) -> list[int]:
            run = [origin_of(f"run-{step}") for step in range(6)]
            return [publish(others[place], seed=place * 10 + step, origin=run[step]).number for step in range(6)]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(4)))
        for other in others:
            other.close()
        assert found == [found[0]] * 4
        assert sorted(found[0]) == [version.number for version in registry.versions("trec6")] == list(range(1, 7))
        assert len(registry.audit("trec6")) == 6

    # Aliases

    def test_rollback_walks_back_through_the_promotions(self, registry: Registry) -> None:
        for seed in range(4):
            publish(registry, seed=seed)
        for number in (1, 3, 2):
            registry.aliases.promote(f"trec6@{number}", "production")
        assert go_back(registry) == 3
        registry.aliases.promote("trec6@4", "production")
        assert go_back(registry) == 3
        assert go_back(registry) == 1
        with pytest.raises(NotFound, match="nothing to go back to from version 1"):
            go_back(registry)
        assert registry.aliases.of("trec6") == {"production": 1}

    def test_promoting_what_is_in_place_changes_nothing(self, registry: Registry) -> None:
        publish(registry)
        publish(registry, seed=1)
        registry.aliases.promote("trec6@1", "production")
        registry.aliases.promote("trec6@2", "production")
        before = registry.audit("trec6")
        move = registry.aliases.promote("trec6@2", "production")
        assert (move.before, move.after) == (2, 2)
        assert registry.audit("trec6") == before
        assert go_back(registry) == 1

    def test_rollback_goes_past_deleted_versions(self, registry: Registry) -> None:
        for seed in range(3):
            publish(registry, seed=seed)
            registry.aliases.promote(f"trec6@{seed + 1}", "production")
        registry.delete("trec6@2")
        assert go_back(registry) == 1

    def test_a_rollback_that_was_overtaken_changes_nothing(self, registry: Registry) -> None:
        for seed in range(3):
            publish(registry, seed=seed)
            registry.aliases.promote(f"trec6@{seed + 1}", "production")
        assert registry.aliases.rollback("trec6", "production", to=1) is None
        assert registry.aliases.of("trec6") == {"production": 3}

    def test_a_worse_version_is_refused_with_both_figures(self, registry: Registry) -> None:
        publish(registry, metrics=scored(0.80))
        publish(registry, seed=1, metrics=scored(0.70))
        publish(registry, seed=2, metrics=scored(0.79))
        registry.aliases.promote("trec6@1", "production")
        with pytest.raises(PromotionRefused, match=r"0\.7000 on 500.*0\.8000 on 500.*--force --reason TEXT"):
            registry.aliases.promote("trec6@2", "production")
        assert registry.aliases.of("trec6") == {"production": 1}
        assert registry.aliases.promote("trec6@3", "production").after == 3, "within two standard errors"
        for reason in (None, "", "  "):
            with pytest.raises(PromotionRefused, match="--reason"):
                registry.aliases.promote("trec6@2", "production", force=True, reason=reason)
        registry.aliases.promote("trec6@2", "production", force=True, reason="the data was wrong")
        entry = registry.audit("trec6")[-1]
        assert entry.reason == "the data was wrong"
        assert entry.before == {"alias": "production", "version": 3}
        despite = entry.after.pop("despite")
        assert entry.after == {"alias": "production", "version": 2, "forced": True}
        assert "0.7000 on 500" in despite

    def test_outcomes_of_suites_are_kept_and_decide(self, registry: Registry) -> None:
        for seed, values in enumerate(([1] * 9 + [0.25], [0] * 10)):
            publish(registry, seed=seed)
            for suite in ("first", "second"):
                registry.outcomes.put(outcome(seed + 1, check(values), suite=suite))
        kept = registry.outcomes.put(outcome(1, check([1] * 9 + [0.5]), suite="first"))
        assert [one.suite for one in registry.outcomes.of("trec6@1")] == ["first", "second"]
        assert registry.outcomes.one("trec6@1", "first") == kept
        registry.aliases.promote("trec6@1", "production")
        with pytest.raises(PromotionRefused, match=r"suite 'first': accuracy 0\.0000 against 0\.9500 on the same 10 rows"):
            registry.aliases.promote("trec6@2", "production")
        for suite in ("first", "second"):
            registry.outcomes.drop("trec6@1", suite)
        assert registry.aliases.promote("trec6@2", "production").after == 2

    def test_an_alias_to_a_deleted_version_is_a_clear_error(self, registry: Registry) -> None:
        publish(registry)
        publish(registry, seed=1)
        registry.aliases.promote("trec6@1", "production")
        with registry.database.write() as connection:  # what no command of ours does
            connection.execute(sa.update(tables.versions).where(tables.versions.c.number == 1).values(deleted=True))
        for ref in ("trec6", "trec6@production"):
            with pytest.raises(NotFound, match=r"trec6@1.*is deleted; `softprompt restore trec6@1`"):
                registry.resolve(ref)

    # Deleting

    def test_deleting_hides_and_restoring_brings_back(self, registry: Registry) -> None:
        publish(registry)
        publish(registry, seed=1)
        assert registry.delete("trec6@2").deleted
        assert registry.resolve("trec6").number == 1
        with pytest.raises(NotFound, match="is deleted"):
            registry.resolve("trec6@2")
        with pytest.raises(NotFound, match="is deleted"):
            registry.aliases.promote("trec6@2", "production")
        with pytest.raises(NotFound, match="is deleted"):
            registry.delete("trec6@2")
        assert [version.number for version in registry.versions("trec6", deleted=False)] == [1]
        assert registry.resolve("trec6@2", deleted=True).deleted
        assert not registry.restore("trec6@2", ensure_blob=lambda version: None).deleted
        assert registry.resolve("trec6").number == 2
        with pytest.raises(LibraryError, match="nothing to restore"):
            registry.restore("trec6@2", ensure_blob=lambda version: None)

    def test_numbers_are_never_given_again(self, registry: Registry) -> None:
        publish(registry)
        registry.delete("trec6@1")
        with pytest.raises(NotFound, match="no live version"):
            registry.resolve("trec6")
        assert publish(registry).number == 2

    def test_a_version_with_an_alias_is_not_deleted_unless_forced(self, registry: Registry) -> None:
        publish(registry)
        publish(registry, seed=1)
        registry.aliases.promote("trec6@1", "production")
        with pytest.raises(LibraryError, match=r"production points to it.*--force"):
            registry.delete("trec6@1")
        registry.delete("trec6@1", force=True)
        assert registry.aliases.of("trec6") == {}
        registry.aliases.promote("trec6@2", "production")
        with pytest.raises(NotFound, match="nothing to go back to"):
            go_back(registry)

    @pytest.mark.parametrize("ref", ["trec6", "trec6@production"])
    def test_deleting_needs_a_number(self, registry: Registry, ref: str) -> None:
        publish(registry)
        registry.aliases.promote("trec6@1", "production")
        with pytest.raises(LibraryError, match="by its number"):
            registry.delete(ref, force=True)
        with pytest.raises(LibraryError, match="by its number"):
            registry.restore(ref, ensure_blob=lambda version: None)

    def test_a_failed_check_restores_nothing(self, registry: Registry) -> None:
        publish(registry)
        registry.delete("trec6@1")

        def refuse(version: Version) -> None:
            raise NotFound("gone")

        with pytest.raises(NotFound, match="gone"):
            registry.restore("trec6@1", ensure_blob=refuse)
        assert registry.resolve("trec6@1", deleted=True).deleted

    def test_a_failed_blob_publishes_nothing(self, registry: Registry) -> None:
        data = make_prompt()

        def fail(digest: str) -> None:
            assert digest == digest_of(data)
            raise LibraryError("store away")

        with pytest.raises(LibraryError, match="store away"):
            registry.publish([(read_card(data), digest_of(data))], base="x", ensure_blob=fail)
        assert registry.tasks() == []
        assert publish(registry).number == 1

    # Tags, search, audit

    def test_tags_are_added_and_removed(self, registry: Registry) -> None:
        publish(registry, tags=("old",))
        assert registry.tag("trec6@1", add=["lang=en", "nightly"], remove=["old", "never"]).tags == (
            "lang=en",
            "nightly",
        )
        before = len(registry.audit())
        registry.tag("trec6@1", add=["nightly"])
        assert len(registry.audit()) == before, "no change, no audit"

    def test_search_by_each_filter(self, registry: Registry) -> None:
        publish(registry, "alpha", 0, tags=("x",), metrics=scored(0.5), base="org/one", fingerprint="aaaaaaaa01")
        publish(registry, "alpha", 1, metrics=scored(0.9), base="org/two", fingerprint="bbbbbbbb01")
        publish(registry, "Beta", 2, metric="bleu", metrics=scored(0.3), base="org/one", fingerprint="aaaaaaaa01")
        registry.aliases.promote("alpha@1", "production")

        def found(**filters: Any) -> list[tuple[str, int]]:
            return [(entry.task, entry.version) for entry in registry.tasks(Filters(**filters))]

        assert found() == [("Beta", 1), ("alpha", 2)]
        assert found(every=True) == [("Beta", 1), ("alpha", 1), ("alpha", 2)]
        assert found(task="alpha") == [("alpha", 2)]
        assert found(task="al*") == [("alpha", 2)]
        assert found(task="b*") == [], "case counts"
        assert found(task="?eta") == [("Beta", 1)]
        assert found(task="al_ha") == found(task="al%") == []
        assert found(tag="x") == [("alpha", 1)]
        assert found(base="org/one") == [("Beta", 1), ("alpha", 1)]
        assert found(base="bbbbbbbb") == [("alpha", 2)]
        assert found(base="bbb") == []
        assert found(metric="accuracy") == [("alpha", 2)]
        assert found(metric="accuracy<0.6") == [("alpha", 1)]
        assert found(metric="accuracy>=0.5", every=True) == [("alpha", 1), ("alpha", 2)]
        assert found(metric="bleu > 0.3") == []
        assert found(base="org/one", tag="x", metric="accuracy<=0.5", task="a*") == [("alpha", 1)]
        assert registry.tasks(Filters(task="alpha"))[0].aliases == ("production@1",)
        assert registry.tasks(Filters(tag="x"))[0].aliases == ("production",)
        registry.delete("alpha@2")
        assert found() == [("Beta", 1), ("alpha", 1)]

    def test_every_change_is_audited_with_before_and_after(self, registry: Registry) -> None:
        publish(registry)
        publish(registry, seed=1)
        registry.aliases.promote("trec6@1", "production")
        registry.aliases.promote("trec6@2", "production", reason="better")
        go_back(registry)
        registry.tag("trec6@2", add=["x"])
        registry.delete("trec6@2")
        registry.restore("trec6@2", ensure_blob=lambda version: None)
        entries = registry.audit("trec6")
        assert [entry.action for entry in entries] == [
            *("publish", "publish", "promote", "promote", "rollback", "tag", "delete", "restore")
        ]
        assert [entry.seq for entry in entries] == sorted(entry.seq for entry in entries)
        assert {entry.actor for entry in entries} == {"tester"}
        assert entries[3].before == {"alias": "production", "version": 1}
        assert entries[3].after == {"alias": "production", "version": 2}
        assert entries[3].reason == "better"
        assert entries[4].after == {"alias": "production", "version": 1}
        assert registry.audit(limit=2) == entries[-2:]
        with pytest.raises(NotFound):
            registry.audit("nothing")

    def test_a_clock_that_goes_back_changes_no_order(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        years = count(2030, -1)
        earlier = lambda: f"{next(years)}-01-01T00:00:00Z"  # noqa: E731
        for module in ("registry", "scope"):
            monkeypatch.setattr(f"softprompt.registry.{module}.now", earlier)
        assert records.now() > "2026"
        for seed in range(4):
            publish(registry, seed=seed)
            registry.aliases.promote(f"trec6@{seed + 1}", "production")
        assert [version.number for version in registry.versions("trec6")] == [1, 2, 3, 4]
        assert go_back(registry) == 3
        registry.delete("trec6@3", force=True)
        assert registry.resolve("trec6").number == 4
        assert [entry.action for entry in registry.audit()] == ["publish", "promote"] * 4 + [
            "rollback",
            "delete",
        ]

    def test_a_task_is_deleted_whole_or_not_at_all(self, registry: Registry) -> None:
        for seed in range(4):
            publish(registry, seed=seed)
        made = registry.experiments.start(
            "trec6", 1, 2, weight=0.5, shadow=False, level=0.05, auto=False, max_outcomes=None
        )  # fmt: skip
        before = registry.audit()
        with pytest.raises(LibraryError, match="trec6@2 is not deleted: an experiment runs with it"):
            registry.delete_task("trec6", force=True)
        assert [one.number for one in registry.versions("trec6", deleted=False)] == [1, 2, 3, 4]
        assert registry.audit() == before
        registry.experiments.end(made, None, "enough")
        registry.aliases.promote("trec6@2", "staging")
        with pytest.raises(LibraryError, match="it has the aliases staging; add --force"):
            registry.delete_task("trec6")
        assert [one.ref for one in registry.delete_task("trec6", force=True)] == [f"trec6@{n}" for n in (4, 3, 2, 1)]
        assert registry.versions("trec6", deleted=False) == []
        assert registry.aliases.of("trec6") == {}
        assert registry.delete_task("trec6") == []

    def test_a_base_is_asked_for_by_its_own_name(self, registry: Registry) -> None:
        publish(registry, base="Org/a_b@main")
        assert len(registry.tasks(Filters(base="Org/a_b"))) == len(registry.tasks(Filters(base="Org/a_b@main"))) == 1
        for other in ("org/a_b", "Org/a%b", "Org/axb", "Org/a_", "Org/a_b@MAIN"):
            assert registry.tasks(Filters(base=other)) == []

    # Tenants and keys

    def test_tenants_see_nothing_of_each_other(self, registry: Registry) -> None:
        other = registry.for_tenant("other")
        mine = publish(registry, tags=("mine",))
        theirs = publish(other, seed=1, base="org/other")
        publish(other, "secret-task", 2)
        assert (mine.number, theirs.number) == (1, 1)
        assert registry.resolve("trec6").digest == mine.digest
        assert other.resolve("trec6").digest == theirs.digest
        assert registry.owns(mine.digest)
        assert not registry.owns(theirs.digest)
        assert [entry.task for entry in registry.tasks()] == ["trec6"]
        assert registry.tasks(Filters(base="org/other")) == []
        assert other.tasks(Filters(tag="mine")) == []
        for attempt in (
            lambda: registry.resolve("secret-task"),
            lambda: registry.versions("secret-task"),
            lambda: registry.aliases.of("secret-task"),
            lambda: registry.audit("secret-task"),
            lambda: registry.aliases.promote("secret-task@1", "production"),
            lambda: registry.tag("secret-task@1", add=["x"]),
            lambda: registry.delete("secret-task@1"),
            lambda: registry.restore("secret-task@1", ensure_blob=lambda version: None),
            lambda: registry.aliases.rollback("secret-task", "production", to=1),
        ):
            with pytest.raises(NotFound) as caught:
                attempt()
            assert "did you mean" not in str(caught.value), "another tenant's name is told"
        assert {entry.task for entry in registry.audit()} == {"trec6"}
        registry.delete("trec6@1")
        assert other.resolve("trec6@1").digest == theirs.digest

    def test_keys_are_shown_once_stored_hashed_and_revoked(self, registry: Registry) -> None:
        made = registry.keys.create("ci", ["predict", "read"])
        secret, key = made.secret, made.key
        assert registry.keys.authenticate(secret) == key
        assert key.row()["scopes"] == ["read", "predict"]
        with registry.database.read() as connection:
            stored = str(connection.execute(sa.select(tables.keys)).mappings().one())
        assert secret not in stored
        assert secret[10:] not in stored
        assert "secret" not in key.row()
        key.require("read")
        with pytest.raises(Denied, match="lacks the scope 'train'"):
            key.require("train")
        with pytest.raises(NameRefused, match="live key 'ci'"):
            registry.keys.create("ci", ["read"])
        assert registry.keys.revoke("ci").revoked
        with pytest.raises(Denied, match="revoked"):
            registry.keys.authenticate(secret)
        with pytest.raises(NotFound, match="no live key 'ci'"):
            registry.keys.revoke("ci")
        again = registry.keys.create("ci", ["admin"]).secret
        assert registry.keys.authenticate(again).allows("train")
        assert [one.revoked for one in registry.keys.list()] == [True, False]
        actions = [entry.action for entry in registry.audit()]
        assert actions == ["key-create", "key-revoke", "key-create"]

    def test_keys_of_another_tenant_are_out_of_reach(self, registry: Registry) -> None:
        other = registry.for_tenant("other")
        made = other.keys.create("ci", ["read"])
        secret, key = made.secret, made.key
        registry.keys.create("ci", ["read"])
        assert registry.keys.authenticate(secret).tenant == "other"
        assert [one.tenant for one in registry.keys.list()] == ["default"]
        with pytest.raises(NotFound):
            registry.keys.revoke(str(key.id))
        assert not other.keys.list()[0].revoked

    def test_whether_anybody_has_a_key(self, registry: Registry) -> None:
        other = registry.for_tenant("other")
        assert not registry.keys.any_live()
        other.keys.create("ci", ["read"])
        assert registry.keys.any_live()
        other.keys.revoke("ci")
        assert not registry.keys.any_live()

    def test_bases_are_counted_by_the_newest_versions_of_all_tenants(self, registry: Registry) -> None:
        assert registry.bases() == []
        publish(registry, "a", base="one", fingerprint="1" * 32)
        publish(registry, "a", base="two", fingerprint="2" * 32)
        publish(registry, "b", base="two", fingerprint="2" * 32)
        publish(registry.for_tenant("other"), "a", base="two", fingerprint="2" * 32)
        publish(registry, "c", base="one", fingerprint="1" * 32)
        assert [(count.base, count.fingerprint[0], count.tasks) for count in registry.bases()] == [
            ("two", "2", 3), ("one", "1", 1),
        ]  # fmt: skip
        registry.delete("a@2")
        registry.delete("b@1")
        assert [(count.base, count.tasks) for count in registry.bases()] == [("one", 2), ("two", 1)]

    @pytest.mark.parametrize("secret", ["", "sp-", "x" * 10_000, "sp-\udce9", "' OR 1=1 --", "\0"])
    def test_unknown_secrets_are_denied(self, registry: Registry, secret: str) -> None:
        registry.keys.create("ci", ["read"])
        with pytest.raises(Denied, match="not known"):
            registry.keys.authenticate(secret)

    def test_scopes_are_known_ones(self, registry: Registry) -> None:
        with pytest.raises(NameRefused, match="did you mean 'predict'"):
            registry.keys.create("ci", ["predicts"])
        with pytest.raises(NameRefused, match="needs a scope"):
            registry.keys.create("ci", [])
        assert registry.keys.list() == []

    # Many at once

    def test_racing_publishers_lose_no_number(self, registry: Registry, url: str) -> None:
        others = [Registry.open(url) for _ in range(4)]

        def work(place: int) -> list[int]:
            return [publish(others[place % 4], seed=place * 100 + step).number for step in range(8)]

        with ThreadPoolExecutor(8) as pool:
            numbers = [number for found in pool.map(work, range(8)) for number in found]
        for other in others:
            other.close()
        assert sorted(numbers) == list(range(1, 65))
        assert len(registry.versions("trec6")) == 64
        assert registry.tasks()[0].versions == 64

    def test_racing_promotions_lose_no_move(self, registry: Registry, url: str) -> None:
        for seed in range(8):
            publish(registry, seed=seed)
        others = [Registry.open(url) for _ in range(4)]

        def work(place: int) -> None:
            for step in range(6):
                others[place].aliases.promote(f"trec6@{(place * 3 + step) % 8 + 1}", "production")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        for other in others:
            other.close()
        moves = [entry for entry in registry.audit("trec6") if entry.action == "promote"]
        at = None
        for move in moves:  # each took over from where the one before had left
            assert move.before is not None
            assert move.after is not None
            assert move.before["version"] == at
            at = move.after["version"]
        assert registry.aliases.of("trec6") == {"production": at}

    def test_racing_first_publishers_of_many_tasks_and_tenants(self, url: str) -> None:
        def work(place: int) -> None:
            registry = Registry.open(url, tenant=f"tenant{place % 3}")
            for task in ("a", "b", "c"):
                publish(registry, task, seed=place)
            registry.close()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))  # the schema is made by whoever is first
        registry = Registry.open(url, tenant="tenant0")
        assert [(entry.task, entry.versions) for entry in registry.tasks()] == [("a", 2), ("b", 2), ("c", 2)]
        registry.close()

    # Schema

    def test_a_newer_schema_is_refused(self, url: str) -> None:
        registry = Registry.open(url)
        with registry.database.write() as connection:
            connection.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '0999'"))
        registry.close()
        with pytest.raises(RegistryError, match=r"schema '0999'.*reads up to.*upgrade softprompt"):
            Registry.open(url)

    def test_tables_of_someone_else_are_left_alone(self, url: str) -> None:
        engine = database._engine(database._parse(url), url)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE tasks (todo VARCHAR(10))"))
        with pytest.raises(RegistryError, match=r"not softprompt's \(tasks\).*a database of its own"):
            Registry.open(url)
        with engine.begin() as connection:
            assert sa.inspect(connection).get_table_names() == ["tasks"]
        engine.dispose()

    @pytest.mark.parametrize("revision", tables.REVISIONS[:-1])
    def test_upgrades_from_every_earlier_schema_with_data(self, url: str, revision: str) -> None:
        data = make_prompt(metrics=scored(0.5))
        card = read_card(data)
        self.fill_old_schema(url, revision, digest_of(data), card.canonical())
        registry = Registry.open(url)
        assert registry.resolve("trec6").number == 1
        assert registry.resolve("trec6").card == card
        assert registry.origin("trec6") is None
        assert go_back(registry) == 2
        tagged = ("old",) if revision > "0001" else ()
        assert registry.resolve("trec6@1").tags == tagged
        assert publish(registry, tags=("new",), origin=origin_of()).number == 3
        assert registry.origin("trec6@3") == origin_of()
        assert [entry.action for entry in registry.audit("trec6")] == ["publish", "rollback", "publish"]
        assert registry.for_tenant("other").tasks() == []
        assert publish(registry.for_tenant("other")).number == 1
        assert registry.keys.create("ci", ["read"]).key.id == 1
        assert registry.database.check() == []
        self.assert_schema_is_that_of_the_code(registry)
        registry.close()

    @staticmethod
    def fill_old_schema(url: str, revision: str, digest: str, card: str) -> None:
        """A registry as an older softprompt left it: two versions of one prompt, the first promoted last."""
        task = "INSERT INTO tasks (name, last_number, newest, live, created_at{}) VALUES ('trec6', 2, 2, 2, 'then'{})"
        version = (
            "INSERT INTO versions (task_id, number, digest, base, fingerprint, card, metric, value, actor, created_at)"
            " VALUES (1, :n, :digest, 'builtin/tiny', 'f', :card, 'accuracy', 0.5, 'old', 'then')"
        )
        if revision > "0002":
            version = version.replace(" card,", "").replace(" :card,", "")
        audit = "INSERT INTO audit (task, action, actor, at{}) VALUES ('trec6', 'publish', 'old', 'then'{})"
        tenant = (", tenant", ", 'default'") if revision > "0001" else ("", "")
        engine = database._engine(database._parse(url), url)
        with engine.connect().execution_options(write=True) as connection, connection.begin():
            database.upgrade(connection, revision)
            connection.execute(sa.text(task.format(*tenant)))
            if revision > "0002":
                statement = sa.text("INSERT INTO cards (digest, card) VALUES (:digest, :card)")
                connection.execute(statement, {"digest": digest, "card": card})
            for number in (1, 2):
                values = {"n": number, "digest": digest, "card": card}
                connection.execute(sa.text(version), {key: values[key] for key in values if f":{key}" in version})
            connection.execute(sa.text("INSERT INTO aliases (task_id, name, number) VALUES (1, 'production', 1)"))
            for number in (2, 1):
                trail = "INSERT INTO promotions (task_id, alias, number) VALUES (1, 'production', :n)"
                connection.execute(sa.text(trail), {"n": number})
            connection.execute(sa.text(audit.format(*tenant)))
            if revision > "0001":
                connection.execute(sa.text("INSERT INTO tags (version_id, tag) VALUES (1, 'old')"))
        engine.dispose()

    def test_schema_made_new_is_that_of_the_migrations(self, registry: Registry) -> None:
        self.assert_schema_is_that_of_the_code(registry)

    @staticmethod
    def assert_schema_is_that_of_the_code(registry: Registry) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with registry.database.read() as connection:
            options = {"version_table": tables.VERSION_TABLE, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, tables.metadata) == []
            revision = connection.scalar(sa.text(f"SELECT version_num FROM {tables.VERSION_TABLE}"))
            assert revision == tables.HEAD
