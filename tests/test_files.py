"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from softprompt.files import make_folder, write_whole
from softprompt.text import lone_surrogate


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for data in (b"first", b"", b"x" * 100_000):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_the_first_one_stays_where_none_is_to_be_replaced(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_whole(tmp_path / "file", data, replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    files = [bytes([place]) * 200_000 for place in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: write_whole(tmp_path / "file", data), files * 4))
    assert (tmp_path / "file").read_bytes() in files
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("kept")
    for path in (tmp_path / "folder", tmp_path / "none" / "file", tmp_path / "folder" / "kept" / "file"):
        with pytest.raises(OSError, match=r"director|folder"):
            write_whole(path, b"data")
    assert (tmp_path / "folder" / "kept").read_text() == "kept"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_disk_that_takes_no_more_costs_the_new_file_and_not_the_old(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(tmp_path / "file", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_long_name_has_room_for_its_partial(tmp_path: Path) -> None:
    write_whole(tmp_path / ("n" * 250), b"data")
    assert os.listdir(tmp_path) == ["n" * 250]


def test_folders_are_made_with_those_above(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_lone_surrogates_are_found_in_texts_and_in_values() -> None:
    assert [lone_surrogate(text) for text in ("", "plain", "naïve \U0001f600")] == [None] * 3
    assert lone_surrogate("a\udcffb\ud800") == "\udcff"
    assert lone_surrogate({"a": [1, None, {"b\ud83d": "c"}]}) == "\ud83d"
    assert lone_surrogate({"a": ["\U0001f600"], "b": 1.5}) is None
