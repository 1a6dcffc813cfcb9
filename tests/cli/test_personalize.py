"""`softprompt personalize`: a prompt of a user's own is made, listed and erased, and what is wrong is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softprompt.library.library import Library
from softprompt.training.train import train
from tests.commands import Run

ROWS = [{"text": word, "label": label} for word, label in zip("apple pear rain snow dog cat".split(), "aabbab", strict=True)]
MANY = [row | {"text": f"{row['text']} {number}"} for row in ROWS for number in range(4)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a prompt of two labels for the smallest base."""
    home = tmp_path_factory.mktemp("homes") / "home"
    with Library.open(home) as library:
        task = {"task": "kind", "data": MANY, "labels": ["a", "b"], "num_virtual_tokens": 20, "max_steps": 1}
        train(task, library=library)
    return home


def test_made_listed_and_erased(run: Run, filled: Path, tmp_path: Path) -> None:
    history = tmp_path / "ann.jsonl"
    history.write_text("\n".join(json.dumps(row) for row in ROWS))
    home = ["--home", str(filled)]
    (made,) = run("personalize", "kind", "--history", history, "--user", "ann", "--steps", "2", "--json", *home).rows
    assert (made["user"], made["version"], made["parent"], made["rows"], made["train_rows"]) == ("ann", 1, "kind@1", 2, 4)
    (listed,) = run("personalize", "kind", "--list", "--json", *home).rows
    assert (listed["user"], listed["digest"]) == ("ann", made["digest"])
    assert [(row["task"], row["version"]) for row in run("list", "--json", *home).rows] == [("kind", 1)]
    (gone,) = run("personalize", "kind", "--erase", "--user", "ann", "--json", *home).rows
    assert gone["digest"] == made["digest"]
    assert run("personalize", "kind", "--list", "--json", *home).rows == []
    again = run("personalize", "kind", "--erase", "--user", "ann", *home)
    assert (again.code, "ann" in again.err) == (1, True)


def test_what_is_wrong_is_told(run: Run, filled: Path, tmp_path: Path) -> None:
    history = tmp_path / "one.jsonl"
    history.write_text(json.dumps(ROWS[0]))
    home = ["--home", str(filled)]
    for args, code, said in (
        ([], 2, "none of --history, --erase and --list is given"),
        (["--list", "--erase"], 2, "2 of --history, --erase and --list are given"),
        (["--erase"], 2, "add --user ID"),
        (["--list", "--steps", "5"], 2, "--steps say how to tune, and nothing is tuned"),
        (["--erase", "--user", "ann", "--like", "kind@1", "--steps", "5"], 2, "--like and --steps say how to tune"),
        (["--history", history, "--user", "ann"], 1, "1 different input, and one is held out"),
        (["--history", history], 1, "name the user of all rows"),
        (["--history", tmp_path / "none.jsonl", "--user", "ann"], 1, "none.jsonl"),
    ):
        found = run("personalize", "kind", *args, *home)
        assert (found.code, said in " ".join(found.err.split())) == (code, True), found.err
        assert "Traceback" not in found.err


def test_a_history_of_a_task_that_looks_passages_up_needs_none(run: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "fruit.txt").write_text("Apple or pear, rain or snow, dog or cat.")
    home = tmp_path / "home"
    with Library.open(home) as library:
        asked = {"input": "{passages}\n{text} is", "retrieve": {"folder": str(texts), "k": 1}}
        task = {"task": "kind", "data": MANY, "labels": ["a", "b"], "num_virtual_tokens": 20, "max_steps": 1}
        train(task | asked, library=library)
    history = tmp_path / "ann.jsonl"
    history.write_text("\n".join(json.dumps(row) for row in ROWS))
    found = run("personalize", "kind", "--history", history, "--user", "ann", "--steps", "1", "--json", "--home", home)
    assert found.code == 0, found.err
