"""The benchmarks of small files, of languages and of what stands before a prompt: what their figures are of."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import initializers, languages, small
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from tests.models import make_base, some_prompt

pytestmark = pytest.mark.slow

LABELS = ("yes", "no")
ROWS = [{"text": f"{word} {n}", "label": label} for n in range(40) for word, label in (("red", "yes"), ("blue", "no"))]


def test_a_row_for_each_dtype_has_its_own_bytes_and_value() -> None:
    base, task = make_base("llama"), Task(task="t", data=ROWS, labels=LABELS, num_virtual_tokens=5)
    prompt = some_prompt(base, "t", labels=LABELS)
    rows = {row["dtype"]: row for row in small.measure(task, base, prompt, ["float32", "bfloat16", "int8"], None, Bars())}
    assert [row["vector_bytes"] for row in rows.values()] == [5 * 32 * 4, 5 * 32 * 2, 5 * 32 + 5 * 4]
    assert rows["float32"]["lost"] == rows["float32"]["error"] == rows["float32"]["changed"] == 0
    assert 0 < rows["bfloat16"]["error"] < rows["int8"]["error"] < 0.02
    for dtype, row in rows.items():
        assert row["bytes"] == len(prompt.as_dtype(dtype).to_bytes())  # type: ignore[arg-type]
        stored = prompt.as_dtype(dtype).vectors_PD  # type: ignore[arg-type]
        trial = Trial(task.form, stored, task.encode(base, task.test, 5, split="test"))
        (report,) = result_of(judge(OfflineEngine(architecture_of(base)), [trial]))
        assert (row["value"], row["rows"]) == (round(report.value, 4), len(task.test))
        assert row["loss"] == pytest.approx(report.loss, abs=1e-3)
        assert row["lost"] == round(rows["float32"]["value"] - row["value"], 4)


def test_languages_say_the_same_word_for_word_and_test_nouns_are_new() -> None:
    for words in languages.LANGUAGES.values():
        assert set(words) == set(languages.FRENCH)
        assert len(set(words.values())) == len(words)  # no two words are one
    english, french = (languages.sentences(name, test=False) for name in ("english", "french"))
    back = {there: here for here, there in languages.FRENCH.items()}
    assert [" ".join(back[word] for word in row["text"].split()) for row in french] == [row["text"] for row in english]
    nouns = [{row["text"].split()[2] for row in languages.sentences("english", test=test)} for test in (False, True)]
    assert not nouns[0] & nouns[1]
    assert {row["label"] for row in languages.sentences("french", test=True)} == set(languages.NOUNS)


def test_prompts_are_tried_on_every_language(tmp_path: Path) -> None:
    args = argparse.Namespace(
        languages=["english", "french"], rows=100, test_rows=9, P=6, steps=2, batch=4, validations=1
    )  # fmt: skip
    with Library.open(tmp_path / "home") as library:
        rows = languages.measure(make_base("llama"), args, 0, library, Bars())
    tried = [(row["tuned_on"], row["start"], row["tried_on"]) for row in rows if "tuned_on" in row]
    assert [(a, s[:7], b) for a, s, b in tried] == [
        ("english", "labels", "english"), ("english", "labels", "french"), ("french", "labels", "english"),
        ("french", "labels", "french"), ("french", "english", "english"), ("french", "english", "french"),
    ]  # fmt: skip
    assert [row["language"] for row in rows if "language" in row] == ["french"]
    assert {row["combined"] for row in rows if "combined" in row} == {"average", "ensemble"}


def test_a_network_is_compared_with_none_at_the_rate_that_validation_chose() -> None:
    def row(network: str, rate: float, validation: float, value: float) -> dict[str, object]:
        key = {"task": "t", "init": "LABELS", "P": 5, "network": network, "rate": rate, "train_rows": 9, "seed": 0}
        return {**key, "validation": validation, "value": value, "untrained": 0.1}

    rows = [row("none", 1, 0.5, 0.4), row("none", 2, 0.6, 0.5), row("LSTM", 1, 0.9, 0.7), row("LSTM", 2, 0.1, 0.8)]
    (found,) = [one for one in initializers.summarise(rows) if "over_none" in one]
    assert (found["network"], found["rate"], found["over_none"]) == ("LSTM", 1, pytest.approx(0.2))
