"""From a table to a job, as a client of the API would make it; jobs watched and stopped."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import openpyxl
import pytest

from softprompt.jobs.jobs import Jobs
from softprompt.jobs.uploads import Uploads
from tests.http_server import Running
from tests.jobs_data import ROWS, do_all, lines, queue_job

from .pages import Browser, Html, read

CSV = "id,text,label\n" + "".join(f"{at},{row['text']},{row['label']}\n" for at, row in enumerate(ROWS))
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
"""A few lines that stand for 10^11 values."""
QUICK = {"num_virtual_tokens": "4", "max_steps": "6", "learning_rate": "0.1", "seed": "3"}


def upload(browser: Browser, name: str = "my rows.csv", data: str = CSV) -> str:
    answer = browser.post("/train", files={"file": (name, data.encode())})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].removeprefix("/console")


def filled(page: Html) -> dict[str, str]:
    """What the form holds as it stands, but for texts of areas."""
    return {one["name"]: one.get("value", "") for one in page.all("input") if "name" in one and one.get("type") != "hidden"}


def test_a_table_becomes_a_job(running: Running, browser: Browser) -> None:
    address = upload(browser)
    page = browser.page(address)
    assert "32 rows" in page.text
    assert "is nearly another in each row" in page.text  # why the ids are left
    assert filled(page)["task"] == "my-rows"
    form = {"task": "mine", "model": "tiny-llama", "input": "{text} =", "target": " {label}", "labels": "good\r\nbad\r\n"}
    answer = browser.post(address, form | QUICK | {"more": "prompt_tuning_init: TEXT\nprompt_tuning_init_text: good or bad"})
    assert answer.status_code == 303, read(answer.text).text
    job = Jobs(running.library).get(answer.headers["location"].rpartition("/")[2])
    assert (job.task, job.status) == ("mine", "queued")
    assert job.config == {
        "task": "mine", "input": "{text} =", "target": " {label}", "labels": ["good", "bad"], "num_virtual_tokens": 4,
        "max_steps": 6, "learning_rate": 0.1, "seed": 3, "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "good or bad",
    }  # fmt: skip
    file = Uploads(running.library).get(job.training_file)
    rows = Uploads(running.library).read_rows(file).rows
    assert rows == [{"id": str(at), **row} for at, row in enumerate(ROWS)]


def as_it_stands(text: str) -> dict[str, str]:
    """What a browser sends of a form that nobody has touched."""
    areas = {}
    for name in ("input", "target", "labels", "more"):
        inside = text.partition(f'<textarea id="f-{name}"')[2].partition(">\n")[2].partition("</textarea>")[0]
        areas[name] = "".join(read(inside).words)
    return filled(read(text)) | areas | {"model": "tiny-llama"}


def test_what_is_proposed_can_be_queued_as_it_stands_and_so_can_its_clone(running: Running, browser: Browser) -> None:
    address = upload(browser)
    configs = []
    for query in ("", "?job="):
        form = as_it_stands(browser.get(address + query + (configs[-1][0] if configs else "")).text)
        answer = browser.post(address, form)
        assert answer.status_code == 303, read(answer.text).text
        job = Jobs(running.library).get(answer.headers["location"].rpartition("/")[2])
        configs.append((job.name, dict(job.config)))
    assert set(configs[0][1]["labels"]) == {"good", "bad"}
    assert "text" in configs[0][1]["input"]
    assert configs[0][1] == configs[1][1]


def test_a_training_is_watched_to_its_end(running: Running, browser: Browser) -> None:
    address = upload(browser)
    form = {"task": "mine", "model": "tiny-llama", "input": "{text} =", "target": " {label}", "labels": "good\nbad"}
    there = browser.post(address, form | QUICK).headers["location"].removeprefix("/console")
    waiting = browser.get(f"{there}/live")
    assert waiting.status_code == 200
    assert 'hx-trigger="every 1s"' in waiting.text
    assert "It waits for the worker" in waiting.text
    do_all(running.library)
    done = browser.get(f"{there}/live")
    assert done.status_code == 286  # htmx asks no more
    assert "hx-trigger" not in done.text
    said = read(done.text)
    assert "It became mine@1" in said.text
    rows = Jobs(running.library).events(there.rpartition("/")[2], limit=100).rows  # the newest first
    last = next(one.message for one in rows if one.level == "warn")
    assert [one.get("class") for one in said.all("p")].count("note warn") == 1
    assert said.text.count(last[1:]) == 2  # above all, and among the events
    page = browser.page(there)
    assert "Training loss" in page.text
    assert len(page.all("circle")) > 1
    assert "mine@1" in browser.page("/jobs").text
    clone = browser.page(f"{address}?job={there.rpartition('/')[2]}")
    assert filled(clone) | {"task": "mine"} == {"task": "mine", **QUICK}
    assert "{text} =" in clone.text
    again = browser.post(address, form | QUICK | {"seed": "4"}).headers["location"].rpartition("/")[2]
    assert Jobs(running.library).get(again).config["seed"] == 4


def test_a_job_is_stopped_once(running: Running, browser: Browser) -> None:
    job = queue_job(running.library, Path(running.base.address))
    assert "Stop the training" in browser.page(f"/jobs/{job.name}").text
    assert browser.post(f"/jobs/{job.name}/stop").status_code == 303
    assert Jobs(running.library).get(job.name).status == "cancelled"
    assert "Stop the training" not in browser.page(f"/jobs/{job.name}").text
    again = browser.post(f"/jobs/{job.name}/stop")
    assert again.status_code == 400
    assert "nothing to cancel" in again.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": "only"}, "label"),
        ({"input": "{nothing}"}, "nothing"),
        ({"max_steps": "many"}, "max_steps: 'many' is no number"),
        ({"model": "other"}, "there is no base"),
        ({"task": "a b"}, "a b"),
        ({"task": "auto"}, "auto"),
        ({"more": "colour: red"}, "colour"),
        ({"more": "- a"}, "KEY: VALUE"),
        ({"more": "a: ["}, "this is no YAML"),
        ({"more": LAUGHS}, "a name stands for a value"),
        ({"more": "base: elsewhere"}, "softprompt.base is refused"),
        ({"learning_rate": "-1"}, "learning_rate"),
        ({"validation_file": "file-none"}, "no file"),
    ],
)
def test_what_is_wrong_is_told_above_the_form_as_it_was(
    running: Running, browser: Browser, changes: dict[str, str], told: str
) -> None:
    form = {"task": "mine", "model": "tiny-llama", "input": "{text} =", "target": " {label}", "labels": "good\nbad"} | QUICK
    answer = browser.post(upload(browser), form | changes)
    assert answer.status_code == 400
    page = read(answer.text)
    assert told.lower() in page.text.lower()
    assert filled(page)["seed"] == "3"
    assert not Jobs(running.library).page().rows


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("rows.exe", "x", "not read"),
        ("rows.csv", "", "rows.csv"),
        ("rows.jsonl", "{]", "rows.jsonl"),
        ("../../x/<b>.csv", "", ".csv"),
        ("big.csv", "text,label\n" + "a,b\n" * 20_000, "at most 50000"),
    ],
)
def test_no_table_is_kept_that_cannot_be_read(running: Running, browser: Browser, name: str, data: str, told: str) -> None:
    answer = browser.post("/train", files={"file": (name, data.encode())})
    assert answer.status_code in (400, 413)
    assert told in read(answer.text).text
    assert "/tmp" not in answer.text
    assert not Uploads(running.library).page().rows


def test_a_small_file_that_holds_much_is_refused(running: Running, browser: Browser) -> None:
    """On both pages that take one; and a text that a workbook holds once and shows in each of its rows."""
    packed = ("rows.csv.gz", gzip.compress(b"text\n" + b"\n" * 110_000_000))
    answers = [
        browser.post("/train", files={"file": packed}),
        browser.post("/playground", {"model": ["kind"]}, files={"file": packed}),
    ]
    book = openpyxl.Workbook()
    for text in ["text", *["long " * 200] * 100]:
        book.active.append([text])
    held = io.BytesIO()
    book.save(held)
    answers.append(browser.post("/train", files={"file": ("rows.xlsx", held.getvalue())}))
    for answer, told in zip(answers, ("unpacked", "unpacked", "at most 50000 bytes of them"), strict=True):
        assert answer.status_code == 400
        assert told in read(answer.text).text
    assert not Uploads(running.library).page().rows


def test_a_table_without_an_answer_is_shown_all_the_same(browser: Browser) -> None:
    page = browser.page(upload(browser, "one.csv", "text\nred\nblue\n"))
    assert "No task is proposed" in page.text
    assert "2 rows" in page.text


def test_files_of_other_kinds_become_the_same_rows(running: Running, browser: Browser) -> None:
    upload(browser, "rows.jsonl", lines().decode())
    upload(browser, "rows.tsv", "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS))
    uploads = Uploads(running.library)
    for file in uploads.page().rows:
        assert uploads.read_rows(file).rows == ROWS


def test_a_server_that_trains_nothing_says_so(running: Running, browser: Browser) -> None:
    running.state.training = None
    assert "this server trains nothing" in browser.page("/train", status=404).text.lower()
    assert browser.post("/train", files={"file": ("rows.csv", CSV.encode())}).status_code == 404
    assert browser.page("/jobs").all("h1")


def test_pages_of_jobs(running: Running, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompt.http.console.jobs.SHOWN", 2)
    made = [queue_job(running.library, Path(running.base.address), f"task-{at}") for at in range(3)]
    first = browser.page("/jobs")
    (older,) = [one["href"] for one in first.all("a") if "after=" in one.get("href", "")]
    second = browser.page(older.removeprefix("/console"))
    assert made[0].name in str([one["href"] for one in second.all("a") if "href" in one])
    assert "task-2" in first.text
    assert "task-0" not in first.text
