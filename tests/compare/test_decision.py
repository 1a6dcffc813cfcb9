"""The decision rule, and the Pareto front of the page: on numbers made up for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.compare.decision import Gap, decide
from softprompt.compare.page import COSTS, front_of, write_page

Row = dict[str, Any]


def a_row(method: str, value: float, **more: Any) -> Row:
    figures: Row = {"bytes": 100, "seconds": 2.0, "peak_mb": 50.0, "latency_ms": 3.0, "added_latency_ms": 0.5}
    known: Row = {"task": "t", "metric": "accuracy", "rows": 100, "stderr": 0.05, "trainable": 5, "steps": 9, "base": "b"}
    known |= {"train_rows": 70, "seed": 0, "dtype": "float32", "learning_rate": 0.1, "rates": [], "search_seconds": 1.0}
    return known | figures | {"method": method, "value": value, "decision": None, "take": None} | more


def right(count: int, start: int = 0) -> list[float]:
    """What 100 rows count, of which so many from a place on are right."""
    return [float(start <= place < start + count) for place in range(100)]


def decided(counts: Mapping[str, int], majority: float = 0.3, **more: Any) -> tuple[str | None, str]:
    rows = [a_row(method, count / 100, **more) for method, count in counts.items()]
    found = decide(rows, {method: right(count) for method, count in counts.items()}, majority)
    return found.method, found.words


def test_the_first_of_the_rule_that_is_good_enough_is_taken() -> None:
    assert decided({"full": 90, "lora": 90, "prefix": 90, "ours": 90})[0] == "ours"
    assert decided({"ours": 70, "prefix": 89, "lora": 90, "full": 90})[0] == "prefix"
    assert decided({"ours": 70, "prefix": 72, "lora": 89, "full": 90})[0] == "lora"
    assert decided({"ours": 70, "prefix": 72, "lora": 75, "full": 90})[0] == "full"
    assert decided({"lora": 89, "full": 90})[0] == "lora"
    assert decided({"zero_shot": 40, "full": 90})[0] == "full"


def test_it_is_told_in_words_with_the_numbers() -> None:
    _, words = decided({"zero_shot": 40, "ours": 70, "prefix": 89, "full": 90})
    assert words == (
        "The best is full fine-tuning (full), accuracy 0.900 on 100 test rows. "
        "Prompt tuning (ours) falls short: 0.700, by 0.200 ±0.040. "
        "Take prefix tuning (prefix): its 0.890 is no worse, as far as these rows tell (by 0.010 ±0.010, row by row). "
        "It keeps 100 bytes against 100 bytes, and took 2.0 s against 2.0 s and 50 MB against 50 MB to train. "
        "Not compared: LoRA (lora). These rows tell differences from about 0.082 on."
    )
    method, words = decided({"few_shot": 89, "ours": 90, "prefix": 80, "lora": 80})
    assert method == "ours"
    assert "A text prompt (few_shot, 0.890) is no worse either: nothing need be tuned." in words


@pytest.mark.parametrize("ours", [90, 89, 40])
def test_a_text_prompt_that_is_the_best_is_taken(ours: int) -> None:
    method, words = decided({"zero_shot": 90, "ours": ours, "full": 80})
    assert method == "zero_shot"
    assert words.startswith(
        "The best is zero_shot, accuracy 0.900 on 100 test rows. Take that text prompt: nothing need be tuned. Not compared"
    )


def test_where_nothing_beats_the_most_frequent_answer_nothing_is_taken() -> None:
    method, words = decided({"ours": 50, "full": 52}, majority=0.52)
    assert method is None
    assert words.endswith("The most frequent answer alone has 0.520: no method has learnt the task here.")


def test_a_gap_is_of_the_same_rows() -> None:
    """Two methods that are right on other rows differ by chance; one that loses rows alone does not."""
    assert Gap.between("accuracy", right(50), right(55, start=45)).within_chance
    assert not Gap.between("accuracy", right(50), right(55)).within_chance
    assert Gap.between("accuracy", right(55), right(50)).value == pytest.approx(-0.05)


def test_of_errors_less_is_better() -> None:
    rows = [a_row("ours", 0.9, metric="mae"), a_row("full", 0.5, metric="mae")]
    found = decide(rows, {"ours": [0.9] * 99 + [1.0], "full": [0.5] * 99 + [0.6]}, 1.5)
    assert found.method == "full"
    assert "Prompt tuning (ours) falls short: 0.900, by 0.400 ±0.000." in found.words


POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9)


@given(POINTS)
def test_the_front_is_what_nothing_else_beats(points: list[tuple[int, int]]) -> None:
    rows = [a_row(str(n), value / 10, bytes=cost) for n, (cost, value) in enumerate(points)]
    front = front_of(rows, "bytes")

    def beaten(row: Row) -> bool:
        return any(
            other["bytes"] <= row["bytes"]
            and other["value"] >= row["value"]
            and (other["bytes"], other["value"]) != (row["bytes"], row["value"])
            for other in rows
        )

    kept = {(row["bytes"], row["value"]) for row in rows if not beaten(row)}
    assert {(row["bytes"], row["value"]) for row in front} == kept
    assert len(front) == len(kept)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.inside):
            self.text += data


def test_the_page_has_all_figures_and_asks_for_nothing(tmp_path: Path) -> None:
    tried = [{"rate": 0.1, "value": 0.5, "steps": 2, "chosen": True}, {"steps": 2, "error": "nan"}]
    rows = [
        a_row("zero_shot", 0.4, bytes=0),
        a_row("<b>ours", 0.8, rates=tried),
        a_row("full", 0.9, bytes=10**9, stderr=None),
    ]
    rows[-1] |= {"decision": "Take <it> & go.", "take": "full"}
    file = write_page(tmp_path / "new" / "page.html", rows)
    tags = Tags()
    tags.feed(file.read_text(encoding="utf-8"))
    assert not [own for _, own in tags.found if {"src", "href"} & own.keys()]
    for said in ("Take <it> & go.", "<b>ours", "1,000,000,000", "0.1: 0.500*, failed", "0.800 ± 0.050"):
        assert said in tags.text
    assert [own for tag, own in tags.found if own.get("class") == "taken"]
    text = file.read_text(encoding="utf-8")
    assert all(words in text for words, _ in COSTS.values())
    assert not re.search(r"<b>ours", text)
