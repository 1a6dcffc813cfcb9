"""Rows: files are found, and splits follow from content alone."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import DataError
from softprompt.tasks.rows import Row, digest_rows, find_file, hold_out, position, read_hub_split


def test_a_folder_or_a_name_too_long_for_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("rows", str(tmp_path / "rows")):
        with pytest.raises(DataError, match=r"is a folder .*; name a file in it"):
            find_file(name, tmp_path)
    with pytest.raises(DataError, match=r"no data file 'x+'"):
        find_file("x" * 5000, tmp_path)
    with pytest.raises(DataError, match=r"no data file '/no/such\.csv'; mend the path"):
        find_file("/no/such.csv", tmp_path)


def test_a_missing_file_is_told_with_the_places_that_were_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, here, data = (tmp_path / name for name in ("beside", "here", "data"))
    for folder in (beside, here, data):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("SOFTPROMPT_DATA", raising=False)
    (data / "rows.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="SOFTPROMPT_DATA") as caught:
        find_file("rows.csv", beside)
    assert str(beside) in str(caught.value)
    assert str(here) in str(caught.value)
    monkeypatch.setenv("SOFTPROMPT_DATA", str(data))
    assert find_file("rows.csv", beside) == data / "rows.csv"
    (here / "rows.csv").write_text("a\n1\n")
    assert find_file("rows.csv", beside) == here / "rows.csv"
    (beside / "rows.csv").write_text("a\n1\n")
    assert find_file("rows.csv", beside) == beside / "rows.csv"


def test_classes_of_a_hub_data_set_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]}, features=features)
    table.to_parquet(tmp_path / "test.parquet")
    rows = read_hub_split(str(tmp_path), None, "test")  # the library takes a folder for an id
    assert [row["label"] for row in rows] == ["yes", "no", None, None], "-1 stands for a label that is not told"
    with pytest.raises(DataError, match=r"split 'other' of '.*' cannot be read: Unknown split"):
        read_hub_split(str(tmp_path), None, "other")
    with pytest.raises(DataError, match=r"split 'test' of 'owner/set' cannot be read: Couldn't reach"):
        read_hub_split("owner/set", None, "test")


VALUES = st.text(max_size=8) | st.integers() | st.floats(allow_nan=False) | st.none() | st.booleans()
ROW = st.dictionaries(st.sampled_from(["text", "label", "née"]), VALUES, min_size=1)


@given(ROW)
def test_the_place_of_a_row_is_the_documented_rule(row: Row) -> None:
    text = json.dumps(row, sort_keys=True, ensure_ascii=False)
    expected = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    assert position(row) == expected
    assert position(dict(reversed(row.items()))) == expected


def numbered(count: int, copies: int = 1) -> list[Row]:
    return [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(count) for _ in range(copies)]


@pytest.mark.parametrize(("start", "share"), [(0.0, 0.1), (0.1, 0.25), (0.0, 0.5)])
def test_a_split_loses_nothing_and_does_not_depend_on_order(start: float, share: float) -> None:
    rows = numbered(400)
    outside, inside = hold_out(rows, start, share)
    assert inside == [row for row in rows if start <= position(row) < start + share]
    assert outside == [row for row in rows if row not in inside]
    assert len(inside) == pytest.approx(400 * share, rel=0.3)
    shuffled = rows.copy()
    random.Random(3).shuffle(shuffled)
    again = hold_out(shuffled, start, share)
    for one, other in zip((outside, inside), again, strict=True):
        assert sorted(map(str, one)) == sorted(map(str, other))
    # A row stays on its side whatever else is there.
    assert hold_out(rows[:200], start, share)[1] == [row for row in inside if row in rows[:200]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.floats(0.01, 0.9))
def test_equal_rows_fall_together_and_nothing_is_lost(numbers: list[int], share: float) -> None:
    rows: list[Row] = [{"text": str(n)} for n in numbers]
    outside, inside = hold_out(rows, 0.0, share)
    assert sorted(r["text"] for r in outside + inside) == sorted(map(str, numbers))
    assert not {r["text"] for r in outside} & {r["text"] for r in inside}
    if len(set(numbers)) > 1:
        assert inside


def test_digest_of_rows_follows_content_and_order_alone() -> None:
    rows = numbered(5)
    assert digest_rows(rows) == digest_rows([dict(reversed(row.items())) for row in rows])
    assert digest_rows(rows) != digest_rows(rows[::-1])
    changed: list[dict[str, Any]] = [*rows[:-1], {**rows[-1], "text": "other"}]
    assert digest_rows(rows) != digest_rows(changed)
