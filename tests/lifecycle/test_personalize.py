"""Prompts of users' own: what a history makes of the shared prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt import personalize
from softprompt.errors import ConfigError, DataError, FingerprintMismatch, NameRefused, NotFound
from softprompt.evaluation.statistics.calibration import fit_temperature
from softprompt.evaluation.trials import Report
from softprompt.library import personal
from softprompt.library.library import Library
from softprompt.lifecycle.histories import read_histories, read_source
from softprompt.lifecycle.personalize import HELD_OUT
from softprompt.serving.offline import Service
from softprompt.serving.residents.resident import load_resident
from softprompt.tasks.form import Form
from tests.models import make_base, some_prompt, steerable_base

WORDS = ("red", "green", "blue", "apple")


def history(answers: dict[str, str], times: int = 1) -> list[dict[str, str]]:
    return [{"text": word, "label": answers[word]} for word in WORDS] * times


YES, NO = dict.fromkeys(WORDS, "yes"), dict.fromkeys(WORDS, "no")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library, base = Library.open(tmp_path / "home"), steerable_base()
    prompt = some_prompt(base, "kind", input=" {text} =", labels=("yes", "no"))
    library.publish(prompt.to_bytes(), base="trained/steerable")
    return library


def test_two_users_get_what_they_say_and_the_shared_task_stays(library: Library) -> None:
    before = library.registry.resolve("kind")
    made = personalize("kind", {"ann": history(YES), "bob": history(NO)}, steps=20, library=library, base=steerable_base())
    assert [(one.user, one.version, one.parent) for one in made] == [("ann", 1, "kind@1"), ("bob", 1, "kind@1")]
    assert all((one.value, one.rows, one.train_rows, one.steps) == (1.0, 1, 3, 20) for one in made)
    assert library.registry.resolve("kind") == before
    assert len(library.registry.versions("kind")) == 1
    found = library.registry.personal.resolve("kind", "ann")
    assert (found.digest, found.card.parents, found.card.task) == (made[0].digest, (before.digest,), "kind")
    assert "ann" not in found.card_text


def test_inputs_of_a_history_that_are_cut_are_told(library: Library) -> None:
    rows = [*history(YES), {"text": "red " * 900, "label": "yes"}]
    with pytest.warns(UserWarning, match="user 'ann': 1 of [0-9] inputs were cut to fit the context"):
        personalize("kind", rows, user="ann", steps=2, library=library, base=steerable_base())


def test_a_users_card_says_nothing_of_the_rows_that_the_shared_prompt_was_judged_on(library: Library) -> None:
    of_rows = {"test_digest": "0" * 64, "folds": 4, "id2label": {"1": "yes"}}
    told = some_prompt(steerable_base(), "told", input=" {text} =", labels=("yes", "no"), recipe=of_rows)
    library.publish(told.to_bytes(), base="x/y")
    personalize("told", history(YES), user="ann", steps=2, library=library, base=steerable_base())
    recipe = library.registry.personal.resolve("told", "ann").card.recipe
    assert recipe["id2label"] == {"1": "yes"}
    assert not {"test_digest", "folds"} & recipe.keys()


def test_a_users_version_is_calibrated_by_the_rows_that_chose_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temperature of the shared prompt fitted other vectors: of a user's own it is fitted anew, on rows enough or not at
    all, and is kept where the vectors are the shared ones."""
    base = steerable_base()
    told = some_prompt(base, "told", input=" {text} =", labels=("yes", "no"), recipe={"temperature": 7.0})
    library.publish(told.to_bytes(), base="x/y")
    words = [f"{one} {two}" for one in WORDS for two in (*WORDS, "stone", "river", "tree", "apple red", "green blue", "so")]
    rows = [{"text": word, "label": "yes"} for word in words]

    def made(user: str, given: list[dict[str, str]]) -> tuple[int, float | None]:
        (tuned,) = personalize("told", given, user=user, steps=8, library=library, base=base)
        own = library.registry.personal.resolve("told", user)
        assert (load_resident(library, own, base).temperature == 1) is ("temperature" not in own.card.recipe)
        return tuned.best_step, own.card.recipe.get("temperature")

    step, found = made("ann", rows)
    own = library.read(library.registry.personal.resolve("told", "ann"))
    assert step > 0
    assert made("bob", rows[:8]) == (step, None)
    monkeypatch.setattr(Report, "better_than", lambda new, old: old is None)  # the start stays
    assert made("eve", rows) == (0, 7.0)
    library.publish(own, base="x/y")
    source = read_source(Form.of_card(told.card), "ann", read_histories(rows, "ann")["ann"])
    order = [words[place] for place in sorted(range(len(words)), key=source.positions.__getitem__)]
    said = Service(library, base=base).predict(order[::HELD_OUT], "told")
    fitted = fit_temperature([list((one.scores or {}).values()) for one in said], [0] * len(said))
    assert found == pytest.approx(fitted, rel=1e-2)
    assert found != 7


def test_a_bank_gives_what_each_user_alone_gets(library: Library) -> None:
    both = personalize("kind", {"ann": history(YES), "bob": history(NO)}, steps=4, library=library, base=steerable_base())
    alone = personalize("kind", history(YES), user="ann", steps=4, library=library, base=steerable_base())
    assert (alone[0].version, alone[0].value) == (2, both[0].value)


def test_equal_histories_make_equal_bytes_which_stay_until_the_last_is_erased(library: Library) -> None:
    one = {"ann": history(YES), "bob": history(YES)}
    first, second = personalize("kind", one, steps=2, library=library, base=steerable_base())
    assert first.digest == second.digest
    personal.erase(library, "kind", "ann")
    assert library.store.has(first.digest)
    personal.erase(library, "kind", "bob")
    assert not library.store.has(first.digest)


def test_what_is_wrong_is_told(library: Library) -> None:
    base, other = steerable_base(), make_base("llama")
    library.publish(some_prompt(other, "else", input=" {text} =", labels=("yes", "no")).to_bytes(), base="x/other")
    for rows in (history(YES)[:1], history(YES)[:1] * 3):
        with pytest.raises(DataError, match="the history of user 'ann' has 1 different input, and one is held out"):
            personalize("kind", rows, user="ann", library=library, base=base)
    for user in ("", "a b"):
        with pytest.raises(NameRefused, match=r"user '.*' is refused"):
            personalize("kind", history(YES), user=user, library=library, base=base)
    with pytest.raises(FingerprintMismatch, match=r"else@1 was made for base .* start from a prompt of the task's own base"):
        personalize("kind", history(YES), user="ann", like="else", library=library, base=base)
    with pytest.raises(DataError, match="which says not whose it is"):
        personalize("kind", history(YES), library=library, base=base)
    with pytest.raises(ConfigError, match="names a version"):
        personalize("kind@1", history(YES), user="ann", library=library, base=base)
    with pytest.raises(NotFound, match="no task 'kin'"):
        personalize("kin", history(YES), user="ann", library=library, base=base)
    assert library.registry.personal.of("kind") == []


def test_histories_by_column_and_by_file(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "user": "bob"}, {"text": "b", "label": "x", "user": 7}]
    assert {name: len(own) for name, own in read_histories(rows).items()} == {"7": 1, "bob": 1}
    assert list(read_histories(rows, "bob")) == ["bob"]
    with pytest.raises(DataError, match="the history has no rows of user 'eve'"):
        read_histories(rows, "eve")
    for name in ("ann", "bob"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a", "label": "x"}\n')
    assert list(read_histories(tmp_path)) == ["ann", "bob"]
