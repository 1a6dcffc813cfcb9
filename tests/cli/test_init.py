"""The command init: what it writes trains as it stands, what it decided is told, and what training refuses it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from softprompt.tasks.config.config import read_config
from softprompt.tasks.task import Task
from tests.commands import Run
from tests.spellings import base as base_of_kind
from tests.tasks.draft.test_draft import write_table

SENTENCES = [f"the {'red blue green'.split()[n % 3]} ship {n}" for n in range(40)]


def rows_of(**columns: list[Any]) -> list[dict[str, Any]]:
    return [{name: values[n % len(values)] for name, values in columns.items()} for n in range(40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("kind", "labels", "options"),
    [
        (";", ["yes", "no", "null"], []),
        ("bom", ["1e3", "2020-01-01"], []),
        (".tsv", ["Yes", "yes ", "no"], ["--fold-labels"]),
        (".json", [True, False], []),
        (".jsonl", [0, 1], ["--word", "0=no", "--word", "1=yes"]),
        (".jsonl.gz", [0.5, 1.5, 1], []),
        (".parquet", ["a", "b"], []),
        (".xlsx", [1, 2], []),
        (".csv", [f"answer {n}" for n in range(40)], ["--label", "my answer"]),
    ],
)
def test_what_init_writes_trains_as_it_stands(
    run: Run, folder: Path, base_folder: Path, kind: str, labels: list[Any], options: list[str]
) -> None:
    columns: dict[str, list[Any]] = {"id": list(range(40)), "some text": SENTENCES, "more": SENTENCES[::-1]}
    rows = rows_of(**columns, **{"my answer": labels})
    table = write_table(folder, rows, kind)
    (told,) = run("init", table, *options, "--json").rows
    assert (told["text"], told["label"], told["rows"]) == (["some text", "more"], "my answer", 40)
    quick = ["max_steps=1", "num_virtual_tokens=2", f"base={base_folder}"]
    (row,) = run("train", told["file"], *(word for one in quick for word in ("--set", one)), "--json").rows
    assert row["train_rows"] + row["validation_rows"] + row["test_rows"] == 40


def test_what_was_decided_reads_well_in_80_columns(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    kinds = ["Yes", "no", "yes ", "NO"]
    rows = rows_of(number=list(range(40)), title=SENTENCES, body=SENTENCES[::-1], stars=[1, 2, 3], kind=kinds)
    rows.append(rows[0] | {"title": "", "body": " "})
    done = run("init", write_table(folder, rows, ";"))
    assert done.code == 0
    lines = done.err.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    told = " ".join(" ".join(lines).split())
    for part in (
        "read 41 rows of ",
        "semicolons divide them",
        "input title: by its name input body: by its name",
        "answer kind: by its 4 values the answers are labels: 4 different ones in 41 rows: 'Yes' (11), 'NO' (10)",
        "left number: is nearly another in each row, as ids are left stars: holds numbers",
        "note my rows.csv: 1 row of 41 left out: nothing in 'title' and 'body'",
        "are rivals: 'NO' (10), 'no' (10); 'Yes' (10), 'yes ' (10); `fold_labels: true`, with one of each in `labels`",
    ):
        assert part in told


def test_an_id_given_as_the_text_is_told(run: Run, folder: Path) -> None:
    rows = rows_of(id=[f"T-{at}" for at in range(60)], body=SENTENCES, label=["x", "y"])
    table = write_table(folder, rows, ".csv")
    said = {column: " ".join(run("init", table, "--text", column, "--force").err.split()) for column in ("id", "body")}
    assert "the input 'id' is nearly another in each row, as ids are, and an id says nothing of an answer" in said["id"]
    assert "says nothing of an answer" not in said["body"]


def test_wrong_options_are_told(run: Run, folder: Path) -> None:
    table = write_table(folder, rows_of(text=SENTENCES, label=["x", "y"]), ".csv")
    for options, message in (
        (["--text", "txt"], "has no column 'txt'; did you mean 'text'?"),
        (["--text", "text", "--text", "text"], "given twice"),
        (["--text", "text", "--label", "text"], "an answer cannot be its own input"),
        (["--word", "x"], "--word 'x' has no word for a label"),
        (["--word", "x= "], "--word 'x= ' has no word"),
        (["--word", "x=a", "--word", "x=b"], "or is the second for it"),
        (["--word", "z=a"], "no row has the answer 'z'"),
    ):
        assert message in run("init", table, *options).refused()
        assert not list(folder.glob("*.yaml"))


def test_what_is_wrong_with_rows_is_told_before_training(run: Run, folder: Path, base_folder: Path) -> None:
    rows = rows_of(id=list(range(40)), text=[f"text {n}" for n in range(20)], label=["a", "b"])
    rows += [{"text": "text 1", "label": "A"}, {"text": " ", "label": "a"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"base": str(base_folder), "data": "rows.jsonl", "num_virtual_tokens": 5, "max_steps": 1}
    (folder / "mine.yaml").write_text(json.dumps(fields | {"labels": ["a", "b", "A", "c"]}))
    done = run("train", folder / "mine.yaml", "--json")
    assert len(done.rows) == 1
    for part in (
        "warning: mine: rows.jsonl: 1 row of 42 left out: nothing in 'text'",
        "warning: mine: rows.jsonl: 20 rows of 41 repeat the input and the answer of another",
        "warning: mine: rows.jsonl: 1 input with different answers, in 3 rows, such as 'text 1': 'b' (2), 'A' (1)",
        "are rivals: 'a' (20), 'A' (1)",
        "warning: mine: no row has the label 'c'",
    ):
        assert part in done.err
    (folder / "mine.yaml").write_text(json.dumps(fields | {"labels": ["a", "b"]}))
    refused = run("train", folder / "mine.yaml").refused()
    assert "rows.jsonl, line 41: the label 'A' is not among `labels` (a, b); `fold_labels: true` takes it for 'a'" in refused


def test_answers_that_cannot_be_predicted_are_told_before_training(run: Run, folder: Path, base_folder: Path) -> None:
    rows = [{"text": f"text {n}", "answer": "red stone " * (1 + 5 * (n % 2))} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"base": str(base_folder), "data": "rows.jsonl", "target": " {answer}", "num_virtual_tokens": 5, "max_steps": 1}
    (folder / "mine.yaml").write_text(json.dumps(fields | {"max_new_tokens": 6}))
    done = run("train", folder / "mine.yaml", "--json")
    (row,) = done.rows
    assert (
        "answers are cut to max_new_tokens (6), so that no prediction can equal them, the first of them rows.jsonl, line "
        in done.err
    )
    assert "cut to fit the context" not in done.err
    assert (row["truncated"], row["answers_cut"]) == (0, 20)


def with_template(folder: Path, base: Path, template: str) -> Path:
    """A copy of a base with a chat template."""
    made = shutil.copytree(base, folder / "chatty")
    (made / "chat_template.jinja").write_text(template)
    return made


TEMPLATE = (
    "{% for m in messages %}<end>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<end>says:{% endif %}"
)


@pytest.mark.parametrize("labels", [["yes", "no"], [f"answer {n}" for n in range(40)]])
def test_an_input_in_the_chat_template_of_the_base_trains_as_it_stands(
    run: Run, folder: Path, base_folder: Path, labels: list[str]
) -> None:
    base = with_template(folder, base_folder, TEMPLATE)
    table = write_table(folder, rows_of(text=SENTENCES, answer=labels), ".csv")
    (told,) = run("init", table, "--base", "chatty", "--chat", "--json").rows  # which lies beside the table
    written = yaml.safe_load(Path(told["file"]).read_text())
    assert written["base"] == "chatty"
    assert written["input"] == "<end>user: {text}\n<end>says:"
    assert written["target"] == " {answer}"  # the tokenizer's own end is put behind answers without a word of it
    quick = ["max_steps=1", "num_virtual_tokens=2"]
    (row,) = run("train", told["file"], *(word for one in quick for word in ("--set", one)), "--json").rows
    assert row["train_rows"] + row["validation_rows"] + row["test_rows"] == 40
    (told,) = run("init", table, "--base", base, "--force", "--json").rows
    written = yaml.safe_load(Path(told["file"]).read_text())
    assert (written["input"], written["base"]) == ("{text}\nAnswer:", str(base))
    assert told["notes"][0] == f"{base} has a chat template; --chat words the input in it"


@pytest.mark.parametrize(("kind", "begins"), [("llama_2", "<s>"), ("byte_level", "")])
def test_a_plain_input_begins_as_texts_of_the_base_do(run: Run, folder: Path, kind: str, begins: str) -> None:
    base = base_of_kind(kind)
    for part in (base.model, base.tokenizer):
        part.save_pretrained(folder / "begun")
    table = write_table(folder, rows_of(text=SENTENCES, answer=["yes", "no"]), ".csv")
    (told,) = run("init", table, "--base", folder / "begun", "--json").rows
    assert yaml.safe_load(Path(told["file"]).read_text())["input"] == begins + "{text}\nAnswer:"
    done = run("train", told["file"], "--set", "max_steps=1", "--set", "num_virtual_tokens=2", "--json")
    assert done.rows
    assert "would begin texts with" not in done.err


def test_a_chat_template_that_cannot_be_used_is_refused_where_it_is_asked_for(
    run: Run, folder: Path, base_folder: Path
) -> None:
    table = write_table(folder, rows_of(text=SENTENCES, label=["yes", "no"]), ".csv")
    base = with_template(folder, base_folder, "{{ raise_exception('a system message is needed') }}")
    told = run("init", table, "--base", base, "--chat").refused()
    assert "it refuses a single message of the user: a system message is needed; write `input` without it" in told
    assert told.strip().endswith("leave --chat out")
    assert "has no chat template; leave --chat out" in run("init", table, "--base", base_folder, "--chat").refused()
    assert "builtin/tiny has no chat template" in run("init", table, "--chat").refused()
    assert "no folder './nowhere'" in run("init", table, "--base", "./nowhere").refused()
    assert not list(folder.glob("*.yaml"))
    (told,) = run("init", table, "--base", base_folder, "--json").rows
    assert not any("template" in note for note in told["notes"])
    adapter = ["--base-adapter", "lora", "--trust-remote-code"]
    assert "no LoRA adapter in 'lora'" in run("init", table, *adapter, "--force").refused()
    (folder / "lora").mkdir()  # beside the table, where the task file will look
    (folder / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "lora" / "adapter_model.safetensors").touch()
    (told,) = run("init", table, *adapter, "--force", "--json").rows
    keys = {"base": "builtin/tiny", "base_adapter": "lora", "trust_remote_code": True}
    assert yaml.safe_load(Path(told["file"]).read_text()).items() >= keys.items()


def test_a_path_that_means_another_base_beside_the_table_is_refused(
    run: Run, folder: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(folder, rows_of(text=SENTENCES, label=["yes", "no"]), ".csv")
    here = folder.parent / "here"
    shutil.copytree(base_folder, here / "base")
    monkeypatch.chdir(here)
    assert run("init", table, "--base", "base", "--json").rows  # here alone
    shutil.copytree(base_folder, folder / "base")
    refused = run("init", table, "--base", "base", "--force").refused()
    assert f"'base' is here, and another is '{folder / 'base'}', where the task file will look" in refused
    for whole in (here / "base", folder / "base"):
        assert run("init", table, "--base", whole, "--force", "--json").rows
    monkeypatch.chdir(folder)  # where both are one
    assert run("init", table, "--base", "base", "--force", "--json").rows


@pytest.mark.parametrize(
    ("column", "answers", "problem_type", "labels", "told"),
    [
        ("tags", [["a"], ["b", "a"], [], ["c"]], "multi_label_classification", ("a", "b", "c"), "as the rows have lists"),
        ("label", ["a", "b; a", "c", "b"], "multi_label_classification", ("a", "b", "c"), "divided by ';'"),
        ("label", ["a", "b|a", "c", "b"], "multi_label_classification", ("a", "b", "c"), "divided by '|'"),
        ("rating", [1, 5, 3, 2], "regression", ("1", "2", "3", "5"), "by the name of 'rating'"),
        ("label", [1.5, 10, 3, 2], "regression", ("1.5", "2", "3", "10"), "as some are no whole numbers"),
        ("price", [n + 0.25 for n in range(60)], "regression", None, "numbers: 60 different ones"),
        ("label", ["a, with b", "c, with d", "e", "f"], None, ("a, with b", "c, with d", "e", "f"), "labels: 4"),
        ("label", ["01234", "00001", "09", "007"], None, ("007", "01234", "00001", "09"), "labels: 4"),
        ("label", [0, 1, 2, 3], None, ("0", "1", "2", "3"), "--problem-type regression judges answers by their error"),
        ("label", ["a"] * 40 + ["b"], None, ("a", "b"), "class_weights: balanced"),
    ],
)
def test_init_proposes_the_kind_of_answers_that_the_rows_show(
    run: Run, tmp_path: Path, column: str, answers: list[Any], problem_type: str | None, labels: Any, told: str
) -> None:
    texts = [f"a text of several words, number {n}" for n in range(len(answers) * -(-82 // len(answers)))]
    rows = [{"text": text, column: answers[n % len(answers)]} for n, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--label", column] if column == "price" else []
    done = run("init", tmp_path / "rows.jsonl", *options)
    assert done.code == 0, done.err
    config = read_config(tmp_path / "rows.yaml")
    assert config.problem_type == problem_type
    assert set(config.labels or ()) == set(labels or ())
    if problem_type == "regression" and labels:
        assert config.labels == labels  # in their order
    assert told in " ".join(done.err.split())
    task = Task.load(tmp_path / "rows.yaml")
    assert len(task.train) > 40  # it reads its own rows


def test_init_takes_the_kind_of_answers_that_is_asked_for_or_says_why_not(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"some text, number {n}", "label": n % 4}) + "\n" for n in range(60)))
    assert run("init", file, "--problem-type", "regression").code == 0
    assert read_config(tmp_path / "rows.yaml").problem_type == "regression"
    assert "did you mean 'regression'?" in run("init", file, "--force", "--problem-type", "regresion").refused()
    file.write_text("".join(json.dumps({"text": f"some text, number {n}", "label": f"{n}x"}) + "\n" for n in range(60)))
    assert "row 1: the answer '0x' is no number" in run("init", file, "--force", "--problem-type", "regression").refused()
    refused = run("init", file, "--force", "--problem-type", "multi_label_classification").refused()
    assert "the answers are no sets of labels" in refused
