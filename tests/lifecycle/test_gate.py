"""The gate by suites where a command makes the new version: they are run on it, and decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from softprompt import retrain, upgrade
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.suites.looks import find_looks
from softprompt.evaluation.suites.run import run_looks
from softprompt.evaluation.suites.suite import Suite
from softprompt.library.library import Library
from softprompt.lifecycle.gate import card_on
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute
from softprompt.prompts.prompt import SoftPrompt
from tests.lifecycle.rows import ROWS, a_task
from tests.models import steerable_base


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def suite(tmp_path: Path, library: Library) -> Path:
    """A suite with rows of its own, of which kind@1 has an outcome."""
    write(tmp_path / "cases.jsonl", ROWS * 3)
    file = tmp_path / "words.yaml"
    file.write_text("data: cases.jsonl\nperturb: [length]\ntolerance: 0.1\n", encoding="utf-8")
    run_looks(library, find_looks(library, ["kind@1"], [Suite.load(file)]), None, Mute())
    return file


def wrong(rows: list[dict[str, str]] = ROWS) -> list[dict[str, str]]:
    return [row | {"label": "no" if row["label"] == "yes" else "yes"} for row in rows]


def test_the_new_version_is_run_on_the_suites_of_the_old_one(library: Library, suite: Path) -> None:
    made = retrain("kind", library=library, progress=Mute())
    assert made.promoted
    assert "within the tolerance in 3 checks of 'words', on the same 12 rows: none is worse" in made.reason
    (found,) = library.registry.outcomes.of("kind@2")
    assert (found.suite, found.checks[0].value, len(found.rows)) == ("words", 1.0, 12)
    assert found.digest == library.registry.outcomes.one("kind@1", "words").digest


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_a_score_that_may_be_of_other_rows_is_measured_anew(library: Library, tmp_path: Path, digest: str | None) -> None:
    """As that of a card from before there were digests, or of a prompt that was taken in."""
    prompt = SoftPrompt.from_bytes(library.read("kind@1"))
    recipe = {key: value for key, value in prompt.card.recipe.items() if key != "test_digest"}
    recipe |= {"test_digest": digest} if digest is not None else {}
    card = prompt.card.model_copy(update={"recipe": recipe, "metrics": {"value": 0.1, "stderr": 0.2, "rows": 4}})
    engine = OfflineEngine(architecture_of(steerable_base()))
    task = a_task(tmp_path)
    found = card_on(task, replace(prompt, card=card), engine)
    assert (found.metrics["value"], found.metrics["stderr"], found.metrics["rows"]) == (1.0, 0.0, len(task.test))
    assert found.recipe == recipe | {"test_digest": prompt.card.recipe["test_digest"]}
    assert card_on(task, replace(prompt, card=found.model_copy(update={"metrics": {}})), engine).metrics == {}  # as it is


def test_a_suite_refuses_where_the_test_rows_would_not(library: Library, suite: Path, tmp_path: Path) -> None:
    """All rows of the task say the opposite now, and those of the suite do not."""
    write(tmp_path / "rows.jsonl", wrong())
    made = retrain("kind", library=library, progress=Mute())
    assert (made.old, made.value, made.promoted) == (0.0, 1.0, False)
    assert (
        "kind@2 is not promoted to production, where kind@1 is: suite 'words': accuracy 0.0000 against 1.0000" in made.reason
    )
    assert library.registry.resolve("kind").number == 1


def test_rows_that_have_changed_are_run_on_both(library: Library, suite: Path, tmp_path: Path) -> None:
    before = library.registry.outcomes.one("kind@1", "words")
    write(tmp_path / "cases.jsonl", ROWS * 2 + wrong(ROWS[:2]))
    made = retrain("kind", library=library, progress=Mute())
    assert made.promoted
    assert "suite 'words': its rows have changed, and kind@1 was run on those of today" in made.reason
    old, new = (library.registry.outcomes.one(f"kind@{number}", "words") for number in (1, 2))
    assert old.digest == new.digest != before.digest
    assert old.checks[0].value == new.checks[0].value == 0.8


def test_rows_that_are_gone_leave_the_old_version_in_place(library: Library, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").unlink()
    made = retrain("kind", library=library, progress=Mute())
    assert not made.promoted
    assert "suite 'words' cannot be run: no data file" in made.reason
    assert f"`softprompt suite run kind@2 --suite {suite}` makes it" in made.reason


def test_a_suite_of_the_test_rows_goes_to_the_next_base(library: Library, other_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.yaml"
    file.write_text("metrics: [accuracy, perplexity]\ntolerance: 1\n", encoding="utf-8")
    run_looks(library, find_looks(library, ["kind@1"], [Suite.load(file)]), None, Mute())
    (moved,) = upgrade("kind", to=str(other_folder), library=library, progress=Mute())
    (found,) = library.registry.outcomes.of("kind@2")
    assert found.checks[0].value == moved.value
    assert len(found.rows) == 4
    fell = found.checks[1].value > 2 * library.registry.outcomes.one("kind@1", "test").checks[1].value
    assert moved.promoted != fell
    assert ("perplexity" in moved.reason and "is not promoted" in moved.reason) == fell
