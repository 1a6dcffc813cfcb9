"""Each failure mode is provoked and named; a healthy prompt has none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import softprompt
from softprompt import diagnose
from softprompt.bases.base import FrozenBase
from softprompt.errors import NotFound
from softprompt.library.library import Library
from softprompt.lifecycle.diagnosis.rows import MODES
from softprompt.model.kinds.causal import Causal
from softprompt.registry.records import Origin
from softprompt.tasks.task import Task
from softprompt.training.events import Noted
from softprompt.training.session import Session
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
        # What a distilled prompt was taught is wrong in many rows: its answers are those of the instruction on both splits.
        ([], {"value": 0.7, "agreement": 0.93, "agreement_stderr": 0.02}, {}, FALLING),
        (["distribution_mismatch"], {"value": 0.7, "agreement": 0.6, "agreement_stderr": 0.02}, {}, FALLING),
        (["rate_too_low"], {"moved": 0.001}, {}, FALLING),
        (["start_kept"], {"moved": 0.0}, {"best_step": 0}, FALLING),
        (["no_convergence"], {}, {}, [row | {"loss": row["step"] / 10} for row in FALLING]),
        # It learnt before the first validation, and stayed.
        ([], {}, {}, [row | {"loss": 0.1} for row in FALLING]),
        (["not_learnt", "no_convergence"], {"value": 0.55}, {}, [row | {"loss": 2.0} for row in FALLING]),
        (["labels_begin_each_other"], {}, {"label_end": "<end>"}, FALLING),
        (["context_exhausted"], {"truncated": 3}, {}, FALLING),
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
        (["context_exhausted"], [*rows_of(200), {"text": "red " * 2000, "label": "yes"}]),
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
    assert rows[0]["evidence"].endswith("'")  # and no advice on an option that `diagnose` has not
    assert "library rebind PLACE --yes" in rows[0]["mend"]


def written(folder: Path, rows: list[dict[str, str]], *lines: str) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "kind.yaml").write_text("\n".join(["task: kind", "data: rows.jsonl", "input: '{text} ='", *lines]) + "\n")
    return str(folder / "kind.yaml")


def test_labels_that_begin_each_other_are_named(tmp_path: Path) -> None:
    rows = [row | {"label": "no way" if row["label"] == "yes" else "no"} for row in rows_of(200)]
    (found,) = diagnose(written(tmp_path, rows, "labels: ['no', no way]"))
    assert found.mode == "labels_begin_each_other"
    assert "'no' begins 'no way'" in found.evidence
    nothing = [row | {"label": "nothing" if row["label"] == "yes" else "no"} for row in rows_of(200)]
    assert diagnose(written(tmp_path, nothing, "labels: ['no', nothing]")) == []  # by their texts they do not


def test_a_label_that_training_has_no_rows_of_is_named(tmp_path: Path) -> None:
    for name, rows in (("train", rows_of(200)), ("test", [{"text": f"new {n}", "label": "maybe"} for n in range(20)])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kind.yaml").write_text(
        "task: kind\ndata: {train: train.jsonl, test: test.jsonl}\ninput: '{text} ='\nlabels: ['yes', 'no', maybe]\n"
    )
    assert "label_without_rows" in [one.mode for one in diagnose(str(tmp_path / "kind.yaml"))]


def test_a_task_that_wants_a_label_for_each_token_is_named(tmp_path: Path) -> None:
    tagged = [{"text": row["text"], "label": f"O B-{row['label'].upper()}"} for row in rows_of(200)]
    (found,) = diagnose(written(tmp_path, tagged))
    assert found.mode == "needs_new_structure"
    told = [{"text": row["text"], "label": f"it is {row['label']}"} for row in rows_of(200)]
    assert diagnose(written(tmp_path, told)) == []


RECIPE_OF_TRAININGS: dict[str, Any] = {
    "input": "{text} =", "num_virtual_tokens": 8, "per_device_train_batch_size": 256, "max_steps": 6,
}  # fmt: skip


def trained(library: Library, base: Path, rows: list[dict[str, str]], **keys: Any) -> list[str]:
    """Train `kind`; what was noted meanwhile."""
    task = Task(**{"task": "kind", "base": str(base), "data": rows, "labels": ["yes", "no"]} | RECIPE_OF_TRAININGS | keys)
    session = Session(Causal(FrozenBase.load(str(base))), library=library)
    session.add(task)
    return [event.message for event in session.run() if isinstance(event, Noted)]


@pytest.mark.parametrize(
    ("mode", "keys", "said"),
    [
        ("rate_too_low", {"learning_rate": 1e-6}, "barely moved"),
        ("no_convergence", {"learning_rate": 1e-6}, "the training loss was"),
        ("prompt_too_short", {"num_virtual_tokens": 2}, "has little capacity"),
        ("poor_initialiser", {"prompt_tuning_init": "RANDOM"}, "random numbers lie near no token"),
        ("labels_begin_each_other", {"labels": ["yes", "yes no", "no"]}, "begin another's, so every label ends with <end>"),
        ("context_exhausted", {"input": "red red red red " * 18 + "{text} {text} {text} ="}, "were cut to fit the context"),
    ],
)
def test_what_shows_in_a_training_is_warned_of_there_and_named_after_it(
    tmp_path: Path, base_folder: Path, mode: str, keys: dict[str, Any], said: str
) -> None:
    with Library.open(tmp_path / "home") as library:
        noted = trained(library, base_folder, rows_of(200), **keys)
        found = diagnose("kind", library=library)
        assert mode in [one.mode for one in found]
        assert any(said in message for message in noted), noted
        # A run is diagnosed by its id as by the version that it has published.
        origin = library.registry.origin("kind@1")
        assert origin is not None
        assert diagnose(str(origin.run), library=library) == found


def test_a_run_that_has_not_ended_is_diagnosed_by_its_checkpoint(tmp_path: Path, base_folder: Path) -> None:
    rows, keys = rows_of(200), {"learning_rate": 1e-6, "max_steps": 20}
    with Library.open(tmp_path / "home") as library:
        task = Task(task="kind", base=str(base_folder), data=rows, labels=["yes", "no"], **RECIPE_OF_TRAININGS | keys)
        session = Session(Causal(FrozenBase.load(str(base_folder))), library=library)
        member = session.add(task)
        for _ in session.run():
            if member.prepared and member.run.step == 12:
                session.stop()
        (file,) = library.runs.glob("*.checkpoint")
        for name in (str(file), file.stem, file.name):
            assert [one.mode for one in diagnose(name, library=library)] == ["no_convergence"]
        file.write_bytes(b"no checkpoint")
        with pytest.raises(NotFound):
            diagnose(file.stem, library=library)


def test_a_base_whose_rows_see_padding_is_named(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    rows = [row | {"text": row["text"] + " red" * (n % 7)} for n, row in enumerate(rows_of(200))]
    with Library.open(tmp_path / "home") as library:
        softprompt.train(
            Task(task="kind", base=str(base_folder), data=rows, labels=["yes", "no"], **RECIPE_OF_TRAININGS), library=library
        )
        healthy = [one.mode for one in diagnose("kind", library=library, probe=True)]
        assert "mask_mismatch" not in healthy
        assert healthy == [one.mode for one in diagnose("kind", library=library)]
        # Prompts are padded on the left, and the mask that hides it is lost on the way.
        honest = Causal.run_padded

        def careless(self: Causal, stack: Any, *given: Any, **more: Any) -> Any:
            return honest(self, type(stack)(stack.vectors_KPD, stack.mask_KP | True, stack.lengths_K), *given, **more)

        monkeypatch.setattr(Causal, "run_padded", careless)
        monkeypatch.setattr(Causal, "shares_prefix", True)
        monkeypatch.setattr(Causal, "lines_agree", False)
        found = {one.mode: one for one in diagnose("kind", library=library, probe=True)}
        assert "each alone without padding, differ" in found["mask_mismatch"].evidence
    monkeypatch.undo()
    shown = run("diagnose", written(tmp_path, rows, f"base: {base_folder}", "labels: ['yes', 'no']"), "--probe", "--json")
    assert shown.rows == []


def test_a_probe_sees_tokens(tmp_path: Path, base_folder: Path) -> None:
    """What words cannot tell: that an input is cut, and that tokens of a label begin another's."""
    base = f"base: {base_folder}"
    rows = [*rows_of(200), {"text": "q" * 90, "label": "yes"}]
    file = written(tmp_path, rows, base, "labels: ['yes', 'no']", "num_virtual_tokens: 8")
    assert diagnose(file) == []
    assert [one.mode for one in diagnose(file, probe=True)] == ["context_exhausted"]
    rows = [row | {"label": "yesq" if row["label"] == "yes" else "yes"} for row in rows_of(200)]
    file = written(tmp_path, rows, base, "labels: ['yes', 'yesq']", "num_virtual_tokens: 8")
    assert diagnose(file) == []
    assert [one.mode for one in diagnose(file, probe=True)] == ["labels_begin_each_other"]


def test_the_page_names_every_mode_there_is() -> None:
    source = Path(softprompt.__file__).parent
    files = (source / "evaluation" / "findings.py", *(source / "lifecycle" / "diagnosis").glob("*.py"))
    named = set(MODES.values())
    for file in files:
        named.update(re.findall(r'(?:Finding|of_remark)\(\s*"([a-z_]+)"', file.read_text(encoding="utf-8")))
    page = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    table = page.partition("| mode | shows where |")[2].partition("\n\n")[0]
    said = {mode for line in table.splitlines() for mode in re.findall("`([a-z_]+)`", line.partition(" | ")[0])}
    assert named == said
