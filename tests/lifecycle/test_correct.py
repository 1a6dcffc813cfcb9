"""Corrections learnt, of a file and of clients: nothing is forgotten, and what is worse is not put in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softprompt import correct, predict
from softprompt.errors import ConfigError, DataError, FingerprintMismatch, NotFound, TrainingStopped
from softprompt.evaluation.trials import Report
from softprompt.library.library import Library
from softprompt.lifecycle import feedback
from softprompt.lifecycle.learning import _right
from softprompt.progress import Mute
from softprompt.tasks.answers.decision import Question
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form
from softprompt.training.train import train
from tests.commands import Run
from tests.lifecycle.rows import ROWS, a_task
from tests.models import make_base, some_prompt, steerable_base

NEW = [{"text": "stone", "label": "yes"}, {"text": "river", "label": "no"}]


def said(library: Library, words: list[str], ref: str = "kind") -> list[str]:
    return [one.output for one in predict(words, ref, library=library)]


def wrong_rows(library: Library) -> list[dict[str, str]]:
    """Words that the task has not seen, with the answers that it does not give."""
    words = ["stone", "river", "good"]
    return [
        {"text": word, "label": "no" if label == "yes" else "yes"}
        for word, label in zip(words, said(library, words), strict=True)
    ]


def test_corrections_are_learnt_and_nothing_is_forgotten(library: Library) -> None:
    rows = wrong_rows(library)
    made = correct("kind", rows, steps=60, library=library, progress=Mute())
    assert (made.old_version, made.new_version, made.corrections) == (1, 2, 3)
    assert (made.fixed_before, made.fixed, made.old, made.value) == (0.0, 1.0, 1.0, 1.0)
    assert (made.promoted, made.replay) == (True, 4)
    assert said(library, [row["text"] for row in rows]) == [row["label"] for row in rows]
    assert said(library, [row["text"] for row in ROWS]) == [row["label"] for row in ROWS]
    assert library.registry.aliases.of("kind") == {"production": 2}
    version = library.registry.resolve("kind@2")
    assert version.card.recipe["correct"] == {
        "from": "kind@1", "corrections": 3, "replay": 4, "digest": version.card.recipe["correct"]["digest"],
    }  # fmt: skip
    assert version.card.parents == (library.registry.resolve("kind@1").digest,)
    origin, before = library.registry.origin("kind@2"), library.registry.origin("kind@1")
    assert origin is not None
    assert before is not None
    assert origin.task_file == before.task_file  # so that it is trained again and carried over like any other
    with pytest.raises(NotFound, match="no correction that no version was made with; add --every to learn again the 3"):
        correct("kind", steps=60, library=library, progress=Mute())


def test_those_that_clients_sent_are_learnt_once_and_kept_later(library: Library) -> None:
    first, second, _ = wrong_rows(library)
    for row in (first, {**second, "label": "yes" if second["label"] == "no" else "no"}, second):  # the last word counts
        feedback.take(library, model="kind", correct={"input": row["text"], "answer": row["label"]})
    made = correct("kind", steps=60, library=library, progress=Mute())
    assert (made.corrections, made.fixed, made.promoted) == (2, 1.0, True)
    kept = library.registry.feedback.corrections("kind")
    assert [one.used_by for one in kept] == [2, 2, 2]
    third = wrong_rows(library)[2]
    again = correct("kind", [third], steps=60, library=library, progress=Mute())
    assert (again.old_version, again.new_version, again.corrections, again.replay) == (2, 3, 1, 6)
    answered = [first, second, third, *ROWS]
    assert said(library, [row["text"] for row in answered]) == [row["label"] for row in answered]
    every = correct("kind", every=True, steps=60, library=library, progress=Mute())
    assert (every.corrections, every.fixed, every.new_version) == (3, 1.0, None)
    assert every.reason.endswith("every correction is right already")


def test_the_new_version_is_asked_and_calibrated_as_the_old_one_is(
    library: Library, tmp_path: Path, old_folder: Path
) -> None:
    """What a task file says of answers is kept from version to version, and a temperature is found for the new vectors."""
    words = {"id2label": {"1": "yes", "0": "no"}, "fold_labels": True, "no_answer": "no"}
    question = {"decision": {"type": "predicate", "instructions": "Is it a word?"}}
    train(a_task(tmp_path, task="told", base=str(old_folder), **words, **question), library=library, progress=Mute())
    made = correct("told", [{"text": "stone", "label": "1"}, {"text": "river", "label": "NO"}], library=library)
    assert (made.new_version, made.corrections) == (2, 2)
    before, now = (library.registry.resolve(f"told@{number}").card for number in (1, 2))
    assert Form.of_card(now) == Form.of_card(before)
    assert Question.of_card(now) == Question.of_card(before)
    assert Question.of_card(now) is not None
    assert {"temperature", "id2label"} <= now.recipe.keys()
    again = correct("told", [{"text": "good", "label": "0"}], library=library)  # by the form of the new one
    assert again.old_version == library.registry.resolve("told").number


def test_a_level_is_right_where_it_is_the_nearest_one(library: Library, tmp_path: Path, old_folder: Path) -> None:
    """A prompt says the mean over levels, which is just a level in no case."""
    task = a_task(tmp_path, task="levels", base=str(old_folder), problem_type="regression", labels=["no", "yes"])
    train(task, library=library, progress=Mute())
    rows = [{"text": word, "label": "yes"} for word in ("stone", "river")]
    assert not {"1", "2"} & {*said(library, ["stone", "river"], "levels")}
    made = correct("levels", rows, steps=60, library=library, progress=Mute())
    assert (made.fixed_before < 1, made.fixed, made.promoted) == (True, 1.0, True)
    form, report = Form.of_card(library.registry.resolve("levels").card), Report("mae", 0.0, 3, 0.0, ["1.49", "1.51", "2"])
    assert _right(form, report, ["no", "no", "yes"]) == pytest.approx(2 / 3)


def test_blanks_around_an_answer_make_it_no_other() -> None:
    form = Form.of_config(parse_config({"task": "t", "target": " {answer}"}))
    assert _right(form, Report("exact_match", 0.0, 2, 0.0, ["Paris", "Rome"]), ["Paris ", "Oslo"]) == 0.5


def test_a_call_that_is_cut_short_before_the_gate_is_made_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published and never judged is not all that becomes of corrections."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    (row, *_) = wrong_rows(library)
    feedback.take(library, model="kind", correct={"input": row["text"], "answer": row["label"]})
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.lifecycle.gate.promote_if_as_good", die)
        with pytest.raises(KeyboardInterrupt):
            correct("kind", steps=60, library=library, progress=Mute())
    assert library.registry.resolve("kind").number == 1
    made = correct("kind", steps=60, library=library, progress=Mute())
    assert (made.corrections, made.fixed, made.promoted) == (1, 1.0, True)
    assert said(library, [row["text"]]) == [row["label"]]
    assert [one.used_by for one in library.registry.feedback.corrections("kind")] == [made.new_version]


def test_what_would_forget_the_task_is_not_put_in_place(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections that say the opposite of all that the task knew."""
    monkeypatch.setattr("softprompt.lifecycle.learning.RATE", 1.0)
    rows = [row | {"label": "no" if row["label"] == "yes" else "yes"} for row in ROWS]
    made = correct("kind", rows, steps=60, library=library, progress=Mute())
    assert (made.new_version, made.promoted, made.replay) == (2, False, 0)
    assert "not promoted: accuracy" in made.reason
    assert "4 test rows have the input of a correction" in made.reason
    assert library.registry.resolve("kind").number == 1


def test_what_is_wrong_is_told_and_nothing_changes(library: Library, tmp_path: Path) -> None:
    library.publish(some_prompt(steerable_base(), "bare").to_bytes(), base="x/y")
    state = library.registry.state()
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NotFound, "task 'kind' has no correction that no version was made with; send some", {}),
        (DataError, "perhaps", {"data": [{"text": "stone", "label": "perhaps"}]}),
        (DataError, "text", {"data": [{"word": "stone", "label": "yes"}]}),
        (DataError, r"none\.jsonl", {"data": tmp_path / "none.jsonl"}),
    ]
    for error, words, options in wrong:
        with pytest.raises(error, match=words):
            correct("kind", library=library, progress=Mute(), **options)
    with pytest.raises(ConfigError, match="bare@1 came without the task file"):
        correct("bare", NEW, steps=60, library=library, progress=Mute())
    assert library.registry.feedback.corrections("kind") == []
    with pytest.raises(FingerprintMismatch):
        correct("kind", NEW, base=make_base("llama"), steps=60, library=library, progress=Mute())
    import threading

    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingStopped, match="nothing was published, and the corrections are kept"):
        correct("kind", wrong_rows(library), stop=stop, steps=60, library=library, progress=Mute())
    assert library.registry.state() == state
    assert len(library.registry.versions("kind")) == 1
    assert {one.used_by for one in library.registry.feedback.corrections("kind")} == {None}


def test_the_command(run: Run, library: Library, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in wrong_rows(library)))
    home = ["--home", str(library.home), "--json"]
    (row,) = run("correct", "kind", "--data", file, "--steps", "60", *home).rows
    names = ("task", "old_version", "new_version", "corrections", "fixed", "old", "value", "promoted", "reason", "seconds")
    assert set(names) <= row.keys()
    assert (row["old_version"], row["new_version"], row["corrections"], row["fixed"]) == (1, 2, 3, 1.0)
    assert "no correction that no version was made with" in run("correct", "kind", "--home", library.home).refused()
