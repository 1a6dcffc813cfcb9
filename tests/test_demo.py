"""The demonstration leaves its base something to learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.demo import demo_tasks
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.baselines import baseline_trials, baselines_of
from softprompt.evaluation.trials import judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Silent
from softprompt.prompts import initialize
from softprompt.prompts.card import BASELINES


def test_no_baseline_solves_a_task_of_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTPROMPT_DATA", raising=False)
    base = FrozenBase.load("builtin/tiny")
    tasks = [task for task in demo_tasks(tmp_path, Silent()) if task.form.labels]
    assert len(tasks) == 2
    for task in tasks:
        del task.test[60:]
        test = task.encode(base, task.test, task.config.num_virtual_tokens, split="test")
        start_PD = initialize.from_labels(base, 20, task.form.encode_labels(base), task.config.seed)
        trials, _ = baseline_trials(base, task, start_PD, test)
        scores = baselines_of(task, test, result_of(judge(OfflineEngine(architecture_of(base)), trials)))
        assert all(scores[name] < 0.9 for name in BASELINES), (task.name, scores)
