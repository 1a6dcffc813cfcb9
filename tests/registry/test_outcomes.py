"""Outcomes of suites, and the gate by them: the same rows paired, a fall beyond the tolerance refused, nothing run."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from softprompt.errors import NameRefused, NotFound, PromotionRefused
from softprompt.library.library import Library
from softprompt.registry.gate import DRAWS, falls_of, paired, share_beyond, weigh_suites
from tests.library_data import make_prompt, scored
from tests.outcome_data import check, outcome


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home", actor="tester") as library:
        for seed in range(3):
            library.publish(make_prompt(seed=seed, metrics=scored(0.9)), base="builtin/tiny")
        yield library


GOOD, WORSE, SLIGHTLY = [1] * 90 + [0] * 10, [1] * 60 + [0] * 40, [1] * 89 + [0] * 11


def test_what_is_kept_comes_back(library: Library) -> None:
    table = ({"from": 0.0, "to": 0.1, "rows": 2, "confidence": 0.05, "accuracy": 0.5},)
    part = check([0.25, 1 / 3, 1], "slice:x", places=(0, 5, 7), before=0.5, lower_is_better=True)
    given = replace(outcome(1, check(GOOD), part, tolerance=0.02), calibration=table)
    kept = library.registry.outcomes.put(given)
    (found,) = library.registry.outcomes.of("trec6@1")
    assert found == kept == replace(given, actor="tester", created_at=kept.created_at)
    assert isinstance(found.checks[0].value, float)
    entry = library.registry.audit("trec6")[-1]
    assert (entry.action, entry.after) == ("suite", {"version": 1, "suite": "polite", "digest": "d" * 64, "rows": 100})


def test_a_suite_has_one_outcome_of_a_version(library: Library) -> None:
    outcomes = library.registry.outcomes
    outcomes.put(outcome(1, check(GOOD)))
    outcomes.put(outcome(1, check(WORSE)))
    outcomes.put(outcome(1, check(GOOD), suite="other"))
    assert [(one.suite, one.checks[0].value) for one in outcomes.of("trec6@1")] == [("other", 0.9), ("polite", 0.6)]
    assert outcomes.of("trec6@2") == []
    assert outcomes.one("trec6@1", "polite").checks[0].value == 0.6


def test_what_is_not_there_is_told(library: Library) -> None:
    outcomes = library.registry.outcomes
    with pytest.raises(NotFound, match=r"has no outcome of suite 'polite'; `softprompt suite run trec6@1 --suite FILE`"):
        outcomes.one("trec6@1", "polite")
    with pytest.raises(NotFound, match="no version 9"):
        outcomes.put(outcome(9, check(GOOD)))
    with pytest.raises(NameRefused, match="suite"):
        outcomes.put(outcome(1, check(GOOD), suite="no/name"))
    library.registry.delete("trec6@2")
    with pytest.raises(NotFound, match="is deleted"):
        outcomes.put(outcome(2, check(GOOD)))


def test_what_is_dropped_is_asked_of_nobody(library: Library) -> None:
    library.promote("trec6@1")
    outcomes = library.registry.outcomes
    outcomes.put(outcome(1, check(GOOD)))
    kept = outcomes.put(outcome(1, check(GOOD), suite="other"))
    with pytest.raises(NotFound, match=r"has no outcome of suite 'polit'.*did you mean 'polite'\?"):
        outcomes.drop("trec6@1", "polit")
    assert outcomes.drop("trec6", "polite", "it is not ours").suite == "polite"
    assert outcomes.of("trec6@1") == [kept]
    entry = library.registry.audit("trec6")[-1]
    assert (entry.action, entry.reason) == ("drop suite", "it is not ours")
    assert entry.before == {"version": 1, "suite": "polite", "digest": "d" * 64, "rows": 100}
    outcomes.drop("trec6@1", "other")
    assert library.promote("trec6@2").suites == ()


def test_another_tenant_sees_none(library: Library) -> None:
    library.registry.outcomes.put(outcome(1, check(GOOD)))
    other = library.for_tenant("other")
    with pytest.raises(NotFound):
        other.registry.outcomes.of("trec6@1")
    other.publish(make_prompt(seed=5), base="builtin/tiny")
    assert other.registry.outcomes.of("trec6@1") == []


def test_a_copy_has_them(library: Library, tmp_path: Path) -> None:
    kept = library.registry.outcomes.put(outcome(1, check(GOOD)))
    library.copy(tmp_path / "copy")
    with Library.open(tmp_path / "copy") as copied:
        assert copied.registry.outcomes.of("trec6@1") == [kept]


# The bootstrap


def slow_share(losses: Sequence[float], tolerance: float, draws: int) -> float:
    """The same by the book."""
    chance = random.Random(1)
    beyond = 0
    for _ in range(draws):
        drawn = [chance.choice(losses) for _ in losses]
        beyond += sum(drawn) / len(drawn) > tolerance + 1e-12
    return beyond / draws


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("kind", ["right and wrong", "any number", "more than are told apart"])
def test_the_bootstrap_is_that_of_a_plain_loop(kind: str, tolerance: float) -> None:
    chance = random.Random(2)
    count = 400 if kind.startswith("more") else 40
    losses = [chance.choice((-1, 0, 0, 0, 1, 1)) if kind.startswith("right") else chance.gauss(0.1, 1) for _ in range(count)]
    draws = 400 if count > 100 else 2000
    slow = slow_share(losses, tolerance, draws)
    assert share_beyond(losses, tolerance) == pytest.approx(slow, abs=4 * (0.25 / draws) ** 0.5)
    assert share_beyond(losses, tolerance) == share_beyond(losses, tolerance), "seeded"


def test_a_row_that_lies_far_apart_hides_no_fall_of_the_others() -> None:
    """Losses without a bound, of more kinds than are told apart, of which one takes up all of their range."""
    chance = random.Random(3)
    losses = [1 + chance.random() / 10 for _ in range(1000)]
    assert share_beyond([*losses, 1000.0], 0.5) == share_beyond(losses, 0.5) == 1.0
    gains = [-one for one in losses]
    assert share_beyond([*gains, 1000.0], 0.5) == pytest.approx(slow_share([*gains, 1000.0], 0.5, 200), abs=0.14)


def test_the_ends_of_the_bootstrap() -> None:
    assert share_beyond([0.0] * 5, 0.0) == 0.0
    assert share_beyond([1.0] * 5, 0.5) == 1.0
    assert share_beyond([0.5] * 5, 0.5) == 0.0, "not more than the tolerance"


def test_rows_are_paired_by_their_place() -> None:
    one, other = check([1, 0, 1], places=(0, 2, 4)), check([0, 1], places=(2, 3))
    assert paired(one, other) == [(0, 0)]
    assert paired(check([1, 0, 1]), check([0, 0], places=(1, 2))) == [(0, 0), (1, 0)]


def test_a_fall_goes_the_way_of_the_metric() -> None:
    low, high = check([0.1] * 20, lower_is_better=True), check([0.3] * 20, lower_is_better=True)
    (fall,) = falls_of(outcome(1, low), outcome(2, high))
    assert (round(fall.fall, 6), fall.refused, fall.confidence) == (0.2, True, 1.0)
    (fall,) = falls_of(outcome(1, high), outcome(2, low))
    assert (round(fall.fall, 6), fall.refused) == (-0.2, False)


def test_one_row_alone_proves_little_and_a_few_that_agree_do() -> None:
    for rows, refused in ((1, False), (2, True)):
        (fall,) = falls_of(outcome(1, check([1] * rows)), outcome(2, check([0] * rows)))
        assert (fall.fall, fall.refused) == (1.0, refused)


def test_versions_that_are_equal_are_refused_as_seldom_as_said() -> None:
    """Of 400 pairs that answer alike but for chance, at most one in twenty, give or take three standard errors."""
    chance, refused = random.Random(3), 0
    for _ in range(400):
        pairs = [[float(chance.random() < 0.8) for _ in range(60)] for _ in range(2)]
        (fall,) = falls_of(outcome(1, check(pairs[0])), outcome(2, check(pairs[1])))
        refused += fall.refused
    assert 0 < refused / 400 < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_a_rule_is_no_sample() -> None:
    old, new = (check([1] * 9 + [last], "must_not: damn", metric="must_not") for last in (1, 0))
    assert falls_of(outcome(1, old), outcome(2, new))[0].refused
    assert not falls_of(outcome(1, old, tolerance=0.1), outcome(2, new))[0].refused, "not more than the tolerance"


def test_a_refusal_of_many_checks_is_short(library: Library) -> None:
    library.promote("trec6@1")
    for version, values in ((1, GOOD), (2, WORSE)):
        library.registry.outcomes.put(outcome(version, *(check(values, f"slice:{name}") for name in "abcdef")))
    with pytest.raises(PromotionRefused, match="and slice:d, slice:e, slice:f; to promote it") as refused:
        library.promote("trec6@2")
    assert str(refused.value).count("resamples") == 3


def test_a_tolerance_of_perplexity_is_a_share() -> None:
    old, new = (check([value] * 20, "perplexity", metric="perplexity", lower_is_better=True) for value in (100, 104))
    (fall,) = falls_of(outcome(1, old, tolerance=0.05), outcome(2, new))
    assert (fall.tolerance, fall.refused) == (5.0, False)
    assert falls_of(outcome(1, old, tolerance=0.03), outcome(2, new))[0].refused


# The gate


def test_a_version_that_falls_is_refused_with_rows_and_resamples(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check(GOOD), tolerance=0.05))
    library.registry.outcomes.put(outcome(2, check(WORSE)))
    with pytest.raises(PromotionRefused) as refused:
        library.promote("trec6@2")
    told = str(refused.value)
    assert "suite 'polite': accuracy 0.6000 against 0.9000 on the same 100 rows, worse by 0.3000" in told
    assert f"beyond the tolerance of 0.05 in 100.0% of {DRAWS} resamples" in told
    assert "--force --reason TEXT" in told
    assert library.registry.aliases.of("trec6") == {"production": 1}


def test_a_fall_within_the_tolerance_passes_and_is_told(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check(GOOD), tolerance=0.05))
    library.registry.outcomes.put(outcome(2, check(SLIGHTLY)))
    move = library.promote("trec6@2")
    assert move.decision == (
        "promoted: within the tolerance in 1 check of 'polite', on the same 100 rows: accuracy is worse by 0.0100"
    )
    (row,) = move.suites
    assert (row["check"], row["rows"], row["refused"], row["draws"]) == ("accuracy", 100, False, DRAWS)


def test_chance_alone_refuses_nothing(library: Library) -> None:
    """Worse by one row of ten: as likely as not that is nothing."""
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check([1] * 9 + [0]), tolerance=0.0))
    library.registry.outcomes.put(outcome(2, check([1] * 8 + [0, 0])))
    assert library.promote("trec6@2").after == 2


def test_a_suite_says_how_sure_a_fall_must_be(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check([1] * 9 + [0]), tolerance=0.0, confidence=0.5))
    library.registry.outcomes.put(outcome(2, check([1] * 8 + [0, 0])))
    with pytest.raises(PromotionRefused, match=r"worse by 0\.1000"):
        library.promote("trec6@2")


def test_a_missing_outcome_is_refused_with_the_command_that_makes_it(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check(GOOD), file="/my suites/polite.yaml"))
    with pytest.raises(PromotionRefused, match=r"`softprompt suite run trec6@2 --suite '/my suites/polite\.yaml'` makes it"):
        library.promote("trec6@2")
    library.registry.outcomes.put(outcome(2, check(GOOD), digest="e" * 64))
    with pytest.raises(PromotionRefused, match=r"other rows or checks.*`softprompt suite run trec6@1 trec6@2 --suite"):
        library.promote("trec6@2")
    library.registry.outcomes.put(outcome(2, check(GOOD, "another")))
    with pytest.raises(PromotionRefused, match="has no check in common"):
        library.promote("trec6@2")


def test_every_suite_of_the_one_in_place_counts_and_none_of_the_other(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(2, check(WORSE), suite="own"))
    assert library.promote("trec6@2").suites == (), "the cards decide: as good"
    library.registry.outcomes.put(outcome(2, check(GOOD), suite="second"))
    library.registry.outcomes.put(outcome(3, check(GOOD), suite="own"))
    with pytest.raises(PromotionRefused, match="no outcome of suite 'second'"):
        library.promote("trec6@3")


def test_suites_decide_where_the_cards_would_say_no(library: Library) -> None:
    library.publish(make_prompt(seed=9, metrics=scored(0.1)), base="builtin/tiny")
    library.promote("trec6@1")
    for version in (1, 4):
        library.registry.outcomes.put(outcome(version, check(GOOD)))
    assert library.promote("trec6@4").after == 4


def test_force_needs_a_reason_and_the_audit_keeps_both(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check(GOOD)))
    library.registry.outcomes.put(outcome(2, check(WORSE)))
    with pytest.raises(PromotionRefused, match="no reason"):
        library.promote("trec6@2", force=True)
    move = library.promote("trec6@2", force=True, reason="the rows were wrong")
    assert move.decision is not None
    assert move.decision.startswith("promoted, forced: suite 'polite': accuracy 0.6000")
    entry = library.registry.audit("trec6")[-1]
    assert entry.reason == "the rows were wrong"
    assert entry.after is not None
    assert "worse by 0.3000" in entry.after["despite"]


def test_other_aliases_have_their_own_one_in_place(library: Library) -> None:
    library.promote("trec6@1")
    library.registry.outcomes.put(outcome(1, check(GOOD)))
    assert library.promote("trec6@2", "staging").decision == "promoted: nothing was there before"


def test_no_comparison_of_nothing() -> None:
    found = weigh_suites([outcome(1, check(GOOD))], "trec6@2", [])
    assert (found.loss, found.suites) == (None, ())
    assert found.refusal is not None


def test_promoting_by_outcomes_needs_no_torch(library: Library) -> None:
    library.promote("trec6@1")
    for version in (1, 2):
        library.registry.outcomes.put(outcome(version, check(GOOD)))
    code = (
        "import sys\nfrom softprompt.library.library import Library\n"
        "with Library.open(sys.argv[1]) as library: assert library.promote('trec6@2').suites\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(library.home)], check=True)
