"""Harnesses that others wrote, run for real against a served prompt, on tasks of local files: lm-eval and inspect-ai say of
it what this package does."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.evaluation.suites.run import run_suites
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute
from softprompt.serving.offline import Service
from tests.http_server import Running, serving
from tests.models import some_prompt

pytestmark = [pytest.mark.harness, pytest.mark.filterwarnings("default")]

LABELS = ("animal", "colour", "place")
TEXTS = ["The horse runs", "It is a deep red", "They went to Paris", "A dog barks", "Blue as the sky", "In the old town"]
INPUT = "Say what it is about: {text}\nKind:"
INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def kind():
    data = json_dataset({rows!r}, FieldSpec(input="text", target="label"))
    return Task(dataset=data, solver=generate(), scorer=match(location="exact"))
"""
PATIENCE_S = 600
TOKENIZER = files("softprompt.bases") / "builtin" / "tiny"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = FrozenBase.load("builtin/tiny")
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        prompt = some_prompt(base, "kind", seed=1, rows=8, labels=LABELS, input=INPUT)
        library.publish(prompt.to_bytes(), base="builtin/tiny")
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as found:
            yield found


def run(folder: Path, *command: str, **variables: str) -> None:
    """A harness, without a network."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), **variables}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    given = [{"text": text, "label": LABELS[number % 3]} for number, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return file


def test_lm_eval_gives_each_label_the_score_that_the_prompt_does(running: Running, rows: Path, tmp_path: Path) -> None:
    task = {
        "task": "kind_served",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": INPUT.replace("{text}", "{{text}}"),
        "doc_to_choice": list(LABELS),
        "doc_to_target": "label",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "kind_served.yaml").write_text(json.dumps(task))
    how = f"base_url={running.url}/v1/completions,model=kind,tokenizer={TOKENIZER}"
    run(
        tmp_path, "lm_eval", "--model", "local-completions", "--include_path", str(tmp_path), "--tasks", "kind_served",
        "--model_args", f"{how},tokenizer_backend=huggingface,num_concurrent=1,max_length=512", "--batch_size", "4",
        "--output_path", str(tmp_path / "out"), "--log_samples", OPENAI_API_KEY="none",
    )  # fmt: skip
    (said,) = tmp_path.glob("out/**/samples_kind_served_*.jsonl")
    samples = [json.loads(line) for line in said.read_text().splitlines()]
    with Library.open(running.library.home) as library:
        predicted = Service(library, base=running.base).predict(TEXTS, "kind")
    assert len(samples) == len(TEXTS)
    for sample in samples:
        own = predicted[TEXTS.index(sample["doc"]["text"])]
        sums = [float(answer[0][0]) for answer in sample["resps"]]
        chances = [math.exp(one - max(sums)) for one in sums]
        assert own.scores is not None
        assert [one / sum(chances) for one in chances] == pytest.approx(list(own.scores.values()), abs=1e-4)
    (told,) = tmp_path.glob("out/**/results_*.json")
    accuracy = json.loads(told.read_text())["results"]["kind_served"]["acc,none"]
    right = [one.output == LABELS[number % 3] for number, one in enumerate(predicted)]
    assert accuracy == pytest.approx(sum(right) / len(right))


def test_inspect_hears_what_the_prompt_predicts(running: Running, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "kind.py").write_text(INSPECT.format(rows=str(rows)))
    run(
        tmp_path, "inspect_ai", "eval", "kind.py", "--model", "openai-api/sp/kind", "--log-format", "json", "--log-dir",
        "logs", "--display", "plain", SP_BASE_URL=f"{running.url}/v1", SP_API_KEY="none",
    )  # fmt: skip
    (file,) = (tmp_path / "logs").glob("*.json")
    log: dict[str, Any] = json.loads(file.read_text())
    assert log["status"] == "success"
    with Library.open(running.library.home) as library:
        predicted = Service(library, base=running.base).predict(TEXTS, "kind")
    said = {sample["input"]: sample["output"]["choices"][0]["message"]["content"] for sample in log["samples"]}
    assert said == {text: one.output for text, one in zip(TEXTS, predicted, strict=True)}


@pytest.fixture
def suite(rows: Path, tmp_path: Path) -> Path:
    """A suite of lm-eval and one of inspect, of the same rows; the tasks name them from the suite's folder."""
    task = {
        "task": "kind_served", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows.name}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": INPUT.replace("{text}", "{{text}}"),
        "doc_to_choice": list(LABELS), "doc_to_target": "label", "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "kind_served.yaml").write_text(json.dumps(task))
    (tmp_path / "kind.py").write_text(INSPECT.format(rows=str(rows)))
    for name, harness in (
        ("served", {"runner": "lm-eval", "task": "kind_served", "folder": "tasks"}),
        ("asked", {"runner": "inspect", "task": "kind.py"}),
    ):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"harness": harness}))
    return tmp_path


def test_suites_of_both_keep_what_each_row_counts(
    running: Running, suite: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a server that runs, and by one that is started for them: `predict` and both harnesses say one thing."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}.items():
        monkeypatch.setenv(name, value)
    with Library.open(running.library.home) as library:
        predicted = [one.output for one in Service(library, base=running.base).predict(TEXTS, "kind")]
        for url in (running.url, None):
            files = [suite / "served.yaml", suite / "asked.yaml"]
            found = {one.suite: one for one in run_suites("kind", files, library=library, url=url, progress=Mute())}
            assert found["served"].answers == found["asked"].answers == tuple(predicted)
            assert found["served"].right == tuple(LABELS[number % 3] for number in range(len(TEXTS)))
            right = tuple(float(one == LABELS[number % 3]) for number, one in enumerate(predicted))
            assert [(check.name, check.values) for check in found["served"].checks] == [("acc", right)]
            assert [(check.name, check.values) for check in found["asked"].checks] == [("match", right)]
            assert library.registry.outcomes.one("kind", "asked").digest == found["asked"].digest
