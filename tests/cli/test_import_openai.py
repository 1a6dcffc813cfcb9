"""The command import-openai: every line of a training file is counted as learnt or not, what it writes is what a job would
learn from, and the cost is that of the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from softprompt.jobs.plan import make_plan
from softprompt.jobs.request import JobRequest
from softprompt.jobs.rows import read_upload
from softprompt.tasks.task import Task
from softprompt.tasks.wording.chat import ChatFrame
from tests.commands import Run
from tests.jobs_data import CHAT_TEMPLATE, conversation, lines, pair

TALKS = [
    conversation("red apple", "good", f"and the {number}", f"it is {number}", weights=(number % 2, None), system="say")
    for number in range(12)
]
WRONG = [
    {"messages": [{"role": "user", "content": "hi"}]},
    conversation("a", "b", weights=(2,)),
    {**conversation("a", "b"), "tools": [{"type": "function"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    pair("a", "b", "c"),
    conversation("a", "b", weights=(0,)),
]


@pytest.fixture(scope="module")
def talker(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("talking") / "tiny-talker"
    shutil.copytree(base_folder, made)
    (made / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(lines([*({**line, "id": 1} for line in TALKS), *WRONG]) + b"{bad\n")
    return path


def test_every_line_is_learnt_or_told_with_its_reason(run: Run, file: Path) -> None:
    *refused, told = run("import-openai", file, "--json").rows
    assert [row["line"] for row in refused] == list(range(13, 20))
    reasons = ("there must be a user's", "weight 2", "tools are not", "images are not", "another|most lines", "weight 0",
               "not JSON")  # fmt: skip
    for row, reason in zip(refused, reasons, strict=True):
        assert any(part in row["reason"] for part in reason.split("|")), row
    assert (told["lines"], told["learnt"], told["refused"]) == (19, 12, 7)
    assert told["answers"] == sum(len(read_upload(lines([line]), "x").rows) for line in TALKS) == 18
    assert (told["answers_left_out"], told["context_messages"], told["repeated"]) == (6, 36, 0)
    assert told["not_read"] == {"id": 12}
    assert told["train_rows"] + told["test_rows"] == 18


def test_preferences_are_told_as_such(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(lines([pair(f"say {n}", f"yes {n}", f"no {n}") for n in range(10)]))
    (told,) = run("import-openai", file, "--json", "--output", tmp_path / "made.yaml").rows
    assert (told["method"], told["answers"], told["target"]) == ("dpo", 10, " {chosen}")
    made = yaml.safe_load((tmp_path / "made.yaml").read_text())
    assert (made["objective"], made["data"]) == ("preference", {"train": "made.train.jsonl", "group": "conversation"})


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_written_is_what_a_job_would_learn_from(
    run: Run, file: Path, talker: Path, tmp_path: Path, apart: bool
) -> None:
    other = [conversation("red apple", "good", f"the {n}", f"is {n}") for n in range(4)]
    (tmp_path / "other.jsonl").write_bytes(lines(other))
    made, more = tmp_path / "made.yaml", ("--validation", tmp_path / "other.jsonl") if apart else ()
    settings = {"num_virtual_tokens": 4, "max_steps": 3, "per_device_train_batch_size": 4}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    *_, told = run("import-openai", file, "--base", talker, *more, *sets, "--output", made, "--json").rows
    assert (told["steps"], told["base"], told["cut_lines"]) == (3, "tiny-talker", [])
    assert told["vector_bytes"] == 4 * 32 * 4
    assert told["seconds"] > 0

    request = JobRequest(model="m", training_file="f", suffix="talks", softprompt=settings)
    train_rows, own = read_upload(lines(TALKS), "t"), read_upload(lines(other), "v") if apart else None
    plan = make_plan(request, "t", train_rows, own, frame=ChatFrame("", "", "", ""), context=96)
    written = Task.load(made)
    assert written.config.model_dump(exclude={"base", "data"}) == Task(
        **plan.config, data=[{"messages": "a", "completion": "b"}]
    ).config.model_dump(exclude={"base", "data"})
    data: dict[str, Any] = {"train": train_rows.rows, "group": "conversation"} | (
        {"validation": own.rows} if own is not None else {}
    )
    job = Task(**plan.config, data=data)
    assert {split: list(rows) for split, rows in written.splits.items()} == {
        split: list(rows) for split, rows in job.splits.items()
    }
    (row,) = run("train", made, "--json").rows
    assert (row["task"], row["truncated"]) == ("talks", 0)
    assert "already" in run("import-openai", file, "--output", made).refused()
    assert run("import-openai", file, "--output", made, "--force", "--json").rows[-1]["task"] == "talks"


def test_rows_that_are_too_long_are_told_by_their_lines(run: Run, talker: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_bytes(lines([*TALKS, conversation("the river " * 60, "good")]))
    *_, told = run("import-openai", file, "--base", talker, "--set", "num_virtual_tokens=4", "--json").rows
    assert told["cut_lines"] == [13]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no rows"),
        (b"\xff", "no UTF-8 text"),
        (b"{bad\n", "line 1 is not JSON"),
        (lines([{"text": "a", "label": "b"}]), "has the columns label, text.*`softprompt init` reads tables"),
        (lines([WRONG[0]]), "nothing of .* can be learnt; the first reason is that of line 1"),
        (lines(TALKS[:1]), "too few to split"),
    ],
)
def test_what_is_no_training_file_is_refused(run: Run, tmp_path: Path, data: bytes, message: str) -> None:
    import re

    (tmp_path / "x.jsonl").write_bytes(data)
    refused = run("import-openai", tmp_path / "x.jsonl", "--output", tmp_path / "x.yaml").refused()
    assert re.search(message, refused), refused
    assert not (tmp_path / "x.yaml").exists()
    assert not (tmp_path / "x.train.jsonl").exists()


def test_it_reads_well_in_80_columns(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = run("import-openai", file).out
    assert "Not learnt: 7 lines" in out
    assert "What is learnt from talks.jsonl" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert json.dumps({}) not in out
