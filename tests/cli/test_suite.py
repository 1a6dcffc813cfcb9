"""`softprompt suite` and `report`: what they print, and what they refuse before a base is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.commands import Run
from tests.models import some_prompt

ROWS = [
    {"text": f"the {word} stone", "label": "yes" if at % 2 else "no"} for at, word in enumerate(("red", "blue", "green"))
]


@pytest.fixture
def place(tmp_path: Path, home: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with rows, a suite and two versions of `kind`."""
    monkeypatch.chdir(tmp_path)
    Path("cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    Path("polite.yaml").write_text("data: cases.jsonl\nmust_not: [please]\nperturb: case\n", encoding="utf-8")
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library:
        for seed in (0, 1):
            prompt = some_prompt(base, "kind", seed=seed, input="{text} =", labels=("yes", "no"))
            library.publish(prompt.to_bytes(), base=str(base_folder))
    return tmp_path


def test_run_show_list_promote_and_report(run: Run, place: Path) -> None:
    assert run("suite", "list", "kind", "--json").rows == []
    rows = run("suite", "run", "kind@1", "--suite", "polite.yaml", "--json").rows
    assert [row["check"] for row in rows] == ["accuracy", "must_not: please", "perturb:case", "perturb:case:stayed"]
    assert all({"task", "version", "suite", "check", "value", "stderr", "rows"} <= row.keys() for row in rows)
    assert {(row["task"], row["version"], row["suite"], row["rows"]) for row in rows} == {("kind", 1, "polite", 3)}
    (said,) = run("evaluate", "kind@1", "--data", "cases.jsonl", "--json").rows
    assert rows[0]["value"] == said["value"]
    assert run("suite", "show", "kind@1", "--json").rows == rows
    (place / "texts").mkdir()
    (place / "texts" / "one.txt").write_text("Red or blue.")
    idle = run("suite", "run", "kind@1", "--suite", "polite.yaml", "--passages", "texts", "--json")
    assert idle.rows == rows
    assert idle.err.count("passages are named, and kind@1 looks none up: it is judged without") == 1
    assert run("suite", "show", "kind@1", "--suite", "polite", "--json").rows == rows
    run("promote", "kind@1")
    (listed,) = run("suite", "list", "kind", "--json").rows
    assert (listed["suite"], listed["rows"], listed["checks"], listed["aliases"]) == ("polite", 3, 4, ["production"])
    command = f"softprompt suite run kind@2 --suite {place}/polite.yaml"
    assert f"`{command}` makes it" in run("promote", "kind@2").refused()
    run(*command.split()[1:])
    (moved,) = run("promote", "kind@2", "--force", "--reason", "tried", "--json").rows
    assert [one["check"] for one in moved["suites"]] == [row["check"] for row in rows]
    (card,) = run("report", "kind@2", "--against", "kind@1", "--html", "card.html", "--json").rows
    assert (card["version"], card["suites"][0]["suite"], card["aliases"]) == (2, "polite", ["production"])
    assert Path("card.html").read_text(encoding="utf-8").count("polite")
    (gone,) = run("suite", "drop", "kind@1", "--suite", "polite", "--reason", "old", "--json").rows
    assert (gone["version"], gone["suite"], gone["rows"]) == (1, "polite", 3)
    run("suite", "run", "kind@1", "--suite", "polite.yaml")
    shown = run("report", "kind@2", "--against", "kind@1")
    assert "must_not: please" in shown.out
    assert "beside kind@1" in shown.out


def test_what_is_wrong_is_refused_before_a_base_is_loaded(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **more: object) -> None:
        raise AssertionError("a base was loaded")

    monkeypatch.setattr(FrozenBase, "load", never)
    Path("wrong.yaml").write_text("data: cases.jsonl\nmetric: f1\n", encoding="utf-8")
    Path("bare.yaml").write_text("must: please\n", encoding="utf-8")
    for arguments, told in (
        (["kind@9", "--suite", "polite.yaml"], "task 'kind' has no version 9"),
        (["none", "--suite", "polite.yaml"], "no task 'none'"),
        (["kind", "--suite", "none.yaml"], "the suite 'none.yaml' cannot be read"),
        (["kind", "--suite", "cases.jsonl"], "cases.jsonl is a table of rows and no suite; name a .yaml"),
        (["kind", "--suite", "wrong.yaml"], "unknown key 'metric'; did you mean 'metrics'?"),
        (["kind", "--suite", "bare.yaml"], "kind@2 came without the task file whose test rows it would be run on"),
        (["kind", "--suite", "polite.yaml", "--suite", "polite.yaml"], "two suites are called 'polite'"),
        (["kind~me@1", "--suite", "polite.yaml"], "'kind~me@1' is a user's own version"),
    ):
        assert told in run("suite", "run", *arguments).refused(), arguments
    assert "has no outcome of suite 'polite'" in run("suite", "show", "kind@1", "--suite", "polite").refused()
    assert "no task 'none'" in run("suite", "list", "none").refused()
    assert "is the same version as" in run("report", "kind@1", "--against", "kind@1").refused()
    Path("card.html").write_text("mine", encoding="utf-8")
    assert "is there already; name another file, or replace it" in run("report", "kind", "--html", "card.html").refused()
    assert "there is no folder 'none'" in run("report", "kind", "--html", "none/card.html").refused()
    assert Path("card.html").read_text(encoding="utf-8") == "mine"
