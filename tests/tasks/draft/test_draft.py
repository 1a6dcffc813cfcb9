"""First task files from tables, and the data made by program."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError, NameRefused
from softprompt.names import check_task
from softprompt.rows.values import text_of
from softprompt.tasks import samples
from softprompt.tasks.answers.labels import compose, fold_label
from softprompt.tasks.config.config import TaskConfig, parse_config
from softprompt.tasks.draft.draft import draft_task
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from tests.models import make_base

BASE = make_base("llama")


def write_csv(file: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])
    return file


def drafted(file: Path, **options: Any) -> TaskConfig:
    return parse_config(yaml.safe_load(draft_task(file, **options).yaml))


def test_a_table_with_few_answers_becomes_a_choice_among_labels(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "mine.csv", ["id", "body", "sentiment"], [[str(i), f"text {i}", "ab"[i % 2]] for i in range(9)]
    )
    config = drafted(file)
    assert config.task == "mine"
    assert config.labels == ("a", "b")
    assert config.input == "{body}\nSentiment:"
    assert config.target == " {sentiment}"


def test_a_table_with_many_answers_becomes_generation(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["question", "answer"], [[f"what {i}", f"thing {i}"] for i in range(9)])
    config = drafted(file)
    assert config.labels is None
    assert config.metric_name == "exact_match"


def test_columns_without_telling_names_are_guessed_by_their_content(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["a", "b"], [["x" if i % 2 else "y", f"a longer text {i}"] for i in range(9)])
    assert drafted(file).target == " {a}"
    with pytest.raises(DataError, match="2 of them different"):
        draft_task(file, text=["a"], label="b")
    write_csv(file, ["a", "b"], [[f"x{i}", f"a longer text {i}"] for i in range(9)])
    assert drafted(file, text=["a"], label="b").input.startswith("{a}")


def test_a_table_that_cannot_be_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only the column"):
        draft_task(write_csv(tmp_path / "one.csv", ["text"], [["a"]]))
    with pytest.raises(DataError, match="no column 'c'"):
        draft_task(write_csv(tmp_path / "two.csv", ["a", "b"], [["1", "2"]]), text=["c"])
    with pytest.raises(ConfigError, match="my text"):
        draft_task(write_csv(tmp_path / "three.csv", ["my text", "label"], [["1", "2"]] * 5))


def test_a_column_with_one_value_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    rows = [["en", "x" if i % 2 else "y", f"a longer text {i}"] for i in range(9)]
    file = write_csv(tmp_path / "mine.csv", ["a", "b", "c"], rows)
    assert drafted(file).target == " {b}"


@pytest.mark.parametrize("rows", ['"a","b"', '"a",""', '"a"," "'])
def test_a_row_without_an_answer_is_told_before_a_file_is_drafted_that_training_refuses(tmp_path: Path, rows: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(f"text,label\nx,yes\ny,no\n{rows}\nz,yes\nu,no\nv,yes\n")
    if '"b"' in rows:
        assert drafted(file).target == " {label}"
        return
    with pytest.raises(DataError, match=r"column 'label' is empty in 1 of 6 rows, the first of them row 3; fill it"):
        draft_task(file)
    (tmp_path / "mine.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b"}\n{"text": "c", "label": NaN}\n')
    with pytest.raises(DataError, match="column 'label' is empty in 2 of 3 rows, the first of them row 2"):
        draft_task(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("file_name", "task"),
    [("my reviews (1).csv", "my-reviews-1"), ("été.csv", "t"), ("日本.csv", "task"), ("a" * 200 + ".csv", "a" * 128)],
)
def test_a_task_gets_a_name_that_the_library_takes(tmp_path: Path, file_name: str, task: str) -> None:
    file = write_csv(tmp_path / file_name, ["text", "label"], [[f"text {i}", "ab"[i % 2]] for i in range(9)])
    config = drafted(file)
    assert config.task == check_task(task)
    assert config.data is not None
    assert config.data.train == file_name
    with pytest.raises(NameRefused, match="task 'my task' is refused"):
        draft_task(file, name="my task")


def test_samples_are_the_same_each_time_and_hold_no_fact_twice() -> None:
    for make, key in ((samples.headwords, "definition"), (samples.questions, "text"), (samples.remarks, "text")):
        rows = make()
        assert rows == make()
        assert rows != make(seed=1)
        assert len({row[key] for row in rows}) == len(rows) > 500


def test_headwords_are_right_where_english_is_regular() -> None:
    words = {row["definition"]: row["headword"] for row in samples.headwords()}
    assert words["more than one bus"] == "buses"
    assert words["the past of plant"] == "planted"
    assert words["a person who can drum"] == "drummer"
    assert words["the number after sixty-nine"] == "seventy"
    assert words["the most rough of all"] == "roughest"


def test_a_table_of_few_rows_is_told_to_be_few(tmp_path: Path) -> None:
    def notes(count: int) -> tuple[str, ...]:
        rows = [[f"the {'red' if n % 2 else 'blue'} ship number {n}", "ab"[n % 2]] for n in range(count)]
        return draft_task(write_csv(tmp_path / "mine.csv", ["text", "label"], rows)).notes

    (few,) = (note for note in notes(40) if "text prompt" in note)
    assert re.match(r"3\d training rows; with 64 or fewer a text prompt may be as good", few)  # the others are test rows
    assert not [note for note in notes(200) if "text prompt" in note]


# Which columns are taken, which are left, and why


def table(folder: Path, rows: list[dict[str, Any]], name: str = "mine.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


SENTENCES = [f"the {'red blue green'.split()[n % 3]} ship number {n} left the harbour" for n in range(60)]


@pytest.mark.parametrize(
    ("columns", "text", "label", "left"),
    [
        ({"premise": SENTENCES, "hypothesis": SENTENCES[::-1], "label": ["yes", "no"] * 30}, ["premise", "hypothesis"],
         "label", {}),
        ({"uid": [f"a-{n}" for n in range(60)], "title": SENTENCES, "body": SENTENCES[::-1], "topic": ["x", "y"] * 30},
         ["title", "body"], "topic", {"uid": "is nearly another in each row, as ids are"}),
        ({"first": SENTENCES, "second": SENTENCES[1:] + SENTENCES[:1], "kind": ["x", "y", "z"] * 20}, ["first", "second"],
         "kind", {}),
        ({"text": SENTENCES, "copy": SENTENCES, "label": ["x", "y"] * 30}, ["text"], "label",
         {"copy": "says the same as 'text'"}),
        ({"text": SENTENCES, "at": ["2024-01-31"] * 30 + ["2024-02-01"] * 30, "stars": [1.5, 2.5] * 30, "lang": ["en"] * 60,
          "none": [None] * 60, "tags": [["a"]] * 60, "label": ["x", "y"] * 30}, ["text"], "label",
         {"at": "holds dates or addresses", "stars": "holds numbers", "lang": "is 'en' in all rows",
          "none": "is empty in all rows", "tags": "holds ['a'], which is no text: it is a list"}),
        ({"label": list(range(60)), "text": SENTENCES, "kind": ["x", "y"] * 30}, ["text"], "kind",
         {"label": "is nearly another in each row, as ids are"}),
        ({"label": [0, 1] * 30, "label_text": ["bad", "good"] * 30, "text": SENTENCES}, ["text"], "label_text",
         {"label": "holds numbers"}),
        ({"text": SENTENCES, "note": [*SENTENCES[:30], *[None] * 30], "label": ["x", "y"] * 30}, ["text"], "label",
         {"note": "is missing in 30 rows"}),
        ({"a": SENTENCES, "b": [f"it goes by number {n}" for n in range(60)]}, ["a"], "b", {}),
        ({"word": ["sea", "sky", "sun"] * 20, "label": ["x", "y", "z"] * 20, "more": [f"w{n}" for n in range(60)]}, ["more"],
         "label", {"word": "has few values (3)"}),
        ({"Comment text": SENTENCES, "Kind of thing?": ["x", "y"] * 30}, ["Comment text"], "Kind of thing?", {}),
        ({"評論": [f"這艘船今天早上離開了港口第{n}號" for n in range(60)], "類別": ["好", "壞"] * 30}, ["評論"], "類別", {}),
    ],
)  # fmt: skip
def test_columns_are_taken_and_left_for_reasons_that_are_told(
    tmp_path: Path, columns: dict[str, list[Any]], text: list[str], label: str, left: dict[str, str]
) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    draft = draft_task(table(tmp_path, rows))
    assert list(draft.text) == text
    assert draft.label == label
    assert draft.left == left
    form = Form.of_config(parse_config(yaml.safe_load(draft.yaml)))
    assert form.input.fields == text
    assert form.target_field == label
    assert all(str(rows[0][name]) in form.input.fill(rows[0]) for name in text)


def test_columns_that_only_later_rows_have_are_seen(tmp_path: Path) -> None:
    rows = [{"id": 1, "label": "x"}] + [{"text": text, "label": "xy"[n % 2]} for n, text in enumerate(SENTENCES)]
    draft = draft_task(table(tmp_path, rows))
    assert draft.text == ("text",)
    assert draft.notes[:-1] == ("mine.jsonl: 1 row of 61 left out: nothing in 'text'",)
    rows[0] = {"text": "a ship"}
    with pytest.raises(DataError, match="the column 'label' is empty in 1 of 61 rows, the first of them row 1"):
        draft_task(table(tmp_path, rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["txt"]}, "has no column 'txt'; did you mean 'text'"),
        ({"label": "lable"}, "has no column 'lable'; did you mean 'label'"),
        ({"text": ["text", "text"]}, "the column 'text' is given twice with --text"),
        ({"text": ["text"], "label": "text"}, "the column 'text' is given as --text and as --label"),
        ({"label": "tags"}, "the column 'tags' holds .*it is a list; name another with --label"),
        ({"label": "same"}, "the column 'same' is 'x' in all rows"),
        ({"words": {"maybe": "perhaps"}}, "no row has the answer 'maybe' that --word has a word for"),
        ({"words": {"yes": "no"}}, "a choice needs at least two labels, and there is one"),
        ({"label": "id", "words": {"1": "one"}}, "the answers of 'id' are numbers: .*words and folding are for labels"),
        ({"text": ["tags"]}, "the field 'tags' holds"),
    ],
)
def test_what_training_would_refuse_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    rows = [
        {"id": n, "text": text, "tags": ["a"], "same": "x", "label": ["yes", "no"][n % 2]}
        for n, text in enumerate(SENTENCES)
    ]
    with pytest.raises(ConfigError, match=message):
        draft_task(table(tmp_path, rows), **options)


def test_a_table_without_an_answer_is_told_column_by_column(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column looks like the answer; name it with --label COLUMN \('id' is nearly another"
    ):
        draft_task(table(tmp_path, [{"id": n, "text": text} for n, text in enumerate(SENTENCES)]))
    lists = [{"text": text, "label": [[{"x": 1}], ["y"]][n % 2]} for n, text in enumerate(SENTENCES)]
    with pytest.raises(DataError, match=r"the column 'label' holds \[{'x': 1}\], .*; an answer is one text or number"):
        draft_task(table(tmp_path, lists))


def test_labels_get_words_and_one_spelling_where_that_is_asked(tmp_path: Path) -> None:
    rows = [{"text": text, "label": [0, 1, 1.0, 2][n % 4]} for n, text in enumerate(SENTENCES)]
    plain = draft_task(table(tmp_path, rows))
    assert any("the spelling of a number alone, and are rivals: '1' (15), '1.0' (15)" in note for note in plain.notes)
    assert any("the labels are numbers" in note and "--word 0=..." in note for note in plain.notes)
    draft = draft_task(tmp_path / "mine.jsonl", words={"0": "bad", "1": "good"}, fold_labels=True)
    config = parse_config(yaml.safe_load(draft.yaml))
    assert config.labels == ("bad", "good", "2")
    assert (config.id2label, config.fold_labels) == ({"0": "bad", "1": "good"}, True)
    task = Task(config, folder=tmp_path)
    assert Counter(task.form.answer(row, "row") for row in rows) == {"bad": 15, "good": 30, "2": 15}
    assert "'1' (30), '0' (15), '2' (15)" in draft.answers


def test_many_classes_are_labels(tmp_path: Path) -> None:
    rows = [{"text": f"about topic {n % 77} variant {n}", "label": f"topic {n % 77}"} for n in range(308)]
    draft = draft_task(table(tmp_path, rows))
    config = parse_config(yaml.safe_load(draft.yaml))
    assert len(config.labels or ()) == 77


def test_long_answers_get_room(tmp_path: Path) -> None:
    rows = [{"text": text, "answer": f"It is {text}, " * 3} for text in SENTENCES]
    assert drafted(table(tmp_path, rows)).max_new_tokens > 32


# What is drafted is what training takes


LIKE_YAML = [
    "yes", "no", "null", "1e3", "2020-01-01", "~", "0x1F", "1_000", "on", "12:30", "- a", "{a}", "a: b", "#", "'", '"', "!x",
    "e\u0301",
]  # fmt: skip


@pytest.mark.parametrize(
    "kind", [".csv", ".tsv", ";", "bom", "crlf", ".jsonl", ".json", ".parquet", ".xlsx", ".csv.gz", ".jsonl.gz"]
)
def test_a_draft_is_read_as_the_table_was_for_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    rows = [
        {"id": str(n), "my text": f'{text}; so, "it" is', "answer": LIKE_YAML[n % 18]}
        for n, text in enumerate(SENTENCES * 2)
    ]
    file = write_table(tmp_path, rows, kind)
    task = Task.load(drafted_file(file))
    assert set(task.form.labels or ()) == {compose(label) for label in LIKE_YAML}
    assert len(task.train) + len(task.test) == 120  # of sixty inputs: each is validated in turn
    assert task.validation == task.train
    assert task.form.input.fields == ["my text"]


@pytest.mark.parametrize(
    "values",
    [[True, False], [0, 1], [0.5, 1.5], [1, 1.5], ["yes", True], ["null", "none"], [1, "one"], [True, 1], [10**30, -1],
     ["a", 1e30]],
)  # fmt: skip
def test_a_draft_is_read_as_the_table_was_for_every_type_of_json(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"text": text, "flag": values[n % 2], "gone": None} for n, text in enumerate(SENTENCES)]
    task = Task.load(drafted_file(table(tmp_path, rows)))
    assert task.form.target_field == "flag"
    assert len(task.form.labels or ()) == 2
    examples = task.encode(BASE, task.train, 4, split="training")
    assert set(examples.choices) == {0, 1}


LABEL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda text: text.strip())
VALUE = LABEL | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(VALUE, min_size=2, max_size=4, unique_by=lambda value: compose(text_of(value))), st.booleans())
def test_any_values_are_labels_as_they_are_drafted(values: list[Any], fold: bool) -> None:
    hypothesis.assume(not any("\n" in text_of(value) for value in values))
    hypothesis.assume(len({fold_label(text_of(value)) for value in values}) > 1 or not fold)
    rows = [{"text": text, "label": values[n % len(values)]} for n, text in enumerate(SENTENCES)]
    with tempfile.TemporaryDirectory() as folder:
        file = table(Path(folder), rows)
        task = Task.load(drafted_file(file, label="label", fold_labels=fold))
        answers = {task.form.answer(row, "a row") for row in rows}
        assert answers == set(task.form.labels or ())
        assert len(answers) == len({fold_label(text_of(value)) for value in values}) if fold else len(values)
        assert len(task.train) + len(task.test) == 60


COLUMN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1, max_size=12).filter(
    str.strip
)


@given(st.lists(COLUMN, min_size=3, max_size=3, unique=True))
def test_columns_of_any_name_are_drafted(names: list[str]) -> None:
    one, two, answer = names
    rows = [{one: text, two: text[::-1], answer: "xy"[n % 2]} for n, text in enumerate(SENTENCES)]
    with tempfile.TemporaryDirectory() as folder:
        task = Task.load(drafted_file(table(Path(folder), rows), text=[one, two], label=answer))
        assert SENTENCES[0] in task.form.input.fill(rows[0])
        assert SENTENCES[0][::-1] in task.form.input.fill(rows[0])


def drafted_file(file: Path, **options: Any) -> Path:
    target = file.with_name("drafted.yaml")
    target.write_text(draft_task(file, **options).yaml, encoding="utf-8")
    return target


def write_table(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    suffix = kind if kind.startswith(".") else ".csv"
    file = folder / f"my rows{suffix}"
    plain = suffix.removesuffix(".gz")
    if plain == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    if plain == ".xlsx":
        book: Any = openpyxl.Workbook()
        for values in (list(rows[0]), *(row.values() for row in rows)):
            book.active.append(list(values))
        book.save(file)
        return file
    if plain in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        delimiter = {".tsv": "\t"}.get(plain, ";" if kind == ";" else ",")
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\r\n" if kind == "crlf" else "\n")
        writer.writeheader()
        writer.writerows(rows)
        text = ("\ufeff" if kind == "bom" else "") + out.getvalue()
    else:
        text = json.dumps(rows) if plain == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    data = text.encode()
    file.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return file


def test_dates_are_no_labels_and_numbers_beside_them_are(tmp_path: Path) -> None:
    rows = [[f"2024-01-{i % 9 + 1:02}", f"a text of several words {i}", str(i % 5)] for i in range(60)]
    draft = draft_task(write_csv(tmp_path / "rows.csv", ["day", "review", "stars"], rows))
    assert (draft.label, draft.left["day"]) == ("stars", "holds dates or addresses")


def test_space_around_all_labels_is_told_and_folded(tmp_path: Path) -> None:
    rows = [[f"a text of several words {i}", f" {('bad', 'good')[i % 2]}"] for i in range(40)]
    file = write_csv(tmp_path / "rows.csv", ["review", " Kind "], rows)
    assert any("have: ' bad', ' good';" in note for note in draft_task(file).notes)
    config = drafted(file, fold_labels=True)
    assert (config.labels, config.input) == (("bad", "good"), "{review}\nKind:")
    assert not any("spaces" in note for note in draft_task(file, fold_labels=True).notes)
    task = Task(config, folder=tmp_path)
    assert {task.form.answer(row, "") for row in task.train} == {"bad", "good"}


def test_a_table_without_names_on_top_is_told(tmp_path: Path) -> None:
    rows = [[f"a text of several words {i}", "ab"[i % 2]] for i in range(30)]
    (note, _) = draft_task(write_csv(tmp_path / "rows.csv", rows[0], rows[1:])).notes
    assert note.startswith(
        "the column 'a' is named like one of its labels: a file without a row of names on top loses its first"
    )


def test_what_keeps_columns_out_of_the_input_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"input": {"text": "a"}, "label": "ab"[i % 2]}) + "\n" for i in range(9)))
    with pytest.raises(DataError, match=r"no column can be the input beside 'label' .'input' holds .*: it is an object"):
        draft_task(file)
    titled = write_csv(tmp_path / "titled.csv", ["My report", ""], [[f"some text {i}", "ab"[i % 2]] for i in range(9)])
    with pytest.raises(ConfigError, match=r"titled\.csv: no template can name ''; let the first row name each"):
        draft_task(titled)


def test_passages_that_are_a_list_of_texts_are_drafted_as_an_input(tmp_path: Path) -> None:
    rows = [{"question": f"who is {n}", "passages": [f"{n} is", f"red {n}"], "answer": f"it is {n}"} for n in range(20)]
    assert "{passages}" in drafted(table(tmp_path, rows)).input
