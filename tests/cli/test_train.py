"""The commands train, predict, evaluate and base: JSON alone on stdout, one line for an error, and nothing half-done."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.cli.options import read_pairs
from softprompt.cli.train import duration
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.listing import Filters
from tests.commands import Done, Run
from tests.models import some_prompt

TRAIN_FIELDS = [
    "task", "version", "digest", "metric", "value", "stderr", "rows", "majority", "majority_stderr", "zero_shot",
    "zero_shot_stderr", "untrained", "untrained_stderr", "validation", "validation_stderr", "baseline_rows",
    "value_on_baseline_rows", "learnt", "steps", "best_step", "seconds", "prompt_bytes", "trainable", "frozen",
    "total", "truncated", "answers_cut", "unfinished", "train_rows", "validation_rows", "test_rows", "folds",
    "moved", "live", "production", "warnings",
]  # fmt: skip


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no path is folded."""
    monkeypatch.setenv("COLUMNS", "160")


def task_file(folder: Path, base_folder: Path, name: str = "mine", **fields: Any) -> Path:
    import yaml

    rows = [{"text": f"{word} {n}", "label": label} for n in range(20) for word, label in (("red", "yes"), ("blue", "no"))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {
        "base": str(base_folder), "data": "rows.jsonl", "labels": ["yes", "no"], "num_virtual_tokens": 6, "max_steps": 3,
        "learning_rate": 0.1,
    }  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(known | fields))
    return file


def contents(home: Path) -> tuple[list[tuple[str, int]], set[str]]:
    """Versions of the library and the names of its blobs."""
    with Library.open(home) as library:
        versions = [
            (v.task, v.number)
            for e in library.registry.tasks(Filters(every=True))
            for v in library.registry.versions(e.task)
        ]
        assert not library.verify().problems
    return sorted(set(versions)), {file.name for file in (home / "blobs").rglob("*") if file.is_file()}


def test_train_prints_a_row_for_each_task_and_publishes_it(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    files = [task_file(tmp_path, base_folder, "one"), task_file(tmp_path, base_folder, "two", num_virtual_tokens=9)]
    done = run("train", *files, "--json")
    assert done.code == 0
    assert [list(row) for row in done.rows] == [TRAIN_FIELDS] * 2
    one, two = done.rows
    assert (one["task"], one["version"], two["task"], two["version"]) == ("one", 1, "two", 1)
    assert (one["metric"], one["trainable"], two["trainable"]) == ("accuracy", 6 * 32, 9 * 32)
    assert one["total"] - one["trainable"] == one["frozen"] == FrozenBase.load(str(base_folder)).params
    assert (one["rows"], one["steps"], one["live"], one["production"]) == (one["test_rows"], 3, None, None)
    for name in ("value", "majority", "zero_shot", "untrained"):
        error = one["stderr" if name == "value" else f"{name}_stderr"]
        assert error == pytest.approx(math.sqrt(one[name] * (1 - one[name]) / one["rows"]))
    versions, blobs = contents(home)
    assert versions == [("one", 1), ("two", 1)]
    assert blobs == {one["digest"], two["digest"]}
    assert (home / "blobs").exists()
    (blob,) = (home / "blobs").rglob(one["digest"])
    assert blob.stat().st_size == one["prompt_bytes"]
    assert SoftPrompt.from_bytes(blob.read_bytes()).card.base == "tiny-llama"
    # Progress and notes go to stderr.
    for stage in ("read: 100%", "baselines: 100%", "train: 100%", "test: 100%"):
        assert stage in done.err
    assert "context: 6 virtual + up to" in done.err
    # Every training publishes a new version, the same digest or not.
    again = run("train", *files, "--json").rows
    assert [(row["version"], row["digest"]) for row in again] == [(2, one["digest"]), (2, two["digest"])]


def test_train_shows_people_a_table(run: Run, tmp_path: Path, base_folder: Path) -> None:
    done = run("train", task_file(tmp_path, base_folder))
    assert done.code == 0
    for word in ("mine", "accuracy", "majority", "zero_shot", "untrained", "192 numbers", "frozen", " ±0.", "rows 4"):
        assert word in " ".join(done.out.split())


def test_train_says_where_baselines_are_of_some_of_the_test_rows(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file = task_file(tmp_path, base_folder)
    done = run("train", file, "--set", "max_baseline_samples=2")
    assert done.code == 0
    assert re.search(r"mine@1: baselines are of 2 of its 4 test rows, where it has accuracy \d\.\d{3}\n", done.out)
    (row,) = run("train", file, "--set", "max_baseline_samples=2", "--json").rows
    assert (row["rows"], row["baseline_rows"]) == (4, 2)
    assert "baselines are of" not in run("train", file).out
    assert "max_baseline_samples: input should be greater than or equal to 1; the file says 0" in (
        run("train", file, "--set", "max_baseline_samples=0").err
    )


def test_a_plan_tells_what_a_training_takes_and_makes_nothing(
    run: Run, tmp_path: Path, base_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    files = [task_file(tmp_path, base_folder, name) for name in ("one", "a-task-of-quite-a-long-name")]
    there = set(tmp_path.rglob("*"))
    done = run("train", *files, "--plan")
    assert done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "2 prompts on tiny-llama (float32, cpu): about " in done.out
    assert "nothing was trained" in " ".join(done.out.split())
    for word in ("task", "steps", "rows", "tokens", "train", "validate", "baselines", "test", "total"):
        assert sum(word in line.split() for line in lines) == 1, word
    for note in ("3 steps of 36 rows", "measure: 100%"):
        assert note in done.err
    rows = run("train", *files, "--plan", "--json", "--set", "max_steps=70").rows
    assert [(row["task"], row["steps"], row["rows_per_step"]) for row in rows] == [
        ("one", 70, 36), ("a-task-of-quite-a-long-name", 70, 36),
    ]  # fmt: skip
    assert set(tmp_path.rglob("*")) == there
    assert not home.exists()
    assert "leave --report-to out" in run("train", *files, "--plan", "--report-to", "mlflow").err
    refused = run("train", *files, "--plan", "--set", "prompt_tuning_init_prompt=other").refused()
    assert "there is no library in" in refused
    assert not home.exists()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (119, "119 s"), (120, "2.0 min"), (5000, "83 min"), (7200, "2.0 h")],
)
def test_times_are_told_in_their_own_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def publish_scored(library: Library, like: str, value: float, test: str | None = None) -> None:
    """A version like another one, with another score, of its test rows or others."""
    prompt = SoftPrompt.from_bytes(library.read(like))
    recipe = prompt.card.recipe | ({} if test is None else {"test_digest": test})
    card = prompt.card.model_copy(update={"metrics": prompt.card.metrics | {"value": value}, "recipe": recipe})
    library.publish(SoftPrompt(prompt.vectors_PD, card).to_bytes(), base=library.registry.resolve(like).base)


def test_train_sets_a_new_version_beside_the_live_one_and_production(
    run: Run, tmp_path: Path, base_folder: Path, home: Path
) -> None:
    file = task_file(tmp_path, base_folder)
    (first,) = run("train", file, "--json").rows
    with Library.open(home) as library:
        publish_scored(library, "mine@1", 1.5)
    (row,) = run("train", file, "--json").rows
    assert (row["version"], row["value"], row["production"]) == (3, first["value"], None)
    live = {key: row["live"][key] for key in ("version", "value", "rows", "same_rows", "worse")}
    assert live == {"version": 2, "value": 1.5, "rows": row["rows"], "same_rows": True, "worse": True}
    (told,) = [remark for remark in row["warnings"] if "version 2, which was live" in remark]
    assert told.endswith("; 'mine' alone means this one now, until `softprompt promote mine@2`")
    done = run("train", file)
    assert f"live until now: mine@3, {row['value']:.3f} ±{row['stderr']:.3f} on 4 rows; mine@4 is as good" in done.out
    # With an alias in place the bare name stays where it was.
    run("promote", "mine@2", "--force", "--reason", "a test")
    (row,) = run("train", file, "--json").rows
    assert (row["live"]["version"], row["production"]) == (2, row["live"])
    assert not any("alone means" in remark for remark in row["warnings"])
    done = run("train", file)
    assert "production: mine@2, 1.500" in done.out
    assert "live until now" not in done.out


def test_scores_of_other_rows_are_not_compared(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = task_file(tmp_path, base_folder)
    run("train", file, "--json")
    with Library.open(home) as library:
        publish_scored(library, "mine@1", 0.0, "0" * 64)
    (row,) = run("train", file, "--json").rows
    assert (row["live"]["same_rows"], row["live"]["worse"]) == (False, False)
    assert any("not comparable: 4 rows here, 4 other ones there" in remark for remark in row["warnings"])
    (move,) = run("promote", "mine@2", "--json").rows
    (move,) = run("promote", "mine@3", "--json").rows
    assert (move["before"], move["after"], move["same_rows"]) == (2, 3, False)
    assert move["decision"].startswith("promoted: not comparable: 4 rows here, 4 other ones there")
    with Library.open(home) as library:
        publish_scored(library, "mine@1", 1.5, "1" * 64)  # which has learnt
    run("promote", "mine@4")
    told = run("promote", "mine@3").refused()
    assert "where a baseline is as good; the version there now has learnt (accuracy 1.5000 on 4 other rows)" in told


def test_a_run_that_generates_has_its_cut_answers_told_apart_from_cut_inputs(
    run: Run, tmp_path: Path, base_folder: Path
) -> None:
    file = task_file(tmp_path, base_folder, labels=None, max_new_tokens=1)
    done = run("train", file, "--json")
    (row,) = done.rows
    assert (row["truncated"], row["answers_cut"], row["unfinished"]) == (0, 40, row["rows"])
    assert "warning: mine: 36 of 36 answers are cut to max_new_tokens (1), so that no prediction can equal them" in done.err
    assert "cut to fit the context" not in done.err
    assert f"{row['rows']} of {row['rows']} answers ran into max_new_tokens (1) before their end" in " ".join(
        row["warnings"]
    )


def test_warnings_go_to_stderr(run: Run, tmp_path: Path, base_folder: Path) -> None:
    done = run("train", task_file(tmp_path, base_folder, num_virtual_tokens=2, learning_rate=1e-7), "--json")
    assert len(done.rows) == 1
    assert "warning: mine: a prompt of 2 virtual tokens has little capacity" in done.err
    assert "warning: mine: the prompt has barely moved" in done.err


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_virtual_token": 3}, "unknown key 'num_virtual_token'; did you mean 'num_virtual_tokens'?"),
        ({"num_virtual_tokens": "many"}, "num_virtual_tokens"),
        ({"data": "none.csv"}, "no data file 'none.csv'"),
        ({"input": "{txt}"}, "has no field 'txt', which the template needs"),
        ({"labels": ["yes", "nein"]}, "the label 'no' is not among `labels` (yes, nein)"),
        ({"num_virtual_tokens": 96}, "96 virtual tokens and 1 output token leave no room for an input"),
        ({"base": "/no/such/folder"}, "no folder '/no/such/folder'"),
        ({"base": "google/flan-t5-large", "task_type": "CAUSAL_LM"}, "SEQ_2_SEQ_LM, not CAUSAL_LM"),
        ({"prompt_tuning_init_prompt": "other"}, "no task 'other'"),
        ({"task": "bad/name"}, "task 'bad/name' is refused"),
    ],
)
def test_a_wrong_task_is_one_line_of_error_and_nothing_is_published(
    run: Run, tmp_path: Path, base_folder: Path, home: Path, fields: dict[str, Any], expected: str
) -> None:
    good = task_file(tmp_path, base_folder, "good")
    wrong = task_file(tmp_path, base_folder, **fields)
    files = [wrong] if "base" in fields else [good, wrong]
    reply = run("train", *files, "--json").refused()
    assert run("train", *files, "--plan").refused() == reply
    assert expected in reply
    assert contents(home) == ([], set())


def test_wrong_usage_is_told(run: Run, tmp_path: Path, base_folder: Path) -> None:
    assert "cannot be read" in run("train", tmp_path / "none.yaml").refused()
    file = task_file(tmp_path, base_folder)
    assert "dtype 'float99' is unknown" in run("train", file, "--dtype", "float99").refused()
    assert "device 'toaster' is unknown" in run("train", file, "--device", "toaster").refused()
    done = run("train")
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_bug_is_told_as_one_and_with_a_traceback_only_if_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(Library, "open", broken)
    reply = run("predict", "mine", "red").refused(code=70)
    assert "this is a bug in softprompt: ZeroDivisionError: of all things" in reply
    monkeypatch.setenv("SOFTPROMPT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("predict", "mine", "red")


def test_signals_are_given_back_after_a_training(run: Run, tmp_path: Path, base_folder: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run("train", task_file(tmp_path, base_folder), "--json")
    run("train", tmp_path / "none.yaml", "--json")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_rows_are_printed_does_not_say_that_nothing_was_published(
    run: Run, tmp_path: Path, base_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    import softprompt.cli.train

    def late(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    def gone(*_: Any) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, gone), signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(softprompt.cli.train, "emit", late)
    try:
        done = run("train", task_file(tmp_path, base_folder), "--json")
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])  # which a shell sets to be ignored in the background
    assert done.code == 128 + number
    assert "nothing was published" not in done.err
    assert contents(home)[0] == [("mine", 1)]


def test_keys_of_task_files_are_set_for_once(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = task_file(tmp_path, base_folder)
    (row,) = run("train", file, "--set", "max_steps=2", "--set", 'input="{text}: is"', "--json").rows
    with Library.open(home) as library:
        card = library.registry.resolve(f"{row['task']}@1").card
        origin = library.registry.origin(f"{row['task']}@1")
    assert card.recipe["max_steps"] == card.recipe["steps"] == 2
    assert card.input == "{text}: is"
    assert origin is not None
    assert origin.task_file["max_steps"] == 2
    assert "sets nothing; write --set KEY=VALUE" in run("train", file, "--set", "max_steps").refused()
    as_option = run("train", file, "--max-steps", "2")
    assert as_option.code == 2
    assert "a key of task files: --set max_steps=VALUE" in " ".join(as_option.err.replace("\u2502", "").split())
    assert "unknown key 'max_step'; did you mean 'max_steps'?" in run("train", file, "--set", "max_step=1").refused()
    assert "'seed' is given twice; leave one out" in run("train", file, "--set", "seed=1", "--set", "seed=2").refused()
    assert "cannot be read" in run("train", file, "--set", "input={a: b: c").refused()


# init, sweep


def test_labels_of_an_option_are_the_words_that_are_written() -> None:
    assert read_pairs(["labels=[yes, no, 01]", "seed=01"], "") == {"labels": ["yes", "no", "01"], "seed": 1}
    assert read_pairs(["labels=[yes, no],[on, 1]"], "", many=True) == {"labels": [["yes", "no"], ["on", "1"]]}
    assert read_pairs(["gradient_checkpointing=yes"], "") == {"gradient_checkpointing": True}


def test_init_writes_a_task_file_that_trains_as_it_stands(run: Run, tmp_path: Path, home: Path) -> None:
    table = tmp_path / "my table.csv"
    table.write_text("text,label\n" + "".join(f"red {n},{'yes' if n % 2 else 'no'}\n" for n in range(40)))
    done = run("init", table)
    assert done.code == 0
    file = tmp_path / "my table.yaml"
    assert file.read_text() == done.out
    assert f"next: softprompt train '{file}'" in done.err
    file.write_text(done.out + "max_steps: 1\n")
    (row,) = run("train", file, "--json").rows
    assert (row["task"], row["version"]) == ("my-table", 1)
    assert "is there already" in run("init", table, "--json").refused()
    (row,) = run("init", table, "--force", "--json").rows
    assert row["file"] == str(file)
    assert file.read_text() == done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "my table.csv", "my table.yaml"]


def test_init_tells_what_it_cannot_read_or_write(run: Run, tmp_path: Path) -> None:
    for folder in (".", "/", tmp_path):
        assert "is a folder; name a file of rows in it" in run("init", folder).refused()
    assert "No such file" in run("init", tmp_path / "none.csv").refused()
    table = tmp_path / "t.csv"
    table.write_text("text,label\nred,yes\nblue,\n")
    assert "is empty in 1 of 2 rows" in run("init", table).refused()
    table.write_text("text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(5)))
    (tmp_path / "t.yaml").mkdir()
    assert "t.yaml': Is a directory; mend that" in run("init", table, "--force").refused()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.yaml"]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["seed"], "'seed' is no choice; write KEY=V1,V2"),
        (["seed="], "'seed=' is no choice"),
        (["seed=1", "seed=2"], "'seed' is given twice"),
        (["input={text"], "the values of 'input={text' cannot be read"),
        (["task=2024-13-13"], "the values of 'task=2024-13-13' cannot be read"),
        (["sead=1,2"], "unknown key 'sead'; did you mean 'seed'?"),
        (["learning_rate=0.1,fast"], "learning_rate"),
        (["input=,"], "input"),
    ],
)
def test_choices_of_a_sweep_that_cannot_be_read_are_told(
    run: Run, tmp_path: Path, base_folder: Path, choices: list[str], expected: str
) -> None:
    assert expected in run("sweep", task_file(tmp_path, base_folder), *choices, "--json").refused()


def test_a_sweep_whose_picture_cannot_be_written_still_prints_its_row(
    run: Run, tmp_path: Path, base_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("softprompt.training.sweep.write_page", full)
    file = task_file(tmp_path, base_folder)
    texts = 'input="Say: {text}","{text}, then:"'
    done = run("sweep", file, texts, "--plot", tmp_path / "curves.html", "--json")
    (row,) = done.rows
    assert contents(home)[0] == [("mine", row["version"])]
    assert "best 0.000" not in done.err
    assert "warning: the curves cannot be written to" in done.err


def test_a_sweep_shows_what_the_scores_rest_on_and_the_baselines(
    run: Run, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("sweep", task_file(tmp_path, base_folder), "learning_rate=0.03,0.1")
    assert done.code == 0
    candidates, published = done.out.split("Published mine@1")
    assert {"learning_rate", "steps", "validation", "rows", "dropped"} <= set(candidates.split())
    assert candidates.count("±") == 2
    for word in ("value", "rows", "majority", "zero_shot", "untrained"):
        assert word in published
    assert published.count("±") == 5


# predict, evaluate, base


@pytest.fixture
def filled(home: Path, base_folder: Path) -> Library:
    base = FrozenBase.load(str(base_folder))
    library = Library.open(home)
    for prompt in (
        some_prompt(base, "kind", seed=1, labels=("yes", "no", "the river")),
        some_prompt(base, "kind", seed=2, labels=("yes", "no", "the river")),
        some_prompt(base, "tell", seed=3, metric="exact_match", max_new_tokens=4),
    ):
        library.publish(prompt.to_bytes(), base=base.address)
    return library


@pytest.mark.usefixtures("filled")
def test_predict_prints_the_fields_of_its_contract(run: Run) -> None:
    done = run("predict", "kind", "red", "blue apple", "--dtype", "float32", "--json")
    assert done.code == 0
    assert [list(row) for row in done.rows] == [["task", "version", "text", "output", "scores"]] * 2
    for row, text in zip(done.rows, ("red", "blue apple"), strict=True):
        assert (row["task"], row["version"], row["text"]) == ("kind", 2, text)
        assert list(row["scores"]) == ["yes", "no", "the river"]
        assert sum(row["scores"].values()) == pytest.approx(1)
        assert row["output"] == max(row["scores"], key=row["scores"].get)
    (one,) = run("predict", "kind@1", "red", "--json").rows
    assert (one["version"], one["text"]) == (1, "red")
    assert one["scores"] != done.rows[0]["scores"]
    (answer,) = run("predict", "tell", "red", "--json").rows
    assert answer["scores"] is None
    assert isinstance(answer["output"], str)


def test_with_batch_invariant_commands_answer_to_the_last_bit(run: Run, tmp_path: Path, base_folder: Path) -> None:
    files = [task_file(tmp_path, base_folder, name, task=name, seed=seed) for seed, name in enumerate(("one", "two"))]
    how = ("--batch-invariant", "--dtype", "bfloat16", "--json")
    together = run("train", *files, *how).rows
    (alone,) = run("train", files[1], *how).rows
    assert together[1]["digest"] == alone["digest"]
    both = run("predict", "two", "red 3", "a much longer text of blue things", *how).rows
    assert run("predict", "two", "red 3", *how).rows == both[:1]
    done = run("train", files[0], *how)
    assert "; in bfloat16" in done.err


@pytest.mark.usefixtures("filled")
def test_predict_reads_lines_of_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run("predict", "kind", "red", "the blue ünïcödé", "--json").out
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\nthe blue ünïcödé\n"))
    assert run("predict", "kind", "--json").out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = run("predict", "kind", "--json")
    assert (done.code, done.out) == (0, "")


@pytest.mark.usefixtures("filled")
def test_predict_shows_people_a_table_and_warns_of_cut_inputs(run: Run) -> None:
    done = run("predict", "kind", "red", "blue " * 300)
    assert done.code == 0
    assert "kind@2" in done.out
    assert "score" in done.out
    assert "warning: 1 of 2 inputs were cut to fit the context" in done.err


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kinds", "red"], "no task 'kinds' for tenant 'default'; `softprompt list` shows all; did you mean 'kind'?"),
        (["kind@7", "red"], "no version 7"),
        (["kind@canary", "red"], "canary"),
        (["kind", "half \udcff"], "an input for task 'kind' is not valid Unicode text"),
        (["../kind", "red"], "is refused"),
    ],
)
def test_predict_tells_what_is_wrong(run: Run, arguments: list[str], expected: str) -> None:
    assert expected in run("predict", *arguments, "--json").refused()


@pytest.mark.usefixtures("filled")
def test_predict_tells_of_bytes_that_are_no_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"red\ncaf\xe9\n"), encoding="utf-8"))
    assert "stdin is not UTF-8 text" in run("predict", "kind", "--json").refused()


def test_another_base_is_refused_by_name_and_fingerprint(run: Run, filled: Library, other_folder: Path) -> None:
    filled.publish(filled.read("kind@1"), base=str(other_folder))
    reply = run("predict", "kind@3", "red", "--json").refused()
    for part in (
        "tiny-llama",
        "other-llama",
        FrozenBase.load(str(other_folder)).fingerprint,
        filled.registry.resolve("kind@1").fingerprint,
    ):
        assert part in reply


@pytest.mark.usefixtures("filled")
def test_evaluate_judges_files_and_rows(run: Run, tmp_path: Path, base_folder: Path) -> None:
    (tmp_path / "own.csv").write_text("text,label\nred,yes\nblue,no\ngreen,the river\n")
    (row,) = run("evaluate", "kind@1", "--data", tmp_path / "own.csv", "--json").rows
    assert list(row) == [
        *("task", "version", "digest", "metric", "value", "stderr", "rows", "loss", "truncated", "unfinished"),
        "blank",
    ]
    assert row["stderr"] == pytest.approx(math.sqrt(row["value"] * (1 - row["value"]) / 3))
    assert (row["task"], row["version"], row["metric"], row["rows"]) == ("kind", 1, "accuracy", 3)
    answers = [one["output"] for one in run("predict", "kind@1", "red", "blue", "green", "--json").rows]
    assert row["value"] == sum(a == b for a, b in zip(answers, ("yes", "no", "the river"), strict=True)) / 3
    file = task_file(tmp_path, base_folder, "kind")
    (newest,) = run("evaluate", file, "--json").rows
    (first,) = run("evaluate", file, "--version", "1", "--json").rows
    assert (newest["version"], first["version"]) == (2, 1)
    (answer,) = run("evaluate", "tell", "--data", tmp_path / "own.csv", "--json").rows
    assert answer["loss"] > 0
    table = run("evaluate", file)
    assert "Evaluation" in table.out
    assert "no task file (.yaml)" in run("evaluate", "kind", "--json").refused()


def test_base_show_describes_a_folder(run: Run, base_folder: Path) -> None:
    (row,) = run("base", "show", base_folder, "--json").rows
    base = FrozenBase.load(str(base_folder))
    assert {"path", "fingerprint", "params", "dtype", "context"} <= set(row)
    assert (row["fingerprint"], row["params"], row["context"], row["dtype"]) == (
        base.fingerprint,
        base.params,
        96,
        "float32",
    )
    import transformers

    transformers.AutoModelForCausalLM.from_pretrained(row["path"])
    transformers.AutoTokenizer.from_pretrained(row["path"])
    assert "no folder '/no/such/folder'" in run("base", "show", "/no/such/folder", "--json").refused()


# Real processes


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "SOFTPROMPT_HOME": str(home), **more}


def test_another_process_makes_the_same_prompt(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file = task_file(tmp_path, base_folder)
    (here,) = run("train", file, "--json").rows
    command = [str(Path(sys.executable).parent / "softprompt"), "train", str(file), "--json"]
    there = subprocess.run(
        command, env=environment(tmp_path / "elsewhere", PYTHONHASHSEED="5"), capture_output=True, text=True, check=True
    )
    (row,) = Done(0, there.stdout, there.stderr).rows
    assert row["digest"] == here["digest"]
    assert "Traceback" not in there.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_training_leaves_the_library_as_it_was(
    tmp_path: Path, base_folder: Path, home: Path, number: signal.Signals
) -> None:
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library:
        library.publish(some_prompt(base, "mine", labels=("yes", "no")).to_bytes(), base=base.address)
    before = contents(home)
    file = task_file(tmp_path, base_folder, max_steps=1_000_000, eval_per_epoch=1)
    command = [str(Path(sys.executable).parent / "softprompt"), "train", str(file), "--json"]
    with subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        answer: list[str] = []
        for line in process.stderr:
            answer.append(line)
            if line.startswith("baselines: 100%"):
                break
        assert process.poll() is None, answer
        time.sleep(0.4)
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
        code = process.wait(timeout=30)
    assert out == ""
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        done = Done(code, out, err)
        assert f"stopped by {number.name}; call the same command again to go on" in done.refused(128 + number)
        assert list((home / "runs").glob("*.checkpoint"))  # of the step just done, not of half a minute before
    assert contents(home) == before
