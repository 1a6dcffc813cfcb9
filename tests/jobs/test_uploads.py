"""Uploads: what is taken, what is refused with the number of its line, and what becomes of the bytes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import FieldError, NotFound, StoreError
from softprompt.jobs.records import Page
from softprompt.jobs.rows import read_upload
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.worker import work
from softprompt.library.library import Library
from tests.jobs_data import chat, lines


@pytest.fixture
def files(tmp_path: Path) -> Uploads:
    return Uploads(Library.open(tmp_path / "home"), most_bytes=10_000)


GOOD = lines([{"text": "a", "label": "b"}])
ASKED, ANSWER = chat("a", "b")["messages"]


def blobs(files: Uploads) -> list[Any]:
    return list(files.store.list()) if files.store.root.exists() else []


def test_what_is_kept_comes_back(files: Uploads) -> None:
    files.library.home.chmod(0o755)
    file = files.add(GOOD, "rows.jsonl")
    assert files.library.home.stat().st_mode & 0o777 == 0o700
    assert file.name.startswith("file-")
    assert files.get(file.name) == file
    assert files.read(file) == GOOD
    assert file.bytes == len(GOOD)


def test_pages_in_both_orders_hold_each_file_once(files: Uploads) -> None:
    names = [files.add(lines([{"n": number}]), f"{number}.jsonl").name for number in range(5)]
    for newest_first, expected in ((True, names[::-1]), (False, names)):
        seen: list[str] = []
        more = True
        while more:
            page = files.page(after=seen[-1] if seen else None, limit=2, newest_first=newest_first)
            seen += [file.name for file in page.rows]
            more = page.more
        assert seen == expected
    assert files.page(purpose="fine-tune-results") == Page([], False)


def test_equal_bytes_are_kept_once_and_go_with_their_last_file(files: Uploads) -> None:
    first, second = files.add(GOOD, "a.jsonl"), files.add(GOOD, "b.jsonl")
    assert len(blobs(files)) == 1
    files.delete(first.name)
    assert files.read(second) == GOOD
    files.delete(second.name)
    assert blobs(files) == []
    with pytest.raises(NotFound, match="there is no file"):
        files.delete(second.name)


def test_another_tenants_file_is_as_unknown_as_none(files: Uploads) -> None:
    name = files.add(GOOD, "rows.jsonl").name
    other = Uploads(files.library.for_tenant("other"))
    messages = []
    for unknown in (name, "file-000000000000000000000000"):
        for verb in (other.get, other.delete):
            with pytest.raises(NotFound) as caught:
                verb(unknown)
            messages.append(str(caught.value).replace(unknown, "X"))
    assert len(set(messages)) == 1
    assert other.page() == Page([], False)
    assert files.read(files.get(name)) == GOOD


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no rows"),
        (b"\n \n\r\n", "has no rows"),
        (GOOD + b"{", "line 2: not JSON"),
        (GOOD + b'{"text": "a", "text": "b", "label": "good"}\n', "line 2: not JSON .*twice"),
        (GOOD + b"\n[1]\n", "line 3: this is a list; write one JSON object with columns"),
        (GOOD + b"{}", "line 2: .*an empty object"),
        (GOOD + b"\xff\n", "line 2: no UTF-8 text"),
        ("é".encode("utf-16"), "line 1: no UTF-8"),
        (GOOD + b'{"text": "\\ud800"}', "line 2: .*half of a surrogate pair"),
        (b"[" * 5_000, "line 1: nested too deeply"),
        (GOOD + lines([chat("a", "b")]), "line 2: another shape than line 1, which has columns"),
        (lines([{"prompt": "a", "completion": "b"}, {"prompt": "a"}]), "line 2: another shape"),
        (lines([{"prompt": "a", "completion": " "}]), "line 1: completion is ' '; give a text that is not empty"),
        (lines([{"prompt": 3, "completion": "b"}]), "line 1: prompt is 3; give a text"),
        (lines([{"messages": "hi"}]), "line 1: messages is 'hi'; give a list of objects"),
        (lines([{"messages": []}]), "line 1: the roles of the messages are none; there must be a user's"),
        (lines([{"messages": [{"role": "user", "content": "a"}]}]), "user; there must be .*, and an assistant's behind it"),
        (lines([{"messages": [{"role": "robot", "content": "a"}]}]), "line 1: the role 'robot' is not known"),
        (lines([chat("", "b")]), "line 1: the content of the user message"),
        (lines([{"messages": [ASKED, {"role": "assistant", "content": "b", "weight": 0}]}]), "line 1: .* weight 0"),
        (lines([{"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}]), "images are not trained"),
    ],
)  # fmt: skip
def test_wrong_lines_are_told_by_number_and_nothing_is_kept(files: Uploads, data: bytes, message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        files.add(data, "rows.jsonl")
    assert caught.value.field == "file"
    assert files.page() == Page([], False)
    assert blobs(files) == []


def test_wrong_purposes_names_and_sizes_are_refused(files: Uploads) -> None:
    with pytest.raises(FieldError, match="purpose 'assistants' is refused") as caught:
        files.add(GOOD, "rows.jsonl", "assistants")
    assert caught.value.field == "purpose"
    for name in ("", "a\0b", "x" * 600, "a\nb"):
        with pytest.raises(FieldError, match="filename"):
            files.add(GOOD, name)
    with pytest.raises(FieldError, match="at most 10000"):
        files.add(GOOD * 1000, "rows.jsonl")
    assert blobs(files) == []


def test_a_disk_that_takes_nothing_keeps_nothing(files: Uploads) -> None:
    files.store.temporary.write_text("")  # no folder: nothing can be written
    with pytest.raises(StoreError, match="write to"):
        files.add(GOOD, "rows.jsonl")
    assert files.page() == Page([], False)


def test_uploads_and_deletions_of_equal_bytes_at_once_never_lose_them(files: Uploads) -> None:
    failed: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(15):
                file = files.add(GOOD, "rows.jsonl")
                assert files.read(file) == GOOD
                files.delete(file.name)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert blobs(files) == []


def test_what_is_left_of_killed_uploads_is_swept_and_no_more(files: Uploads) -> None:
    file = files.add(GOOD, "a.jsonl")
    (files.store.temporary / "partial").write_bytes(b"an upload whose server was killed")
    work(files.library, lambda queue, claims: None, idle_seconds=0.01)
    assert files.read(file) == GOOD
    assert not list(files.store.temporary.iterdir())


def test_chats_become_the_text_that_serving_makes_of_them() -> None:
    rows = [
        chat("where?", " here ", system="be brief"),
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": "e"},
        ]},
    ]  # fmt: skip
    upload = read_upload(lines(rows), "x")
    assert upload.shape == "chat"
    assert [(row["prompt"], row["completion"]) for row in upload.rows] == [
        ("be brief\nwhere?", "here"),
        ("ab", "c"),
        ("ab\nc\nd", "e"),
    ]
    assert upload.lines == [1, 2, 2]
    assert upload.rows[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "where?"},
    ]
    assert [len(row["messages"]) for row in upload.rows] == [2, 1, 3]
    assert [row["conversation"] == upload.rows[2]["conversation"] for row in upload.rows] == [False, True, True]


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    st.lists(st.dictionaries(text.map("c".__add__), text | st.integers() | st.none()), min_size=1, max_size=5), st.booleans()
)
def test_any_rows_come_back_with_their_lines(rows: list[dict[str, Any]], escaped: bool) -> None:
    written = [json.dumps({**row, "x": 1}, ensure_ascii=escaped) for row in rows]
    upload = read_upload(("\n\n".join(written) + "\n").encode(), "x")
    assert upload.rows == [{**row, "x": 1} for row in rows]
    assert upload.lines == [2 * place + 1 for place in range(len(rows))]


def test_rows_nested_just_too_deeply_are_told_so() -> None:
    answer = set()
    for depth in range(900, 1000):  # about as deep as Python goes from here
        try:
            read_upload(b'{"a":' + b"[" * depth + b"]" * depth + b"}", "x")
        except FieldError as error:
            answer.add(str(error))
    assert answer == {"x, line 1: nested too deeply; write one JSON object on each line"}


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    try:
        upload = read_upload(data, "x")
    except FieldError:
        return
    assert upload.rows


def conversation(*weights: Any) -> dict[str, Any]:
    """A chat whose answers have these weights; None for no weight."""
    turns: list[dict[str, Any]] = []
    for number, weight in enumerate(weights):
        answer = {"role": "assistant", "content": f"answer {number}"} | ({} if weight is None else {"weight": weight})
        turns += [{"role": "user", "content": f"question {number}"}, answer]
    return {"messages": turns}


@pytest.mark.parametrize(
    ("weights", "trained"),
    [
        ((0, 1), [1]),
        ((0, None), [1]),
        ((None, 1), [0, 1]),
        ((None, None), [0, 1]),
        ((1, 1, 1), [0, 1, 2]),
        ((1, 0), [0]),
        ((1, 0, None), [0, 2]),
        ((0, 1, 0), [1]),
        ((0, 0, 1), [2]),
        ((1,), [0]),
    ],
)
def test_each_answer_of_weight_1_is_a_row_and_what_stands_before_it_is_its_context(
    weights: tuple[Any, ...], trained: list[int]
) -> None:
    rows = read_upload(lines([conversation(*weights)]), "x").rows
    assert [row["completion"] for row in rows] == [f"answer {number}" for number in trained]
    assert len({row["conversation"] for row in rows}) == 1
    for row, last in zip(rows, trained, strict=True):
        before = [line for number in range(last) for line in (f"question {number}", f"answer {number}")]
        assert row["prompt"].split("\n") == [*before, f"question {last}"]
        assert [message["content"] for message in row["messages"]] == row["prompt"].split("\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (conversation(0, 0), "all answers have weight 0, which teaches nothing; give one weight 1"),
        (conversation(0.5), "message 2 has weight 0.5; a weight is 0 or 1"),
        (conversation(True), "message 2 has weight True"),
        ({"messages": [{**ASKED, "weight": 1}, ANSWER]}, "message 1 has a weight and is the user's"),
        ({"messages": [{**ANSWER, "weight": 1}, ASKED, {**ANSWER, "weight": 0}]}, "message 1 is to be .* a user's"),
    ],
)  # fmt: skip
def test_other_weights_are_refused_by_name(row: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=f"x, line 2: .*{message}"):
        read_upload(lines([chat("a", "b"), row]), "x")
