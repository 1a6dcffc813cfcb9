"""What `predict` is given is what it reads: texts, JSON objects, files; blank ones keep their place."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.cli import predict as command
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation import evaluate as judging
from softprompt.evaluation.trials import Trial
from softprompt.library.library import Library
from tests.commands import Run
from tests.models import some_prompt

LABELS = ("yes", "no", "the river")


@pytest.fixture(autouse=True)
def filled(home: Path, base_folder: Path) -> Library:
    base = FrozenBase.load(str(base_folder))
    library = Library.open(home)
    for prompt in (
        some_prompt(base, "kind", seed=1, labels=LABELS),
        some_prompt(base, "pair", seed=2, labels=LABELS, input="{one} and {two}"),
        some_prompt(base, "tell", seed=3, metric="exact_match", max_new_tokens=4),
    ):
        library.publish(prompt.to_bytes(), base=base.address)
    return library


def test_a_json_object_holds_the_columns(run: Run) -> None:
    (plain,) = run("predict", "kind", "red apple", "--json").rows
    (row,) = run("predict", "kind", '{"id": 7, "text": "red apple"}', "--json").rows
    assert row == plain
    (both,) = run("predict", "pair", '{"two": "b", "one": "a", "id": 3}', "--json").rows
    assert json.loads(both["text"]) == {"one": "a", "two": "b"}


def test_an_object_without_the_column_is_refused_and_literal_takes_it(run: Run) -> None:
    text = '{"level": "error"}'
    reply = run("predict", "kind", text, "--json").refused()
    assert "a JSON object with 'level' is no input of task 'kind', whose column is 'text'; give that, or --literal" in reply
    (row,) = run("predict", "kind", text, "--literal", "--json").rows
    assert row["text"] == text
    for broken in ("{not json", "[1, 2]", "{}x"):
        assert run("predict", "kind", broken, "--json").rows[0]["text"] == broken
    assert "is no input of task 'kind'" in run("predict", "kind", "{}", "--json").refused()
    assert "has no field 'two'" in run("predict", "pair", '{"one": "a"}', "--json").refused()


def test_an_object_with_a_key_twice_or_half_a_character_is_refused(run: Run) -> None:
    assert "the key 'text' is given twice" in run("predict", "kind", '{"text": "red", "text": "blue"}', "--json").refused()
    assert "half of a surrogate pair" in run("predict", "kind", '{"text": "red \\ud800"}', "--json").refused()


def test_the_name_of_a_file_is_refused_and_literal_takes_it(run: Run, tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.TXT", "rows.jsonl.gz", "rows.xlsx"):
        file = tmp_path / name
        file.write_text("text\nred\n")
        assert (
            f"is a file; give its rows with --data {file}, or --literal" in run("predict", "kind", file, "--json").refused()
        )
        assert run("predict", "kind", file, "--literal", "--json").rows[0]["text"] == str(file)
    assert run("predict", "kind", "not-there.csv", "--json").rows[0]["text"] == "not-there.csv"


def test_a_blank_one_keeps_its_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\n\n   \nblue\r\n"))
    done = run("predict", "kind", "--json")
    assert [(row["text"], row["output"] is None) for row in done.rows] == [
        ("red", False), ("", True), ("   ", True), ("blue", False),
    ]  # fmt: skip
    assert "warning: 2 of 4 inputs are blank; their answers are null" in done.err
    assert run("predict", "kind", "red", " ", "--json").rows[1]["output"] is None
    assert run("predict", "pair", " ", "--json").rows[0]["output"] is None
    (only,) = run("predict", "kind", "", "--json").rows
    assert (only["output"], only["scores"]) == (None, None)
    assert "blank" in run("predict", "kind", "red", " ").err


def write_rows(path: Path, count: int = 7) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([["id", "text"], *([n, "" if n == 3 else f"red, blue {n}"] for n in range(count))])
    return path


def test_rows_of_a_file_are_answered_as_the_same_texts(run: Run, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.csv")
    done = run("predict", "kind", "--data", file, "--json")
    texts = ["" if n == 3 else f"red, blue {n}" for n in range(7)]
    assert done.rows == run("predict", "kind", *texts, "--json").rows
    assert "1 of 7 inputs are blank" in done.err
    assert "load: 0%" in done.err
    assert "predict: 100%" in done.err
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{text}\n" for text in texts))
    assert run("predict", "kind", "--data", lines, "--json").rows == done.rows
    (tmp_path / "pairs.jsonl").write_text('{"one": "a", "two": 3}\n')
    (row,) = run("predict", "pair", "--data", tmp_path / "pairs.jsonl", "--json").rows
    assert row == {**run("predict", "pair", '{"one": "a", "two": 3}', "--json").rows[0]}


def test_a_wrong_row_is_told_with_its_line_before_anything_is_loaded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('\n{"texts": "a"}\n{"texts": "b"}\n')
    reply = run("predict", "kind", "--data", tmp_path / "rows.jsonl", "--json")
    assert "rows.jsonl, line 2 has no field 'text'" in reply.refused()
    assert "load" not in reply.err
    assert "give one of them" in run("predict", "kind", "red", "--data", tmp_path / "rows.jsonl").refused()


def test_answers_are_written_beside_the_rows(run: Run, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "rows.csv"), tmp_path / "out.csv"
    expected = run("predict", "kind", "--data", file, "--json").rows
    done = run("predict", "kind", "--data", file, "--output", out)
    assert "rows" in done.out
    assert "7" in done.out
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [list(row) for row in rows] == [["id", "text", "output", "score"]] * 7
    assert [row["id"] for row in rows] == [str(n) for n in range(7)]
    assert [row["output"] or None for row in rows] == [row["output"] for row in expected]
    assert float(rows[0]["score"]) == max(expected[0]["scores"].values())
    assert "is there already" in run("predict", "kind", "--data", file, "--output", out).refused()
    own = file.read_bytes()
    assert "is the file that --data names" in run("predict", "kind", "--data", file, "--output", file, "--force").refused()
    assert file.read_bytes() == own
    again = run("predict", "kind", "--data", file, "--output", out, "--force", "--json")
    assert again.rows == expected, "for machines the rows are on stdout too"
    assert run("predict", "tell", "red", "--output", tmp_path / "told.jsonl").code == 0
    (told,) = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert list(told) == ["text", "output"]


def test_a_call_that_was_cut_short_goes_on_and_ends_as_the_uncut_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "AT_ONCE", 2)
    file, whole, out = write_rows(tmp_path / "rows.csv"), tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run("predict", "kind", "--data", file, "--output", whole)
    from softprompt.serving.offline import Service

    asked: list[int] = []
    answer = Service.predict

    def interrupted(self: Service, texts: list[object], tasks: str) -> object:
        asked.append(len(texts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(self, texts, tasks)  # type: ignore[arg-type]

    monkeypatch.setattr(Service, "predict", interrupted)
    done = run("predict", "kind", "--data", file, "--output", out)
    assert done.code == 130
    assert "4 of 7 rows are answered and kept; the same command goes on from there" in done.err
    assert not out.exists()
    asked.clear()
    asked.extend([0] * 3)
    partial = tmp_path / "out.jsonl.partial"
    head, *kept = partial.read_text().splitlines()
    known = ("task", "version", "text", "output", "scores", "truncated")  # all that there was of old
    older = [json.dumps({key: json.loads(row)[key] for key in known}) for row in kept]
    partial.write_text("".join(f"{line}\n" for line in (head, *older)))
    done = run("predict", "kind", "--data", file, "--output", out)
    assert done.code == 0
    assert "4 of 7 rows are answered already" in done.err
    assert asked[3:] == [2, 1], "only what was not answered is asked for"
    assert out.read_bytes() == whole.read_bytes()


def test_a_gap_in_an_input_is_told(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("one,two\na,b\nc,\n,\n")
    done = run("predict", "pair", "--data", rows, "--json")
    assert [row["output"] is None for row in done.rows] == [False, False, True]
    assert f"1 row of 3 has nothing in a column of the input ('two' in {rows}, line 3)" in " ".join(done.err.split())
    assert "empty text" not in run("predict", "kind", "red", "", "--json").err
    (tmp_path / "null.jsonl").write_text('{"one": "a", "two": "b"}\n{"one": "a", "two": null}\n')
    told = run("predict", "pair", "--data", tmp_path / "null.jsonl", "--json").refused()
    assert "null.jsonl, line 2: the field 'two' holds None" in told


def test_evaluate_keeps_the_places_of_blank_rows(run: Run, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "judged.jsonl"
    rows.write_text("id,text,label\n1,,yes\n2,red,yes\n3, ,no\n4,blue,no\n")
    done = run("evaluate", "kind", "--data", rows, "--output", out, "--json")
    assert (done.rows[0]["rows"], done.rows[0]["blank"]) == (2, 2)
    assert "rows.csv: 2 rows of 4 left out: nothing in 'text'" in " ".join(done.err.split())
    judged = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["output"] is None, row["value"] is None) for row in judged] == [
        ("1", True, True), ("2", False, False), ("3", True, True), ("4", False, False),
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["kind", "tell"])
def test_an_evaluation_that_was_cut_short_goes_on_and_ends_as_the_uncut_one(
    task: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "AT_ONCE", 3)
    file, whole, out = tmp_path / "rows.csv", tmp_path / "whole.csv", tmp_path / "out.csv"
    texts = ["red", "", *(f"{word} apple" for word in ("blue", "green", "the river", "a", "no", "of", "red stone"))]
    file.write_text("text,label\n" + "".join(f"{text},{LABELS[at % 3]}\n" for at, text in enumerate(texts)))
    command = ("evaluate", task, "--data", file, "--dtype", "float32", "--json")
    plain = run(*command).rows
    assert run(*command, "--output", whole).rows == plain
    asked: list[int] = []
    answer = judging.answer

    def interrupted(engine: OfflineEngine, trials: list[Trial]) -> object:
        asked.append(len(trials[0].examples))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(engine, trials)

    monkeypatch.setattr(judging, "answer", interrupted)
    done = run(*command, "--output", out)
    assert done.code == 130
    assert "6 of 8 rows are answered and kept; the same command goes on from there" in done.err
    assert not out.exists()
    partial = tmp_path / "out.csv.partial"
    partial.write_text("".join(partial.read_text().splitlines(keepends=True)[:-2]))  # as a kill in the midst of writing does
    done = run(*command, "--output", out)
    assert "4 of 8 rows are answered already" in done.err
    assert asked[3:] == [3, 2], "only chunks that are not whole are asked for, and as they were"
    assert done.rows == plain
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_evaluate_writes_what_was_said_to_each_row(run: Run, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "judged.csv"
    rows.write_text("id,text,label\n1,red,yes\n2,blue,no\n3,green,the river\n")
    (row,) = run("evaluate", "kind", "--data", rows, "--output", out, "--json").rows
    with out.open(newline="") as handle:
        judged = list(csv.DictReader(handle))
    assert [list(one) for one in judged] == [["id", "text", "label", "output", "value"]] * 3
    answers = [one["output"] for one in run("predict", "kind", "red", "blue", "green", "--json").rows]
    assert [one["output"] for one in judged] == answers
    assert sum(float(one["value"]) for one in judged) / 3 == row["value"]
    assert "is there already" in run("evaluate", "kind", "--data", rows, "--output", out).refused()
    reply = run("evaluate", "kind", "tell", "--data", rows, "--output", tmp_path / "two.csv").refused()
    assert "--output holds the rows of one task, and 2 are judged" in reply
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["judged.csv", "rows.csv"]
