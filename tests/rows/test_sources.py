"""Rows: files and hub sets are found, and what they hold has a digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import DataError
from softprompt.rows.sources import Row, digest_rows, find_file, read_hub_split


def test_a_folder_or_a_name_too_long_for_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("rows", str(tmp_path / "rows")):
        with pytest.raises(DataError, match=r"is a folder .*; name a file in it"):
            find_file(name, tmp_path)
    with pytest.raises(DataError, match=r"no data file 'x+' .*; put it there, or mend the path"):
        find_file("x" * 5000, tmp_path)
    with pytest.raises(DataError, match=r"no data file '/no/such\.csv'; put it there, or mend the path"):
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
    assert rows.where(2) == "row 3 of the test split"
    with pytest.raises(DataError, match=r"split 'other' of '.*' cannot be read: Unknown split"):
        read_hub_split(str(tmp_path), None, "other")
    with pytest.raises(DataError, match=r"split 'test' of 'owner/set' cannot be read: Couldn't reach"):
        read_hub_split("owner/set", None, "test")


def test_classes_of_sets_of_labels_get_their_names_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sets = datasets.Features(
        text=datasets.Value("string"), label=datasets.Sequence(datasets.ClassLabel(names=["no", "yes"]))
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [[1, 0], [], None, [1]]}, features=sets)
    table.to_parquet(tmp_path / "test.parquet")
    several = read_hub_split(str(tmp_path), None, "test")
    assert [row["label"] for row in several] == [["yes", "no"], [], None, ["yes"]], "of sets each class has its name"


def numbered(count: int, copies: int = 1) -> list[Row]:
    return [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(count) for _ in range(copies)]


def test_digest_of_rows_follows_content_and_order_alone() -> None:
    rows = numbered(5)
    assert digest_rows(rows) == digest_rows([dict(reversed(row.items())) for row in rows])
    assert digest_rows(rows) != digest_rows(rows[::-1])
    changed: list[dict[str, Any]] = [*rows[:-1], {**rows[-1], "text": "other"}]
    assert digest_rows(rows) != digest_rows(changed)
