"""Suites on versions: the value of `evaluate`, each check against the rows by hand, and what is refused before a base is
loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import softprompt
from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, DataError, FingerprintMismatch
from softprompt.evaluation.combination import combine
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.suites.looks import find_looks
from softprompt.evaluation.suites.perturb import perturbed
from softprompt.evaluation.suites.run import run_looks
from softprompt.evaluation.suites.suite import Suite, parse_suite
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.registry.records import Check, Outcome
from softprompt.serving.offline import predict
from softprompt.tasks.answers.kinds import NUMBER, SET
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from tests.models import make_base, some_prompt

ROWS: list[dict[str, Any]] = [
    {"text": f"the {word} {place} is {kind} number {number}", "label": "yes" if number % 2 else "no", "lang": kind}
    for number, (word, place, kind) in enumerate(
        (word, place, kind) for word in ("red", "Green", "BLUE") for place in ("river", "stone") for kind in ("good", "bad")
    )
]


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Library:
    library = Library.open(tmp_path / "home")
    form: dict[str, Any] = {"input": "{text} =", "labels": ("yes", "no")}
    library.publish(some_prompt(base, "kind", **form).to_bytes(), base="x/y")
    library.publish(some_prompt(base, "kind", seed=1, **form).to_bytes(), base="x/y")
    written: dict[str, Any] = {"input": "{text} =", "target": " {label}", "max_new_tokens": 4, "metric": "exact_match"}
    library.publish(some_prompt(base, "write", **written).to_bytes(), base="x/y")
    return library


def data_file(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return data_file(tmp_path, ROWS)


def suite(rows: Path | None, **keys: Any) -> Suite:
    return Suite(parse_suite({"name": "s", **keys}, where="s"), None, str(rows) if rows is not None else None)


def one(library: Library, base: FrozenBase, given: Suite, ref: str = "kind@1", **more: Any) -> Outcome:
    (found,) = run_looks(library, find_looks(library, [ref], [given], **more), base, Mute())
    return found


def checks(outcome: Outcome) -> dict[str, Check]:
    assert len({check.name for check in outcome.checks}) == len(outcome.checks)
    for check in outcome.checks:
        assert sum(check.values) / check.rows == pytest.approx(check.value)
        assert check.places is None or len(check.places) == check.rows
    return {check.name: check for check in outcome.checks}


@pytest.mark.parametrize(("ref", "metrics"), [("kind@1", ["accuracy", "f1"]), ("write@1", ["exact_match", "token_f1"])])
def test_without_changes_it_is_what_evaluate_says(
    library: Library, base: FrozenBase, rows: Path, ref: str, metrics: list[str]
) -> None:
    found = one(library, base, suite(rows, metrics=[*metrics, "perplexity"]), ref)
    (said,) = evaluate(ref, library=library, data=str(rows), base=base, progress=Mute())
    head = checks(found)[said.metric]
    assert (head.value, head.stderr, head.rows) == (said.value, said.stderr, said.rows)
    assert head.values == said.values
    assert found.answers == said.outputs
    if ref == "kind@1":
        import math

        assert checks(found)["perplexity"].value == pytest.approx(math.exp(said.loss))
    assert library.registry.outcomes.one(ref, "s") == found


def test_test_rows_of_the_task_file_are_those_of_evaluate(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    file = data_file(tmp_path, ROWS)
    task = Task(task="kind", data={"train": str(file), "test": 0.5}, input="{text} =", labels=["yes", "no"])
    (tmp_path / "kind.yaml").write_text(
        json.dumps({"data": {"train": str(file), "test": 0.5}, "input": "{text} =", "labels": ["yes", "no"]})
    )
    found = one(library, base, suite(None), task=task)
    (said,) = evaluate(str(tmp_path / "kind.yaml"), library=library, version="1", base=base, progress=Mute())
    assert (found.checks[0].value, len(found.rows)) == (said.value, said.rows)
    with pytest.raises(ConfigError, match="kind@1 came without the task file whose test rows it would be run on"):
        find_looks(library, ["kind@1"], [suite(None)])
    with pytest.raises(ConfigError, match="the task file is of 'kind', and write@1 is of another task"):
        find_looks(library, ["write@1"], [suite(None)], task=task)


def test_each_check_by_hand(library: Library, base: FrozenBase, rows: Path) -> None:
    given = suite(
        rows,
        perturb=["case", "typos"],
        swap=[["river", "stone"]],
        slices=["lang", {"column": "label", "value": "no"}, {"length": [0, 36]}, {"pattern": "/[Gg]reen/"}],
        must_not=["yes"],
        must=["/yes|no/"],
        calibration=5,
    )
    found = one(library, base, given)
    by_name = checks(found)

    def answers(inputs: Sequence[str]) -> list[str]:
        return [said.output for said in predict(list(inputs), "kind@1", library=library, base=base)]

    said = answers([row["text"] for row in ROWS])
    assert list(found.answers) == said
    hits = [float(one == row["label"]) for one, row in zip(said, ROWS, strict=True)]
    assert by_name["accuracy"].values == tuple(hits)
    assert by_name["must_not: yes"].values == tuple(float(one != "yes") for one in said)
    assert by_name["must: /yes|no/"].value == 1
    for name, members in {
        "lang=good": [place for place, row in enumerate(ROWS) if row["lang"] == "good"],
        "label=no": [place for place, row in enumerate(ROWS) if row["label"] == "no"],
        "length=0-36": [place for place, row in enumerate(ROWS) if len(row["text"] + " =") < 36],
        "pattern=/[Gg]reen/": [place for place, row in enumerate(ROWS) if "Green" in row["text"]],
    }.items():
        check = by_name[f"slice:{name}"]
        assert (check.places, check.values) == (tuple(members), tuple(hits[place] for place in members)), name
    for kind in ("case", "typos"):
        new = [perturbed(kind, row, ["text"]) for row in ROWS]  # type: ignore[arg-type]
        assert None not in new
        others = answers([row["text"] for row in new if row is not None])
        check = by_name[f"perturb:{kind}"]
        assert check.values == tuple(float(one == row["label"]) for one, row in zip(others, ROWS, strict=True))
        assert check.before == by_name["accuracy"].value
        assert by_name[f"perturb:{kind}:stayed"].values == tuple(float(a == b) for a, b in zip(said, others, strict=True))
    swapped = answers([row["text"].replace("river", "_").replace("stone", "river").replace("_", "stone") for row in ROWS])
    check = by_name["swap:river/stone"]
    assert check.lower_is_better
    assert check.values == tuple(float(a != b) for a, b in zip(said, swapped, strict=True))
    sure = [
        max((one.scores or {}).values())
        for one in predict([row["text"] for row in ROWS], "kind@1", library=library, base=base)
    ]
    bins: dict[int, list[int]] = {}
    for place, chance in enumerate(sure):
        bins.setdefault(min(int(chance * 5), 4), []).append(place)
    error = sum(abs(sum(sure[at] for at in own) - sum(hits[at] for at in own)) for own in bins.values()) / len(ROWS)
    assert by_name["calibration"].value == pytest.approx(error, abs=1e-6)
    assert [one["rows"] for one in found.calibration] == [len(bins[place]) for place in sorted(bins)]


def test_rows_that_a_change_leaves_alone_do_not_count(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    file = data_file(tmp_path, [{"text": "12 34", "label": "yes"}, {"text": "these words", "label": "no"}])
    found = checks(one(library, base, suite(file, perturb=["typos", "passages"], swap=[["he", "she"]])))
    assert found["perturb:typos"].places == (1,)
    assert found["perturb:typos"].before == checks(one(library, base, suite(file)))["accuracy"].values[1]
    assert not any(name.startswith(("perturb:passages", "swap")) for name in found)


def test_what_changes_nothing_or_is_empty_is_told(library: Library, base: FrozenBase, rows: Path) -> None:
    told: list[str] = []
    given = suite(rows, perturb=["passages"], swap=[["he", "she"]], slices=[{"length": [500, None]}])
    one(library, base, given, warn=told.append)
    assert [line.split(": ", 1)[1] for line in told] == [
        'no row of kind@1 is in the slice {"length": [500.0, null]}; left out'.replace("500.0", "500"),
        "perturb:passages changes no row of kind@1, and is left out",
        "swap:he/she changes no row of kind@1, and is left out",
    ]


class _Told(Mute):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)


def test_inputs_that_are_cut_are_told(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    long = "red river " * base.context
    file = data_file(tmp_path, [*ROWS, {"text": long, "label": "no"}, {"text": long[: base.context], "label": "no"}])
    told = _Told()
    run_looks(library, find_looks(library, ["kind@1"], [suite(file, perturb=["case"])]), base, told)
    cut = "1 of 14 inputs were cut to fit the context, the first of them rows.jsonl, line 13"
    assert told.lines == [
        f"suite 's' on kind@1: {cut}",
        f"suite 's' on kind@1, perturb:case: {cut}, changed by perturb:case",
    ]
    told = _Told()
    combine(["kind@1", "kind@2"], task="both", data=file, library=library, base=base, progress=told)
    cut = f"1 of 14 inputs were cut to fit the context, the first of them {file}, line 13"
    assert told.lines == [f"{whose}: {cut}" for whose in ("what is combined", "kind@1", "kind@2")]
    told = _Told()
    softprompt.inspect("kind@1", data=file, library=library, base=base, progress=told)
    assert told.lines == [f"kind@1: {cut}"]


@pytest.mark.parametrize("ref", ["kind@1", "write@1"])
def test_preference_is_the_share_of_rows_whose_right_answer_is_likelier(
    library: Library, base: FrozenBase, tmp_path: Path, ref: str
) -> None:
    rows = [row | {"worse": "no" if row["label"] == "yes" else "yes"} for row in ROWS]
    rows[3]["worse"] = None
    file = data_file(tmp_path, rows)
    check = checks(one(library, base, suite(file, metrics=["preference"], rejected="worse"), ref))["preference"]
    assert check.places == tuple(place for place in range(len(rows)) if place != 3)
    if ref == "kind@1":  # of two labels the likelier one is the answer
        (said,) = evaluate(ref, library=library, data=str(file), base=base, progress=Mute())
        assert check.values == tuple(value for place, value in enumerate(said.values) if place != 3)
    else:
        assert 0 < check.value < 1
    with pytest.raises(DataError, match="no row has anything in the column 'rejected'"):
        one(library, base, suite(file, metrics=["preference"]), ref)
    data_file(tmp_path, [*rows[:5], rows[5] | {"worse": rows[5]["label"]}])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 6: the right answer itself stands in the column 'worse'"):
        one(library, base, suite(file, metrics=["preference"], rejected="worse"), ref)


SETS: dict[str, Any] = {"labels": ("yes", "no"), "metric": "micro_f1", "recipe": {"problem_type": SET}}
SCALE: dict[str, Any] = {"labels": ("1", "2", "3"), "metric": "mae", "recipe": {"problem_type": NUMBER}}


@pytest.mark.parametrize(
    ("form", "answers", "metrics"),
    [
        (SETS, (["yes", "no"], ["no"], []), ["micro_f1", "macro_f1", "subset_accuracy"]),
        (SCALE, (1, 3, 2), ["mae", "spearmanr"]),
    ],
)
def test_sets_and_numbers_are_judged_too(
    library: Library, base: FrozenBase, tmp_path: Path, form: dict[str, Any], answers: Sequence[Any], metrics: list[str]
) -> None:
    library.publish(some_prompt(base, "other", input="{text} =", **form).to_bytes(), base="x/y")
    file = data_file(tmp_path, [row | {"label": answers[place % 3]} for place, row in enumerate(ROWS)])
    given = suite(file, metrics=[*metrics, "perplexity"], perturb=["case"], swap=[["river", "stone"]], slices=["lang"])
    found = checks(one(library, base, given, "other@1"))
    (said,) = evaluate("other@1", library=library, data=str(file), base=base, progress=Mute())
    assert {name: found[name].value for name in metrics} == {metrics[0]: said.value} | {
        name: said.others[name] for name in metrics[1:]
    }
    assert found[metrics[0]].lower_is_better == (metrics[0] == "mae")
    assert found["perturb:case"].before == said.value
    with pytest.raises(ConfigError, match="calibration is of the probability of one label"):
        find_looks(library, ["other@1"], [suite(file, calibration=5)])


def test_a_number_over_ordered_labels_stays_where_the_nearest_label_does(
    library: Library, base: FrozenBase, tmp_path: Path
) -> None:
    library.publish(some_prompt(base, "other", input="{text} =", **SCALE).to_bytes(), base="x/y")
    file = data_file(tmp_path, [row | {"label": 1 + place % 3} for place, row in enumerate(ROWS)])
    found = one(library, base, suite(file, perturb=["case"], swap=[["river", "stone"]]), "other@1")
    rows = [perturbed("case", row, ["text"]) for row in json.loads(f"[{','.join(file.read_text().splitlines())}]")]
    others = [row["text"] for row in rows if row is not None]
    swapped = [row["text"].replace("river", "_").replace("stone", "river").replace("_", "stone") for row in ROWS]

    def nearest(texts: Sequence[str]) -> list[int]:
        return [round(float(one.output)) for one in predict(texts, "other@1", library=library, base=base)]

    said, by_name = [round(float(text)) for text in found.answers], checks(found)
    stayed = tuple(float(a == b) for a, b in zip(said, nearest(others), strict=True))
    assert by_name["perturb:case:stayed"].values == stayed
    assert by_name["swap:river/stone"].values == tuple(float(a != b) for a, b in zip(said, nearest(swapped), strict=True))
    assert by_name["perturb:case:stayed"].value > 0
    assert by_name["swap:river/stone"].value < 1


def test_a_generated_number_stays_as_long_as_it_is_the_same_number(library: Library, base: FrozenBase, rows: Path) -> None:
    form: dict[str, Any] = {"target": " {label}", "metric": "mae", "recipe": {"problem_type": NUMBER}}
    library.publish(some_prompt(base, "count", input="{text} =", **form).to_bytes(), base="x/y")
    file = data_file(rows.parent, [row | {"label": place} for place, row in enumerate(ROWS)])
    (look,) = find_looks(library, ["count@1"], [suite(file)])
    assert look._same("3", "It is 3.0.")
    assert not look._same("3", "3.5")
    assert look._same("None at all.", "none at all")
    assert not look._same("3", "three")


@pytest.mark.parametrize("limits", [None, [0.0, 0.5]])
def test_generated_answers_that_are_no_numbers_or_out_of_range_are_told_as_evaluate_does(
    library: Library, base: FrozenBase, rows: Path, monkeypatch: pytest.MonkeyPatch, limits: list[float] | None
) -> None:
    found = {"problem_type": NUMBER} | ({"answer_range": limits} if limits else {})
    form: dict[str, Any] = {"target": " {label}", "metric": "mae", "max_new_tokens": 4, "recipe": found}
    for seed in (1, 2):
        library.publish(some_prompt(base, "count", seed=seed, input="{text} =", **form).to_bytes(), base="x/y")
    file = data_file(rows.parent, [row | {"label": place % 2 / 2} for place, row in enumerate(ROWS)])
    said = cycle(["none", "7", "0.5", "it is 9"])
    decode = Form.of_text  # a random base writes no numbers

    def spoken(self: Form, text: str) -> Any:
        return decode(self, next(said))

    monkeypatch.setattr(Form, "of_text", spoken)
    counts = [
        f"3 of {len(ROWS)} answers are no numbers",
        *([f"6 of {len(ROWS)} answers lie outside of their range"] if limits else []),
    ]
    told = _Told()
    (judged,) = evaluate("count@1", library=library, data=str(file), base=base, progress=told)
    assert told.lines == [f"count@1: {count}" for count in counts]
    assert [judged.row()[name] for name in ("unparsable", "out_of_range")] == [3, 6 if limits else 0]
    told = _Told()
    run_looks(library, find_looks(library, ["count@1"], [suite(file, perturb=["case"])]), base, told)
    assert told.lines == [f"suite 's' on count@1{what}: {count}" for what in ("", ", perturb:case") for count in counts]
    told = _Told()
    made = combine(["count@1", "count@2"], data=file, library=library, base=base, progress=told)
    assert told.lines == [f"{whose}: {count}" for whose in ("what is combined", "count@1", "count@2") for count in counts]
    assert [made.row()[name] for name in ("unparsable", "out_of_range")] == [3, 6 if limits else 0]
    assert "unparsable" not in combine(["count@1", "count@2"], library=library).row()
    told = _Told()
    softprompt.inspect("count@1", data=file, library=library, base=base, progress=told)
    assert [line for line in told.lines if "answers" in line] == [f"count@1: {count}" for count in counts]


def test_passages_are_shuffled_and_looked_up_once(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    form: dict[str, Any] = {"input": "{passages} {text} =", "labels": ("yes", "no")}
    library.publish(some_prompt(base, "ask", **form).to_bytes(), base="x/y")
    file = data_file(tmp_path, [row | {"passages": ["a red one", "a blue one"]} for row in ROWS[:4]] + ROWS[4:])
    with pytest.raises(DataError, match="has no field 'passages'"):
        find_looks(library, ["ask@1"], [suite(file)])
    file = data_file(tmp_path, [row | {"passages": ["red", "blue"][: 1 + at % 2]} for at, row in enumerate(ROWS)])
    found = checks(one(library, base, suite(file, perturb=["passages"]), "ask@1"))
    assert found["perturb:passages"].places == tuple(range(1, len(ROWS), 2)), "those with more than one"


@pytest.mark.parametrize("as_text", [False, True])
def test_conversations_are_left_as_they_are(library: Library, base: FrozenBase, tmp_path: Path, *, as_text: bool) -> None:
    """As text they are JSON, of which typos and capitals leave nothing that can be read."""
    form: dict[str, Any] = {"input": "{messages}", "labels": ("yes", "no"), "recipe": {"messages": "in the chat template"}}
    library.publish(some_prompt(base, "talk", **form).to_bytes(), base="x/y")
    turns = [{"role": "user", "content": "the red river is good"}]
    file = data_file(tmp_path, [{"messages": json.dumps(turns) if as_text else turns, "label": "no"}])
    given = suite(file, perturb=["case", "typos", "punctuation", "length"], swap=[["user", "system"], ["red", "blue"]])
    (look,) = find_looks(library, ["talk@1"], [given])
    assert [variant.places for variant in look.variants()] == [[]] * 6


def test_an_ensemble_is_run_too(library: Library, base: FrozenBase, rows: Path) -> None:
    combine(["kind@1", "kind@2"], "ensemble", task="kind", library=library)
    found = one(library, base, suite(rows, perturb=["case"], calibration=4), "kind@3")
    (said,) = evaluate("kind@3", library=library, data=str(rows), base=base, progress=Mute())
    assert found.checks[0].value == said.value


def test_answers_are_kept_unless_they_are_not_to_be(library: Library, base: FrozenBase, rows: Path) -> None:
    found = one(library, base, suite(rows, keep_answers=False), "write@1")
    told = one(library, base, suite(rows), "write@1")
    assert len(set(told.answers)) == len(set(found.answers))
    assert all(len(text) == 16 for text in found.answers)
    assert found.right is None
    body = json.dumps([told.definition, told.rows, [check.name for check in told.checks]])
    assert not any(row["text"] in body for row in ROWS)


def test_blank_rows_are_left_out_and_told(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    told: list[str] = []
    file = data_file(tmp_path, [*ROWS[:3], {"text": " ", "label": "no"}, *ROWS[3:5]])
    found = one(library, base, suite(file), warn=told.append)
    assert len(found.rows) == found.checks[0].rows == 5
    assert "1 row of 6 left out" in told[0]


@pytest.mark.parametrize(
    ("ref", "keys", "told"),
    [
        ("write@1", {"metrics": ["accuracy"]}, "metric accuracy is of one label among several .task 'write'.; take another"),
        ("kind@1", {"metrics": ["mae"]}, "metric mae is of numbers"),
        ("kind@1", {"metrics": ["micro_f1"]}, "metric micro_f1 is of sets of labels"),
        ("kind@1", {"metrics": ["bleu"]}, "metric bleu is of written answers"),
        (
            "write@1",
            {"calibration": 5},
            "calibration is of the probability of one label among several, and task",
        ),
        ("write@1", {"metrics": ["json_f1"]}, "line 1: json_f1 compares JSON objects, and the answer 'no' is none"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_base_is_loaded(
    library: Library, rows: Path, ref: str, keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        find_looks(library, [ref], [suite(rows, **keys)])


def test_slices_by_a_wrong_column_or_too_many_values_are_refused(
    library: Library, base: FrozenBase, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no row has the column 'tongue', which makes slices"):
        find_looks(library, ["kind@1"], [suite(rows, slices=["tongue"])])
    file = data_file(tmp_path, [{"text": f"a {number}", "label": "no", "n": number} for number in range(30)])
    with pytest.raises(ConfigError, match="the column 'n' has 30 values, and 20 slices are the most; name some"):
        find_looks(library, ["kind@1"], [suite(file, slices=["n"])])
    found = one(library, base, suite(file, slices=[{"column": "n", "value": 7}]))
    assert checks(found)["slice:n=7"].places == (7,)


def test_the_public_function_reads_the_files(library: Library, base: FrozenBase, rows: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"data: {rows.name}\nmust: please\n", encoding="utf-8")
    files = [tmp_path / "one.yaml", str(tmp_path / "two.yaml")]
    found = softprompt.run_suites(["kind@1", "kind@2", "kind@2"], files, library=library, base=base, progress=Mute())
    assert [(one.ref, one.suite) for one in found] == [
        ("kind@1", "one"), ("kind@1", "two"), ("kind@2", "one"), ("kind@2", "two"),
    ]  # fmt: skip
    assert library.registry.outcomes.of("kind@2") == found[2:]
    again = softprompt.run_suites("kind@1", files[0], library=library, base=base, progress=Mute())
    assert again[0].checks == found[0].checks, "the same each time"
    file = data_file(tmp_path, ROWS)
    task = {"task": "kind", "data": {"train": str(file), "test": 0.5}, "input": "{text} =", "labels": ["yes", "no"]}
    (tmp_path / "test.yaml").write_text("must: please\n", encoding="utf-8")
    (own,) = softprompt.run_suites("kind@1", tmp_path / "test.yaml", library=library, base=base, task_file=task)
    assert 0 < len(own.rows) < len(ROWS)


def test_two_suites_of_a_name_and_another_base_are_refused(library: Library, rows: Path) -> None:
    with pytest.raises(ConfigError, match="two suites are called 's'"):
        find_looks(library, ["kind@1"], [suite(rows), suite(rows, must="x")])
    with pytest.raises(FingerprintMismatch):
        run_looks(library, find_looks(library, ["kind@1"], [suite(rows)]), make_base("llama", seed=7), Mute())
    assert library.registry.outcomes.of("kind@1") == []
