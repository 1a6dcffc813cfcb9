"""The playground answers as the API does: at once, in pieces, and for the rows of a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from softprompt.http.limits import Limits, Meter
from tests.http_server import Running

from .conftest import SCRIPT
from .pages import Browser, read


def events(browser: Browser, data: dict[str, Any]) -> list[dict[str, Any]]:
    answer = browser.post("/playground/stream", data)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


def panels(text: str) -> list[str]:
    return [read(part).text for part in text.split('<section class="panel card"')[1:]]


def test_answers_are_those_of_the_api(running: Running, browser: Browser) -> None:
    api = running.http.post(f"{running.url}/v1/classify", json={"model": "kind", "input": "red"}).json()
    chat = {"model": "tell", "messages": [{"role": "user", "content": "red"}]}
    said = running.http.post(f"{running.url}/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    answer = browser.post("/playground", {"model": ["kind", "kind@2", "tell", ""], "text": "red"})
    first, second, third = panels(answer.text)
    assert api["model"] in first
    assert "kind@2" in second
    for label, share in api["data"][0]["scores"].items():
        assert f"{label} {100 * share:.1f} %" in first
    assert said in third
    assert running.engine.live_jobs() == 0


def test_pieces_join_to_the_whole(running: Running, browser: Browser) -> None:
    came = events(browser, {"model": ["tell", "kind"], "text": "red"})
    assert [one["panel"] for one in came[:2]] == [0, 1]
    pieces = "".join(one["text"] for one in came if one["panel"] == 0 and "text" in one)
    chat = {"model": "tell", "messages": [{"role": "user", "content": "red"}]}
    whole = running.http.post(f"{running.url}/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    assert pieces == whole
    last = {one["panel"]: one["html"] for one in came if "html" in one}
    assert whole in last[0]
    assert "tell@1" in last[0]
    assert last[1].count("<rect") == 6


def test_the_base_and_auto_and_a_bound(running: Running, browser: Browser) -> None:
    name = running.base.name
    text = browser.post("/playground", {"model": [name, "auto"], "text": "red", "max_tokens": "2"}).text
    first, second = panels(text)
    assert name in first
    assert len(first.partition(name)[2].partition("0 virtual")[0].split()) >= 2
    assert second
    limits = Limits(max_tokens=3)
    running.state.limits = limits
    assert "at most 3" in browser.post("/playground", {"model": ["tell"], "text": "red", "max_tokens": "4"}).text


def test_what_one_refuses_stands_in_its_panel(browser: Browser, running: Running) -> None:
    long = "red " * 200
    kind, tell = panels(browser.post("/playground", {"model": ["kind", "tell"], "text": long}).text)
    assert "was cut" in kind
    assert "tokens" in tell
    running.engine.failing = "the engine broke"
    assert all("engine broke" in one.lower() for one in panels(browser.post(
        "/playground", {"model": ["kind", "tell"], "text": "red"}).text))  # fmt: skip
    assert "engine broke" in events(browser, {"model": ["kind"], "text": "red"})[-1]["html"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"model": ["kind"], "text": " "}, "The input is empty"),
        ({"model": [], "text": "red"}, "No task is named"),
        ({"model": ["nope"], "text": "red"}, "No task 'nope'"),
        ({"model": ["kind@9"], "text": "red"}, "has no version 9"),
        ({"model": [SCRIPT], "text": "red"}, "script"),
        ({"model": [f"kind@{n}" for n in range(1, 6)], "text": "red"}, "5 tasks are named"),
        ({"model": ["kind"], "text": "red", "max_tokens": "many"}, "no number of tokens"),
    ],
)
def test_what_cannot_be_asked_is_told(browser: Browser, data: dict[str, Any], told: str) -> None:
    answer = browser.post("/playground", data)
    assert answer.status_code == 400
    assert told in read(answer.text).text
    streamed = browser.post("/playground/stream", data)
    assert told in read(streamed.text).text
    assert "<html" not in streamed.text


def test_rows_of_a_file_side_by_side(running: Running, browser: Browser) -> None:
    texts = ["red", "blue stone", SCRIPT]
    file = ("rows.csv", ("text,label\n" + "".join(f'"{text}",x\n' for text in texts)).encode())
    answer = browser.post("/playground", {"model": ["kind@1", "kind@2", "tell"]}, files={"file": file})
    assert answer.status_code == 200
    page = read(answer.text)
    api = [
        running.http.post(f"{running.url}/v1/classify", json={"model": f"kind@{n}", "input": texts}).json() for n in (1, 2)
    ]
    for at, text in enumerate(texts):
        assert text in page.text
        for one in api:
            row = one["data"][at]
            assert f"{row['label']} {100 * row['scores'][row['label']]:.1f} %" in page.text
    for name, data in (("rows.exe", b"x"), ("rows.csv", b""), ("two.csv", b"one,two\na,b\n"), ("long.txt", b"a\n" * 300)):
        refused = browser.post("/playground", {"model": ["kind"]}, files={"file": (name, data)})
        assert refused.status_code == 400, name
        assert "/tmp" not in refused.text


def test_requests_count_against_the_rate(running: Running, browser: Browser) -> None:
    running.state.meter = Meter(Limits(requests_per_minute=2), lambda: 0.0)
    data = {"model": ["kind"], "text": "red"}
    assert [browser.post("/playground", data).status_code for _ in range(2)] == [200, 200]
    assert "a minute" in browser.post("/playground", data).text
    assert browser.get().status_code == 200
