"""Splits: by what the form reads and nothing else; no input on two sides, each label on each side, and faults counted."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from softprompt.errors import DataError
from softprompt.rows.places import numbered as numbered_rows
from softprompt.rows.sources import Row
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form
from softprompt.tasks.splits import FEW, Source, cut, deal, draw, position
from softprompt.tasks.task import Task

SPANS = [(0.0, 0.1), (0.1, 0.3)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(str.strip)


def read(rows: list[Row], **fields: Any) -> Source:
    form = Form.of_config(parse_config({"task": "t", **fields}))
    return Source.read(form, numbered_rows(rows, "them"), "rows")


def task_of(folder: Path, rows: list[Row] | dict[str, list[Row]], **fields: Any) -> Task:
    files = rows if isinstance(rows, dict) else {"train": rows}
    for name, own in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    data = {"validation": 0.1} | {name: f"{name}.jsonl" for name in files}
    return Task(folder=folder, **{"task": "t", "data": data, "labels": ["a", "b"], **fields})


def numbered(count: int) -> list[Row]:
    return [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(count)]


@given(st.dictionaries(st.sampled_from(["text", "label", "née"]), st.text(max_size=8), min_size=1))
def test_the_place_of_a_row_is_the_documented_rule(columns: dict[str, str]) -> None:
    text = json.dumps(columns, sort_keys=True, ensure_ascii=False)
    expected = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    assert position(columns) == expected
    assert position(dict(reversed(columns.items()))) == expected


def test_a_split_loses_nothing_and_does_not_depend_on_order() -> None:
    rows = numbered(400)
    parts = cut(read(rows), SPANS, by_label=True)
    assert sorted(row["text"] for part in parts for row in part.rows) == sorted(row["text"] for row in rows)
    for part, (start, end) in zip(parts[1:], SPANS, strict=True):
        assert part.rows == [row for row in rows if start <= position(row) < end]
        assert len(part.rows) == pytest.approx(400 * (end - start), rel=0.3)
    shuffled = rows.copy()
    random.Random(3).shuffle(shuffled)
    for one, other in zip(parts, cut(read(shuffled), SPANS, by_label=True), strict=True):
        assert sorted(map(str, one.rows)) == sorted(map(str, other.rows))
    # A row stays on its side whatever else is there.
    for one, other in zip(parts, cut(read(rows[:200]), SPANS, by_label=True), strict=True):
        assert other.rows == [row for row in one.rows if row in rows[:200]]


@pytest.mark.parametrize("left", [0, 1, 2], ids=["the rest", "validation", "test"])
def test_what_a_cut_left_is_cut_by_other_places(left: int) -> None:
    """Rows that were cut before lie where the same places leave a part nothing, or too much."""
    rows = numbered(9000)
    own = cut(read(rows), SPANS, by_label=True)[left].rows
    parts = cut(read(list(own)), SPANS, by_label=True)
    assert sorted(row["text"] for part in parts for row in part.rows) == sorted(row["text"] for row in own)
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part.rows) == pytest.approx(len(own) * share, rel=0.4)
    backwards = cut(read(list(own)[::-1]), SPANS, by_label=True)
    for one, other in zip(parts, backwards, strict=True):
        assert sorted(map(str, one.rows)) == sorted(map(str, other.rows))


def test_the_training_rows_of_a_task_are_split_as_others_are(tmp_path: Path) -> None:
    task = task_of(tmp_path, numbered(1200))
    for share in (0.1, 0.2, 0.3):  # of which the first would get none, and the second half of its own
        again = task.variant(data={"train": list(task.train), "validation": share, "test": list(task.test)})
        assert again.held_out == pytest.approx(len(task.train) * share, rel=0.3)


@pytest.mark.parametrize("answers", [2, 5])
def test_inputs_of_several_answers_have_their_share_of_each_part(answers: int) -> None:
    rows: list[Row] = [{"text": f"row {n}", "label": f"so {n} {k}"} for n in range(2000) for k in range(answers)]
    parts = cut(read(rows), SPANS, by_label=False)
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part.rows) == pytest.approx(len(rows) * share, rel=0.2)
        assert len({row["text"] for row in part.rows}) * answers == len(part.rows)


def test_a_table_that_was_never_cut_keeps_its_places() -> None:
    """Whatever its size: what chance does to its parts is no earlier cut."""
    for seed in range(300):
        rows: list[Row] = [{"text": f"{seed} {n}", "label": "ab"[n % 2]} for n in range(60 + seed)]
        for part, (start, end) in zip(cut(read(rows), SPANS, by_label=False)[1:], SPANS, strict=True):
            assert part.rows == [row for row in rows if start <= position(row) < end]


def test_columns_that_no_template_names_count_for_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"row {n % 10}", "label": "ab"[n % 2]} for n in range(60)]
    plain = task_of(tmp_path, rows)
    expected = [plain.train, plain.validation, plain.test]
    numbered_too = task_of(tmp_path, [{"id": n, **row} for n, row in enumerate(rows)])
    for part, found in zip(expected, (numbered_too.train, numbered_too.validation, numbered_too.test), strict=True):
        assert [{"text": row["text"], "label": row["label"]} for row in found] == part
    (remark,) = numbered_too.remarks
    assert remark.startswith("train.jsonl: 50 rows of 60 repeat the input and the answer of another")
    assert numbered_too.faults["train"] == {"repeated": 50}


ROWS = st.lists(st.tuples(TEXTS, st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=40)


@given(ROWS, st.booleans())
def test_no_input_is_on_two_sides_and_no_part_that_can_have_some_goes_without(
    drawn: list[tuple[str, str, int]], by_label: bool
) -> None:
    rows: list[Row] = [{"text": text, "label": label, "id": number} for text, label, number in drawn]
    parts = cut(read(rows, labels=["a", "b", "c"]), SPANS, by_label=by_label)
    assert sorted(map(str, rows)) == sorted(str(row) for part in parts for row in part.rows)
    sides = [set(part.inputs) for part in parts]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert sum(bool(side) for side in sides) >= min(3, len({text for text, _, _ in drawn}))
    plain = {text for text, _, _ in drawn if len({label for other, label, _ in drawn if other == text}) == 1}
    of_label = [{text for text, other, _ in drawn if other == label} for label in {label for _, label, _ in drawn}]
    clear = [own for own in of_label if own <= plain]
    if by_label and max(map(len, clear), default=0) >= 3:  # else what is to be judged takes the last of what is trained
        for own in clear:
            assert own & sides[0], "what is never trained is never predicted"
            assert len(own) < 3 or all(own & side for side in sides)


def test_each_side_has_some_of_a_small_class(tmp_path: Path) -> None:
    for count, expected in ((1, "t"), (2, "tv"), (3, "tvx"), (4, "tvx")):
        for salt in range(20):
            rare = [{"text": f"rare {salt} {n}", "label": "rare"} for n in range(count)]
            task = task_of(tmp_path, [*numbered(60), *rare], labels=["a", "b", "rare"])
            sides = {"t": task.train, "v": task.validation, "x": task.test}
            having = {side for side, rows in sides.items() if any(row["label"] == "rare" for row in rows)}
            assert "t" in having
            assert len(having) == len(expected)
            told = [remark for remark in task.remarks if "'rare'" in remark]
            assert len(told) == (count < 3)


def test_labels_without_rows_are_named(tmp_path: Path) -> None:
    rows = {
        "train": numbered(20),
        "validation": numbered(30)[20:],
        "test": [{"text": "x", "label": "c"}, {"text": "y", "label": "a"}],
    }
    remarks = "\n".join(task_of(tmp_path, rows, labels=["a", "b", "c", "d", "e"]).remarks)
    assert "no row has any of the labels 'd', 'e'; nothing teaches them, so give rows or take them off" in remarks
    assert "no training and no validation row has the label 'c': it will hardly ever be predicted" in remarks
    assert "no test row has the label 'b': nothing tells how well it is predicted" in remarks


def test_contradictions_are_counted_and_stay_together(tmp_path: Path) -> None:
    rows = [*numbered(40), *({"text": f"row {n}", "label": "b"} for n in range(0, 10, 2))]
    task = task_of(tmp_path, rows)
    assert any(
        "5 inputs with different answers, in 10 rows, such as 'row 0': 'a' (1), 'b' (1)" in remark for remark in task.remarks
    )
    assert task.faults == {split: {"contradictory": 10} for split in ("train", "validation", "test")}


@pytest.mark.parametrize("before", ["", "<|im_start|>system\nYou are {{good}} and of many words.<|im_end|>\n"])
def test_inputs_that_files_share_are_counted(tmp_path: Path, before: str) -> None:
    files = {
        "train": numbered(40),
        "validation": numbered(50)[35:],
        "test": [{"text": "row 3", "label": "b"}, *numbered(60)[50:]],
    }
    files["train"] += [{"text": "row 20", "label": "b"}]
    remarks = task_of(
        tmp_path, files, input=f"{before}{{text}}"
    ).remarks  # an example says what a row says, not its template
    assert any("1 input with different answers, in 2 rows, such as 'row 20': " in remark for remark in remarks)
    assert any(
        remark.startswith("5 of 15 validation inputs are training inputs too, such as 'row 35'") for remark in remarks
    )
    assert any(remark.startswith("1 of 11 test inputs are training inputs too, such as 'row 3'") for remark in remarks)
    assert not any("test inputs are validation inputs" in remark for remark in remarks)


@pytest.mark.parametrize("blank", ["", "  \n", None, float("nan"), "absent"])
def test_rows_without_an_input_are_left_out_of_every_split_and_counted(tmp_path: Path, blank: Any) -> None:
    empty: Row = {"label": "a"} if blank == "absent" else {"text": blank, "label": "a"}
    task = task_of(tmp_path, [empty, *numbered(40), empty], input="{text}\nLabel:")
    assert sorted(row["text"] for row in (*task.train, *task.validation, *task.test)) == sorted(
        row["text"] for row in numbered(40)
    )
    assert task.remarks == ("train.jsonl: 2 rows of 42 left out: nothing in 'text'",)
    assert task.faults["test"] == {"blank": 2}


def test_an_input_of_several_columns_is_blank_where_all_are(tmp_path: Path) -> None:
    rows = [{"title": f"t {n}", "body": "", "label": "ab"[n % 2]} for n in range(40)] + [
        {"title": " ", "body": "", "label": "a"}
    ]
    task = task_of(tmp_path, rows, input="{title} {body}")
    assert len(task.train) + len(task.validation) + len(task.test) == 40


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"text": "x", "label": "a"}] * 40, r"of 40 rows \(1 of them different: equal inputs stay in one split\)"),
        ([{"text": "x", "label": "a"}] + [{"text": " ", "label": "a"}] * 39, r"of 40 rows \(39 of them blank\)"),
        ([{"text": "", "label": "a"}] * 4, r"of 4 rows \(4 of them blank\)"),
        ([{"text": "x", "label": "a"}], r"of 1 row; give more"),
    ],
)
def test_why_no_rows_are_left_is_told(tmp_path: Path, rows: list[Row], why: str) -> None:
    with pytest.raises(DataError, match=rf"task 't': no rows are left for the \w+ split.* ?{why}"):
        _ = task_of(tmp_path, rows).train


def test_wrong_rows_are_told_by_their_place_in_the_file(tmp_path: Path) -> None:
    for wrong, message in (
        ({"text": "x", "label": "c"}, "the label 'c' is not among"),
        ({"label": "a", "txt": 1}, "no field 'text'"),
    ):
        rows = [*numbered(5), {**wrong, "other": 1}]
        fields = {"input": "{text} {other}"} if "txt" in wrong else {}
        rows = [{"other": 1, **row} for row in rows]
        with pytest.raises(DataError, match=rf"task 't', train\.jsonl, line 6:? .*{message}"):
            _ = task_of(tmp_path, rows, **fields).train


def test_a_label_that_looks_like_a_slip_is_told(tmp_path: Path) -> None:
    labels = ["billing"] * 30 + ["refund"] * 30 + ["biling", "refuse", "class2", "class2"] + ["class1"] * 30
    rows = [{"text": f"row {n}", "label": one} for n, one in enumerate(labels)]
    told = "\n".join(task_of(tmp_path, rows, labels=sorted(set(labels))).remarks)
    assert "the label 'biling' has 1 row, and is spelt nearly as 'billing' (30)" in told
    assert "'refuse' has" not in told
    assert "'class2' has" not in told, "numbers tell classes apart"


def test_unicode_and_spellings_are_told(tmp_path: Path) -> None:
    labels = ["caf\u00e9", "cafe\u0301", "Yes", "yes ", "no"]
    rows = [{"text": f"row {n}", "label": labels[n % 5]} for n in range(100)]
    told = "\n".join(task_of(tmp_path, rows, labels=["caf\u00e9", "Yes", "yes ", "no"]).remarks)
    assert "20 rows have labels in decomposed Unicode, which look like others and are not: 'caf\u00e9'" in told
    assert (
        "labels differ by case, spaces or the spelling of a number alone, and are rivals: 'Yes' (20), 'yes ' (20);" in told
    )
    folded = task_of(tmp_path, rows, labels=["cafe\u0301", "yes", "no"], fold_labels=True)
    assert folded.form.labels == ("caf\u00e9", "yes", "no")
    told = "\n".join(folded.remarks)
    assert "fold_labels: 40 rows have a label in another spelling: 'Yes' (20), 'yes ' (20)" in told.replace(
        "'yes ' (20), 'Yes' (20)", "'Yes' (20), 'yes ' (20)"
    )
    assert "`labels` has decomposed Unicode: 'caf\u00e9'" in told
    assert "rivals" not in told


def test_a_variant_shares_rows_that_it_reads_alike(tmp_path: Path) -> None:
    task = task_of(tmp_path, [{"title": f"t {n % 7}", **row} for n, row in enumerate(numbered(40))])
    assert task.variant(learning_rate=0.1, input="Say {text}").train is task.train
    other = task.variant(input="{title}")
    sides = [{row["title"] for row in rows} for rows in (other.train, other.validation, other.test)]
    assert sum(map(len, sides)) == 7


def test_gaps_in_inputs_are_counted_and_told(tmp_path: Path) -> None:
    rows: list[Row] = [{"one": f"a {n}", "two": f"b {n}", "label": "ab"[n % 2]} for n in range(40)]
    rows[3]["one"] = " "
    rows[7]["two"] = ""
    rows.append({"one": "", "two": " ", "label": "a"})
    task = task_of(tmp_path, rows, labels=["a", "b"], input="{one} {two}")
    assert "train.jsonl: 1 row of 41 left out: nothing in 'one' and 'two'" in task.remarks
    (told,) = [remark for remark in task.remarks if "empty text" in remark]
    assert "2 rows of 40 have nothing in a column of the input ('one' in train.jsonl, line 4)" in told
    assert not [
        remark for remark in task_of(tmp_path, rows, labels=["a", "b"], input="{one}").remarks if "empty text" in remark
    ]


# Few rows are held out in turn


@given(st.lists(st.tuples(TEXTS, st.sampled_from("ab")), min_size=1, max_size=30), st.integers(2, 5))
def test_folds_share_all_rows_out_and_no_input(pairs: list[tuple[str, str]], folds: int) -> None:
    source = read([{"text": text, "label": label} for text, label in pairs], labels=["a", "b"])
    dealt = deal(source, folds, by_label=True)
    assert sorted(place for places in dealt for place in places) == list(range(len(source.rows)))
    inputs = [{source.inputs[place] for place in places} for places in dealt]
    assert all(not one & other for at, one in enumerate(inputs) for other in inputs[at + 1 :])
    assert len(dealt) == min(folds, source.different)
    assert max(map(len, inputs)) - min(map(len, inputs)) <= 1


def test_each_fold_has_its_share_of_each_label() -> None:
    source = read([{"text": f"row {n}", "label": "aaab"[n % 4]} for n in range(40)], labels=["a", "b"])
    for places in deal(source, 4, by_label=True):
        assert sorted(source.answers[place] for place in places).count("b") in (2, 3)


def test_few_rows_are_validated_in_turn_unless_the_file_says_how(tmp_path: Path) -> None:
    few = task_of(
        tmp_path, {"train": numbered(40), "test": numbered(8)}, data={"train": "train.jsonl", "test": "test.jsonl"}
    )
    assert sorted(place for places in few.folds for place in places) == list(range(40))
    assert few.validation == few.train
    assert len(few.train) == 40
    assert not few.remarks or all("validation" not in remark for remark in few.remarks)
    said = task_of(tmp_path, {"train": numbered(40)})
    assert not said.folds
    assert not {row["text"] for row in said.validation} & {row["text"] for row in said.train}
    for count in (FEW, FEW + 1):
        assert bool(task_of(tmp_path, numbered(count), data="train.jsonl").folds) == (count <= FEW)


# Rows that are drawn


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from("aabc")), min_size=1, max_size=60),
    st.integers(1, 70),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@example([(n, "c" if n == 9 else "a") for n in range(10)], 3, True, random.Random(0))
def test_drawn_rows_are_some_of_them_and_go_by_nothing_but_what_they_hold(
    pairs: list[tuple[int, str]], count: int, by_label: bool, chance: random.Random
) -> None:
    def drawn(pairs: list[tuple[int, str]], count: int) -> list[int]:
        rows: list[Row] = [{"text": f"row {n}", "label": label} for n, label in pairs]
        return draw(rows, [label for _, label in pairs] if by_label else None, count)

    places = drawn(pairs, count)
    assert places == sorted(set(places))
    assert len(places) == min(count, len(pairs))
    assert set(drawn(pairs, max(1, count // 2))) <= set(places)
    other = pairs.copy()
    chance.shuffle(other)
    assert sorted(other[place] for place in drawn(other, count)) == sorted(pairs[place] for place in places)
    if by_label and count >= len({label for _, label in pairs}):
        assert {pairs[place][1] for place in places} == {label for _, label in pairs}


def test_drawn_rows_have_the_shares_of_their_labels() -> None:
    rows: list[Row] = [{"text": f"row {n}", "label": "b" if n % 10 == 0 else "a"} for n in range(1000)]
    drawn = draw(rows, [row["label"] for row in rows], 100)
    assert sum(rows[place]["label"] == "b" for place in drawn) == 10
    first = sorted((row for row in rows if row["label"] == "a"), key=position)[:90]
    assert [rows[place] for place in drawn if rows[place]["label"] == "a"] == [row for row in rows if row in first]


def test_validation_takes_so_many_of_the_rows_held_out_whatever_the_seed(tmp_path: Path) -> None:
    files = {"train": numbered(300), "validation": [{**row, "text": f"v {row['text']}"} for row in numbered(90)]}
    whole = task_of(tmp_path, files, max_eval_samples=None)
    assert (whole.validation, whole.held_out) == (files["validation"], 90)
    assert task_of(tmp_path, files).validation == whole.validation
    assert task_of(tmp_path, files, max_eval_samples=90).validation == whole.validation
    bounded = whole.variant(max_eval_samples=20)
    assert (len(bounded.validation), bounded.held_out) == (20, 90)
    assert [row for row in whole.validation if row in bounded.validation] == bounded.validation
    assert [bounded.validation.where(n) for n in range(20)] == [
        whole.validation.where(whole.validation.index(row)) for row in bounded.validation
    ]
    assert sum(row["label"] == "a" for row in bounded.validation) == 10
    for change in ({"seed": 7}, {"input": "Now: {text}"}, {"num_virtual_tokens": 9}):
        assert bounded.variant(**change).validation == bounded.validation
    assert (bounded.train, bounded.test) == (whole.train, whole.test)


def test_folds_hold_out_every_row_whatever_the_bound(tmp_path: Path) -> None:
    rows = [{"text": f"row {n % 40}", "label": "ab"[n % 2]} for n in range(400)]
    task = task_of(tmp_path, rows, data="train.jsonl", max_eval_samples=16)
    assert task.folds
    assert task.validation == task.train
    assert sorted(place for places in task.folds for place in places) == list(range(len(task.train)))
