"""An export used as its README says, with nothing of ours: the code that stands there is what runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.reading import quiet
from softprompt.library.library import Library
from softprompt.serving.offline import Prediction, Service
from tests.models import some_prompt

TEXTS = ["red apple", "good", "river of stone?", "a", "number 12 is true"]


def used(folder: Path) -> dict[str, Any]:
    """What the README's code defines: `ids`, `generate`, `scores`, the model and the tokenizer."""
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    line = f'folder = "{folder.name}"'
    assert line in code
    names: dict[str, Any] = {}
    with quiet():
        exec(code.replace(line, f"folder = {str(folder)!r}"), names)
    return names


@contextmanager
def library_of(home: Path, base: FrozenBase, address: Path) -> Iterator[Library]:
    """A task that writes, one with labels whose prompt is placed, and one of two columns."""
    with Library.open(home) as library:
        for prompt in (
            some_prompt(base, "words", seed=1, labels=None, metric="exact_match", input="Say: {text} =", max_new_tokens=6),
            some_prompt(base, "kind", seed=2, rows=3, labels=("yes", "no", "stone"), input="the {soft_prompt}\n{text} is"),
            some_prompt(base, "pair", seed=3, rows=1, labels=("good", "bad"), input="{text} {other}"),
        ):
            library.publish(prompt.to_bytes(), base=str(address))
        yield library


def check_answers(made: dict[str, Any], library: Library, base: FrozenBase | None = None) -> None:
    """An export's answers are ours."""
    tasks = ["words", "kind", "pair"]
    rows = [{"text": text, "other": text[::-1]} for text in TEXTS]
    asked = [(task, row if task == "pair" else {"text": row["text"]}) for task in tasks for row in rows]
    ours = Service(library, base=base).predict([row for _, row in asked], [task for task, _ in asked])
    for (task, row), answer in zip(asked, ours, strict=True):
        if task == "words":
            assert made["generate"](task, row) == answer.output
        else:
            check_scores(made, task, row, answer)


def check_scores(made: dict[str, Any], task: str, row: dict[str, str], answer: Prediction) -> None:
    """Probabilities of labels, those of the export from its logits."""
    assert answer.scores is not None
    scores = made["scores"](task, row)
    assert [*scores] == [*answer.scores]
    found = torch.tensor([*scores.values()]).softmax(0)
    assert torch.allclose(found, torch.tensor([*answer.scores.values()]), atol=2e-5), (scores, answer.scores)


def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """T x V of one row."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits
