"""The report card: what is kept of two versions, their changed answers with inputs from the suite's rows, and the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import ConfigError, NotFound
from softprompt.evaluation.suites.checks import digest_of_row, hidden
from softprompt.evaluation.suites.page import page_of
from softprompt.evaluation.suites.report import report
from softprompt.library.library import Library
from softprompt.registry.records import Check, Outcome
from tests.library_data import make_prompt, scored

ROWS = [{"text": f"row <b>{number}</b> & more", "label": "yes" if number % 2 else "no"} for number in range(6)]
RIGHT = tuple(row["label"] for row in ROWS)
BEFORE = ("no", "yes", "no", "yes", "yes", "yes")  # wrong in the fifth
AFTER = ("yes", "yes", "no", "no", "no", "yes")  # wrong in the first and the fourth, and right in the fifth


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


def outcome(version: int, answers: tuple[str, ...], rows: Path, **fields: Any) -> Outcome:
    values = tuple(float(one == it) for one, it in zip(answers, RIGHT, strict=True))
    head = Check("accuracy", "accuracy", False, sum(values) / 6, 0.1, values)
    sure = Check("calibration", "ece", True, 0.25, 0.1, (0.25,) * 6)
    made = Outcome(
        "kind", version, "polite", "d" * 64, {"name": "polite", "data": str(rows), "tolerance": 0.0},
        tuple(map(digest_of_row, ROWS)), answers, RIGHT, (head, sure),
        ({"from": 0.5, "to": 1.0, "rows": 6, "confidence": 0.75, "accuracy": 0.5},),
    )  # fmt: skip
    return replace(made, **fields)


@pytest.fixture
def library(tmp_path: Path, rows: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home", actor="<tester>") as library:
        for seed, answers in enumerate((BEFORE, AFTER)):
            fields = {"labels": ("yes", "no"), "metrics": scored(0.9 - seed / 10, stderr=0.01, majority=0.5)}
            library.publish(make_prompt("kind", seed=seed, **fields), base="builtin/tiny")
            library.registry.outcomes.put(outcome(seed + 1, answers, rows))
        yield library


def test_a_card_of_one_version(library: Library) -> None:
    library.promote("kind@1")
    card = report("kind", library=library)
    assert (card.ref, card.value, card.stderr, card.rows, card.learnt) == ("kind@1", 0.9, 0.01, 500, True)
    assert (card.aliases, card.against, card.notes) == (["production"], None, [])
    assert card.facts["labels"] == ["yes", "no"]
    (suite,) = card.suites
    assert (suite["suite"], suite["rows"], suite["changed"], suite["examples"]) == ("polite", 6, None, [])
    assert [check["check"] for check in suite["checks"]] == ["accuracy", "calibration"]
    assert suite["calibration"][0]["confidence"] == 0.75
    json.dumps(card.row(), allow_nan=False)


def test_what_changed_between_two_versions(library: Library) -> None:
    card = report("kind@2", "kind@1", library=library)
    (suite,) = card.suites
    assert suite["changed"] == 3
    shown = [(one["input"], one["right"], one["before"], one["after"], one["better"]) for one in suite["examples"]]
    assert shown == [
        (ROWS[0]["text"], "no", "no", "yes", "before"),
        (ROWS[3]["text"], "yes", "yes", "no", "before"),
        (ROWS[4]["text"], "no", "yes", "no", "after"),
    ]
    head = suite["checks"][0]
    assert (head["value"], head["against"], head["refused"]) == (pytest.approx(4 / 6), pytest.approx(5 / 6), False)
    assert card.against is not None
    assert card.against["version"] == 1
    assert report("kind@2", "1", library=library) == card
    assert report("kind@2", "kind@1", examples=1, library=library).suites[0]["examples"] == suite["examples"][:1]


def test_rows_that_are_gone_are_shown_by_their_digests(library: Library, rows: Path) -> None:
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[1:]), encoding="utf-8")
    card = report("kind@2", "kind@1", library=library)
    first = card.suites[0]["examples"][0]
    assert (first["row"], first["input"], first["right"]) == (digest_of_row(ROWS[0]), None, "no")
    assert card.notes == [
        "suite 'polite': 1 row of its changed answers cannot be read any more, and only digests are shown, as no text of a "
        "row is kept"
    ]
    assert f"row {digest_of_row(ROWS[0])}" in page_of(card)
    rows.unlink()
    card = report("kind@2", "kind@1", library=library)
    assert [one["input"] for one in card.suites[0]["examples"]] == [None] * 3
    assert "its rows cannot be read (no data file" in card.notes[0]


def test_answers_that_are_not_kept_are_compared_by_their_digests(library: Library, rows: Path) -> None:
    for version, answers in ((1, BEFORE), (2, AFTER)):
        kept = outcome(version, answers, rows)
        secret = replace(kept, answers=tuple(map(hidden, answers)), definition=kept.definition | {"keep_answers": False})
        library.registry.outcomes.put(secret)
    (suite,) = report("kind@2", "kind@1", library=library).suites
    assert [one["better"] for one in suite["examples"]] == ["before", "before", "after"]
    assert suite["examples"][0]["after"] == hidden("yes")


def test_kept_answers_are_compared_with_digests_as_digests(library: Library, rows: Path) -> None:
    kept = outcome(2, AFTER, rows)
    secret = replace(kept, answers=tuple(map(hidden, AFTER)), definition=kept.definition | {"keep_answers": False})
    library.registry.outcomes.put(secret)
    for ref, against in (("kind@2", "kind@1"), ("kind@1", "kind@2")):
        (suite,) = report(ref, against, library=library).suites
        assert suite["changed"] == 3
        assert {one["row"] for one in suite["examples"]} == {digest_of_row(ROWS[place]) for place in (0, 3, 4)}


@pytest.mark.parametrize(
    ("metric", "before", "after", "better"),
    [
        ("exact_match", 1, 0, "before"),
        ("exact_match", 0, 1, "after"),
        ("token_f1", 0.5, 0.5, "neither"),
        ("rougeL", 1, 1, "both"),
        ("bleu", 1, 0, None),
    ],
)
def test_written_answers_are_compared_by_what_a_row_counts(
    library: Library, rows: Path, metric: str, before: float, after: float, better: str | None
) -> None:
    for version, value, said in ((1, before, "one"), (2, after, "other")):
        check = Check(metric, metric, False, value, 0.0, (float(value),) * 6)
        library.registry.outcomes.put(outcome(version, (said,) * 6, rows, right=None, checks=(check,), calibration=()))
    (suite,) = report("kind@2", "kind@1", library=library).suites
    assert [(one["better"], one["right"]) for one in suite["examples"]] == [(better, it) for it in RIGHT]
    assert page_of(report("kind@2", "kind@1", library=library))


def test_numbers_over_ordered_labels_are_compared_by_their_errors(library: Library, rows: Path) -> None:
    fields = {"labels": ("1", "2"), "metric": "mae", "recipe": {"problem_type": "regression"}}
    for seed in (0, 1):
        library.publish(make_prompt("scale", seed=seed, **fields), base="builtin/tiny")
    for version, errors, said in ((1, (0.2, 0.4, 0.0, 0.0, 0.0, 0.0), "1.2"), (2, (0.3, 0.1, 0.0, 0.0, 0.0, 0.0), "1.3")):
        check = Check("mae", "mae", True, sum(errors) / 6, 0.0, errors)
        made = outcome(version, (said,) * 6, rows, task="scale", right=("1",) * 6, checks=(check,), calibration=())
        library.registry.outcomes.put(made)
    (suite,) = report("scale@2", "scale@1", library=library).suites
    assert [one["better"] for one in suite["examples"]] == ["before", "after", *["both"] * 4]


def test_what_cannot_be_compared_is_said(library: Library, rows: Path) -> None:
    library.registry.outcomes.put(outcome(2, AFTER, rows, digest="e" * 64))
    library.registry.outcomes.put(outcome(2, AFTER, rows, suite="own"))
    library.registry.outcomes.put(outcome(1, BEFORE, rows, suite="theirs"))
    card = report("kind@2", "kind@1", library=library)
    assert card.notes == [
        "suite 'own' was not run on kind@1",
        "suite 'polite': the two versions were run on other rows or checks, and are not compared",
        "suite 'theirs' was run on kind@1 and not on kind@2",
    ]
    assert [suite["changed"] for suite in card.suites] == [None, None]


def test_other_tasks_and_the_same_version_are_refused(library: Library) -> None:
    library.publish(make_prompt("other", seed=7), base="builtin/tiny")
    with pytest.raises(ConfigError, match="kind@1 is the same version as kind@1"):
        report("kind@1", "kind@1", library=library)
    with pytest.raises(ConfigError, match="other@1 is of task 'other' as kind@1; compare it with another version"):
        report("kind@1", "other@1", library=library)
    with pytest.raises(NotFound):
        report("kind@1", "kind@9", library=library)
    card = report("other@1", library=library)
    assert card.notes == ["no suite was run on other@1; `softprompt suite run other@1 --suite FILE` runs one"]
    assert card.value is None
    assert page_of(card)


class Page(HTMLParser):
    """The tags of a page, and whether each that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "line":
            assert self.open.pop() == tag


def test_the_page_asks_for_nothing_else_and_escapes_every_text(library: Library, rows: Path) -> None:
    library.registry.outcomes.put(outcome(2, ("</dd><script>", *AFTER[1:]), rows))
    page = page_of(report("kind@2", "kind@1", library=library))
    made = Page(page)
    assert made.open == []
    names = {tag for tag, _ in made.tags}
    assert not names & {"script", "link", "img", "iframe", "b"}
    assert not any({"src", "href", "onclick"} & set(attributes) for _, attributes in made.tags)
    assert not re.search(r"https?:|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    assert "row &lt;b&gt;0&lt;/b&gt; &amp; more" in page
    assert "&lt;/dd&gt;&lt;script&gt;" in page
    assert "&lt;tester&gt;" in page
    assert "became worse" in page
    assert "3 answers changed of 6" in page


def test_a_report_loads_no_torch(library: Library, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom softprompt.cli import main\n"
        f"sys.argv = ['softprompt', '--home', {str(library.home)!r}, 'report', 'kind@2', '--against', 'kind@1', '--html', "
        f"{str(tmp_path / 'card.html')!r}]\n"
        "try: main()\nexcept SystemExit as done: assert not done.code\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "card.html").read_text(encoding="utf-8").startswith("<!doctype html>")
