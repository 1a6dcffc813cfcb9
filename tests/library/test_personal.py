"""Users' prompts in the library: apart from versions by construction, and erased with their bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import NameRefused, NotFound, StoreError
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.library import personal
from softprompt.library.library import Library
from softprompt.names import check_user, is_user, parse_ref
from softprompt.registry import tables
from softprompt.registry.listing import Filters
from tests.library_data import make_prompt, scored


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library.open(tmp_path / "home", actor="tester")
    library.publish(make_prompt(metrics=scored(0.5)), base="builtin/tiny")
    return library


def give(library: Library, user: str, seed: int, task: str = "trec6") -> str:
    (made,) = personal.publish(library, task, [(user, make_prompt(task, seed))], base="builtin/tiny")
    return made.digest


def cards(library: Library) -> set[str]:
    with library.registry.database.read() as connection:
        return set(connection.execute(sa.select(tables.cards.c.digest)).scalars())


def blobs(library: Library) -> set[str]:
    return {digest for digest, _ in library.store.list()}


def test_a_users_prompt_is_resolved_by_the_user_alone(library: Library) -> None:
    digest = give(library, "ann", 1)
    found = library.registry.personal.resolve("trec6", "ann")
    assert (found.digest, found.number, found.user, found.ref) == (digest, 1, "ann", "trec6~ann@1")
    assert library.read(found) == make_prompt("trec6", 1)
    with pytest.raises(NotFound, match=r"user 'an' has no personal version of task 'trec6'; .*; did you mean 'ann'\?"):
        library.registry.personal.resolve("trec6", "an")
    with pytest.raises(NotFound, match="no task 'trec'"):
        library.registry.personal.resolve("trec", "ann")


STEPS: dict[str, Callable[[Library], object]] = {
    "the bare name": lambda library: library.registry.resolve("trec6"),
    "numbers": lambda library: [one.ref for one in library.registry.versions("trec6")],
    "the listing": lambda library: library.registry.tasks(Filters(every=True)),
    "bases": lambda library: library.registry.bases(),
    "wishes": lambda library: library.registry.serving_wishes("builtin/tiny"),
    "aliases": lambda library: library.registry.aliases.of("trec6"),
}


@pytest.mark.parametrize("what", STEPS)
def test_what_works_by_references_does_not_see_it(library: Library, what: str) -> None:
    before = STEPS[what](library)
    give(library, "ann", 1)
    give(library, "ann", 2)
    assert STEPS[what](library) == before


def test_numbers_promotion_rollback_and_deletion_neither_give_nor_touch_it(library: Library) -> None:
    give(library, "ann", 1)
    library.promote("trec6")
    second = library.publish(make_prompt(seed=7, metrics=scored(0.9)), base="builtin/tiny")
    assert second.number == 2
    library.promote("trec6@2")
    assert library.rollback("trec6").after == 1
    with pytest.raises(NotFound):
        library.promote("trec6@3")
    library.registry.delete("trec6@2")
    assert library.registry.personal.resolve("trec6", "ann").number == 1


def test_it_is_not_answered_with_once_the_task_has_no_live_version(library: Library) -> None:
    give(library, "ann", 1)
    library.registry.delete("trec6@1")
    with pytest.raises(NotFound, match="has no live version"):
        library.registry.personal.resolve("trec6", "ann")


@pytest.mark.parametrize("name", ["trec6~ann", "trec6~ann@1", "trec6@~ann", "~ann"])
def test_no_reference_can_spell_it(library: Library, name: str) -> None:
    give(library, "ann", 1)
    with pytest.raises(NameRefused):
        library.registry.resolve(name)


def test_who_names_a_users_own_version_is_told_that_it_is_one(library: Library, tmp_path: Path) -> None:
    give(library, "ann", 1)
    told = (
        "'trec6~ann@1' is a user's own version, which answers that user's requests for 'trec6' and is named by no "
        "reference; name a version of the task, such as 'trec6'; `softprompt personalize trec6 --list` shows whose there are"
    )
    with pytest.raises(NameRefused) as caught:
        export_prompt(library, "trec6~ann@1", tmp_path / "out", Format.SOFTPROMPT)
    assert str(caught.value) == told
    assert not (tmp_path / "out").exists()
    with pytest.raises(NameRefused, match="is a user's own version"):
        library.registry.resolve("trec6~ann.b+c")
    with pytest.raises(NameRefused, match="task '~ann' is refused; use letters"):
        library.registry.resolve("~ann@1")


@given(st.text(max_size=40))
def test_what_a_users_prompt_is_called_is_no_reference(user: str) -> None:
    if not is_user(user):
        with pytest.raises(NameRefused, match=r"^user "):
            check_user(user)
        return
    assert check_user(user) == user
    with pytest.raises(NameRefused):
        parse_ref(f"trec6~{user}@1")


@pytest.mark.parametrize(
    "user", ["", " ", "ann b", "ann~b", "ann/b", "../b", "ann\n", "\u00e4nn", "-ann", "a" * 129, "\ud800"]
)
def test_a_strange_user_is_refused_by_name(library: Library, user: str) -> None:
    with pytest.raises(NameRefused, match=r"^user '.* is refused"):
        give(library, user, 1)
    with pytest.raises(NameRefused, match=r"^user '.* is refused"):
        personal.erase(library, "trec6", user)
    assert library.registry.personal.of("trec6") == []


def test_a_new_one_takes_the_place_of_the_last_whose_bytes_go(library: Library) -> None:
    first, second = give(library, "ann", 1), give(library, "ann", 2)
    assert library.registry.personal.resolve("trec6", "ann").number == 2
    assert first not in blobs(library)
    assert second in blobs(library)


def test_the_same_bytes_again_stay(library: Library) -> None:
    digest = give(library, "ann", 1)
    assert give(library, "ann", 1) == digest
    assert digest in blobs(library)


def test_erasing_takes_row_card_and_bytes_and_leaves_a_line_in_the_audit(library: Library) -> None:
    digest = give(library, "ann", 1)
    assert personal.erase(library, "trec6", "ann").digest == digest
    assert digest not in blobs(library)
    assert library.registry.personal.of("trec6") == []
    with closing(sqlite3.connect(library.home / "registry.db")) as link:
        assert link.execute("SELECT count(*) FROM cards WHERE digest = ?", [digest]).fetchone() == (0,)
    made, erased = library.registry.audit("trec6")[-2:]
    assert (made.action, made.after and made.after["user"]) == ("personalize", "ann")
    assert (erased.action, erased.before) == ("erase", {"digest": digest, "user": "ann", "version": 1})
    with pytest.raises(NotFound, match="user 'ann' has no personal version"):
        personal.erase(library, "trec6", "ann")
    assert library.verify().problems == []


def test_no_file_of_the_home_has_a_word_of_it_any_more(library: Library) -> None:
    personal.publish(library, "trec6", [("ann", make_prompt(input="zebrafish {text}"))], base="builtin/tiny")
    personal.erase(library, "trec6", "ann")
    assert not [path for path in library.home.rglob("*") if path.is_file() and b"zebrafish" in path.read_bytes()]


def test_bytes_that_another_has_too_stay(library: Library) -> None:
    shared = library.registry.resolve("trec6").digest
    other = library.for_tenant("other")
    other.publish(make_prompt(), base="builtin/tiny")
    digest = give(library, "ann", 1)
    give(library, "bob", 1)
    give(other, "ann", 1)
    for who, user in ((library, "ann"), (library, "bob")):
        personal.erase(who, "trec6", user)
        assert digest in blobs(library)
    personal.erase(other, "trec6", "ann")
    assert digest not in blobs(library)
    personal.publish(library, "trec6", [("ann", library.read("trec6"))], base="builtin/tiny")
    personal.erase(library, "trec6", "ann")
    assert shared in blobs(library)
    assert library.verify().problems == []


def test_a_store_that_fails_says_that_bytes_are_left_and_gc_takes_them(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = give(library, "ann", 1)

    def fail(digest: str) -> None:
        raise StoreError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(library.store, "delete", fail)
        with pytest.raises(StoreError, match=r"trec6~ann@1 is taken away, and its bytes cannot be deleted: .*library gc"):
            personal.erase(library, "trec6", "ann")
    assert [item.digest for item in library.plan_gc()] == [digest]
    library.gc()
    assert digest not in blobs(library)
    assert digest not in cards(library)


def test_what_a_killed_erasure_left_gc_takes(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cards(library)
    for seed in (1, 2):
        digest = give(library, "ann", seed)
        with monkeypatch.context() as patch:
            patch.setattr(personal, "_give_up", lambda *args: None)  # killed behind the row
            personal.erase(library, "trec6", "ann")
        if seed == 1:
            library.store.delete(digest)  # killed behind the bytes, before the row of the card
        assert digest in cards(library)
        library.gc()
        assert cards(library) == before
    assert library.verify().problems == []


def test_collecting_verifying_and_copying_keep_it(library: Library, tmp_path: Path) -> None:
    digest = give(library, "ann", 1)
    library.registry.delete("trec6@1")
    assert digest not in {item.digest for item in library.plan_gc(purge_deleted=True)}
    library.gc(purge_deleted=True)
    report = library.verify()
    assert (report.versions, report.problems, library.stats()["personal"]) == (1, [], 1)
    library.publish(make_prompt(seed=3), base="builtin/tiny")
    library.copy(tmp_path / "copy")
    with Library.open(tmp_path / "copy", create=False) as copied:
        assert copied.read(copied.registry.personal.resolve("trec6", "ann")) == make_prompt("trec6", 1)
    library.store.delete(digest)
    (problem,) = library.verify().problems
    assert (problem.what, problem.versions) == ("blob gone", ("default/trec6~ann@1",))


def test_tenants_have_their_own(library: Library) -> None:
    give(library, "ann", 1)
    other = library.for_tenant("other")
    found = library.registry.personal.resolve("trec6", "ann")
    with pytest.raises(NotFound):
        other.read(found)
    other.publish(make_prompt(), base="builtin/tiny")
    for act in (other.registry.personal.resolve, lambda task, user: personal.erase(other, task, user)):
        with pytest.raises(NotFound, match="user 'ann' has no personal version"):
            act("trec6", "ann")
    fingerprint = found.fingerprint
    assert library.registry.personal.users_on([fingerprint]) == {("default", "trec6", "ann")}
    assert library.registry.personal.users_on(["another"]) == set()


def test_keys_say_for_which_users_they_may_ask(library: Library) -> None:
    keys = library.registry.keys
    some, every = keys.create("some", ["predict"], ["bob", "ann", "ann"]), keys.create("every", ["predict"])
    assert keys.authenticate(some.secret).users == ("ann", "bob")
    assert keys.authenticate(every.secret).users is None
    assert [key.row()["users"] for key in keys.list()] == [["ann", "bob"], None]
    with pytest.raises(NameRefused, match="user 'a b' is refused"):
        keys.create("third", ["predict"], ["a b"])
    assert library.registry.audit()[-2].after == {"key": "some", "scopes": ["predict"], "users": ["ann", "bob"]}
