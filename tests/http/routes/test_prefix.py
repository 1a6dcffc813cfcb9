"""Prefixes over HTTP, beside soft prompts in one engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.serving.offline import Service
from tests.http_server import LABELS, serving
from tests.models import some_prefix, some_prompt


def test_a_server_answers_with_both_kinds_as_predict_does(tmp_path: Path, base_folder: Path) -> None:
    base = FrozenBase.load(str(base_folder))
    texts = ["red apple", "the stone", "a river of blue"]
    with Library.open(tmp_path / "home") as library:
        prompts = [
            some_prefix(base, "prefix", seed=1, rows=3, labels=LABELS),
            some_prompt(base, "soft", seed=2, rows=7, labels=LABELS),
            some_prefix(base, "writes", seed=3, metric="exact_match", max_new_tokens=5),
        ]
        for prompt in prompts:
            library.publish(prompt.to_bytes(), base=base.address)
        expected = {prompt.card.task: Service(library, base=base).predict(texts, prompt.card.task) for prompt in prompts}
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as running:
            for task in ("prefix", "soft"):
                data = running.http.post(f"{running.url}/v1/classify", json={"model": task, "input": texts}).json()["data"]
                for row, answer in zip(data, expected[task], strict=True):
                    assert row["label"] == answer.output
                    assert row["scores"] == pytest.approx(answer.scores, abs=1e-4)
            with running.client() as client:
                for text, answer in zip(texts, expected["writes"], strict=True):
                    said = (
                        client.completions.create(model="writes", prompt=text, max_tokens=5, temperature=0).choices[0].text
                    )
                    assert said.strip() == answer.output
            held = sum(prompt.vectors_PD.numel() * 4 for prompt in prompts)
            assert running.service.residents.status().bytes == held
            assert running.engine.status().prefix_bytes == 7 * prompts[0].card.token_dim * 4  # of the soft prompt alone
