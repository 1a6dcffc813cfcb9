"""Each failure mode is provoked and named; a healthy prompt has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softprompt import diagnose
from softprompt.errors import NotFound
from softprompt.library.library import Library
from softprompt.registry.records import Origin
from tests.commands import Run
from tests.library_data import make_prompt

GOOD: dict[str, float] = {
    "value": 0.9, "stderr": 0.02, "rows": 200, "validation": 0.91, "validation_stderr": 0.02, "majority": 0.5,
    "zero_shot": 0.6, "untrained": 0.5, "moved": 1.2,
}  # fmt: skip
RECIPE: dict[str, Any] = {"learning_rate": 0.1, "steps": 90, "best_step": 60, "prompt_tuning_init": "LABELS"}
FALLING = [
    {"step": 30, "loss": 2.0, "value": 0.7},
    {"step": 60, "loss": 1.0, "value": 0.91},
    {"step": 90, "loss": 0.8, "value": 0.9},
]
WORDS = ("red", "green", "blue", "apple", "stone")


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"text": f"{WORDS[n % 5]} {n:03d}", "label": "yes" if n % 2 else "no"} for n in range(count)]


def publish(
    home: Path,
    metrics: dict[str, float],
    recipe: dict[str, Any],
    history: list[dict[str, Any]],
    data: Path | None = None,
    **fields: Any,
) -> Library:
    library = Library.open(home)
    told = {"labels": ("yes", "no"), "metric": "accuracy", "input": "{text} =", "num_virtual_tokens": 20} | fields
    origin = Origin(None, {"task": "kind", "data": {"train": str(data)}, "input": "{text} =", "labels": ["yes", "no"]}, [])
    made = make_prompt(
        "kind",
        base="org/model",
        metrics=metrics,
        recipe=recipe,
        **{k: v for k, v in told.items() if k != "num_virtual_tokens"},
    )
    library.publish_all([made], base="org/model", origins=[origin if data else None])
    library.runs.mkdir(parents=True, exist_ok=True)
    (library.runs / "kind@1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return library


@pytest.mark.parametrize(
    ("modes", "metrics", "recipe", "history"),
    [
        ([], {}, {}, FALLING),
        (["not_learnt"], {"value": 0.55}, {}, FALLING),
        (["distribution_mismatch"], {"value": 0.7}, {}, FALLING),
        (["rate_too_low"], {"moved": 0.001}, {}, FALLING),
        (["no_convergence"], {}, {}, [row | {"loss": 2.0} for row in FALLING]),
        (["stopped_early"], {}, {"best_step": 90}, [*FALLING[:2], {"step": 90, "loss": 0.5, "value": 0.99}]),
        (["poor_initialiser"], {}, {"prompt_tuning_init": "RANDOM"}, FALLING),
    ],
)
def test_a_failure_mode_is_named_and_no_other(
    tmp_path: Path, modes: list[str], metrics: dict[str, float], recipe: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    value = {"validation": metrics["value"]} if metrics.get("value") == 0.55 else {}
    with publish(tmp_path / "home", GOOD | value | metrics, RECIPE | recipe, history) as library:
        found = diagnose("kind", library=library)
    # the file of two virtual tokens is short in all of these
    assert [one.mode for one in found if one.mode != "prompt_too_short"] == modes
    assert all(one.evidence and one.mend for one in found)
    assert "prompt_too_short" in [one.mode for one in found]


def test_a_prompt_without_a_score_is_told(tmp_path: Path) -> None:
    with publish(tmp_path / "home", {}, {}, []) as library:
        assert "not_judged" in [one.mode for one in diagnose("kind", library=library)]
        with pytest.raises(NotFound):
            diagnose("kin", library=library)


@pytest.mark.parametrize(
    ("modes", "rows"),
    [
        ([], rows_of(200)),
        (["few_rows"], rows_of(40)),
        (["contradictory_answers"], [*rows_of(200), {"text": "red 000", "label": "yes"}]),
        (["label_without_rows"], [row | {"label": "no"} for row in rows_of(200)]),
        (
            ["length_tells_the_label"],
            [row | {"text": row["text"] + " and some more of it" * (row["label"] == "yes")} for row in rows_of(200)],
        ),
    ],
)
def test_what_rows_do_is_named(tmp_path: Path, modes: list[str], rows: list[dict[str, str]]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kind.yaml").write_text("task: kind\ndata: rows.jsonl\ninput: '{text} ='\nlabels: ['yes', 'no']\n")
    assert [one.mode for one in diagnose(str(tmp_path / "kind.yaml"))] == modes
    with publish(tmp_path / "home", GOOD, RECIPE, FALLING, data=file) as library:
        assert [one.mode for one in diagnose("kind", library=library)][1:] == modes
        file.unlink()
        assert [one.mode for one in diagnose("kind", library=library)][1:] == ["rows_gone"]


def test_inputs_of_two_splits_are_named(tmp_path: Path) -> None:
    for name, rows in (("train", rows_of(200)), ("test", rows_of(20))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kind.yaml").write_text(
        "task: kind\ndata: {train: train.jsonl, test: test.jsonl}\ninput: '{text} ='\nlabels: ['yes', 'no']\n"
    )
    found = {one.mode: one.evidence for one in diagnose(str(tmp_path / "kind.yaml"))}
    assert "test inputs are training inputs too" in found["duplicates_across_splits"]


def test_a_base_that_changed_is_named(run: Run, tmp_path: Path, base_folder: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        made = make_prompt(
            "kind", base=str(base_folder), fingerprint="f" * 32, metrics=GOOD, recipe=RECIPE, labels=("yes", "no")
        )
        library.publish(made, base=str(base_folder))
        library.publish(
            make_prompt("gone", fingerprint="f" * 32, metrics=GOOD, labels=("yes", "no")), base=str(tmp_path / "none")
        )
    rows = run("diagnose", "kind", "--home", tmp_path / "home", "--json").rows
    assert rows[0]["mode"] == "base_drift"
    assert set(rows[0]) == {"mode", "evidence", "mend"}
    rows = run("diagnose", "gone", "--home", tmp_path / "home", "--json").rows
    assert rows[0]["mode"] == "base_gone"
