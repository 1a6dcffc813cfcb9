"""Prompts that mean something on any base: the vectors of a text, each turned a little, so that no token has them."""

from __future__ import annotations

from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt

WORDED = {
    "capitals": ("Answer with one word.", "The capital of {text} is"),
    "sums": ("You add numbers.", "{text} ="),
    "placed": (
        "Be brief.",
        "<|im_start|>system\n{soft_prompt}\n<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
    ),
}
"""The text whose vectors a task has, and its template."""
TEXTS = ["France", "12 + 30", "The sun is a star.", "Say hello to Anna."]
LABELS = ("Paris", "Berlin", "New York")


def soft(base: FrozenBase, task: str, **fields: Any) -> SoftPrompt:
    """The prompt of a task of :data:`WORDED`; of any other, of its first."""
    told, _ = WORDED.get(task, WORDED["capitals"])
    (ids,) = base.encode([told])
    noise = torch.randn(len(ids), base.width, generator=torch.Generator().manual_seed(len(task)))
    vectors = base.embed(torch.tensor(ids)).float() + 0.3 * base.spread * noise
    card = Card(
        task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=len(ids), token_dim=base.width, **fields
    )
    return SoftPrompt(vectors.detach(), card)


def publish_worded(library: Library, base: FrozenBase, address: str) -> None:
    """All tasks of :data:`WORDED`, which write, and `choice`, which has labels."""
    for task, (_, template) in WORDED.items():
        form = {"labels": None, "metric": "exact_match", "input": template, "max_new_tokens": 12}
        library.publish(soft(base, task, **form).to_bytes(), base=address)
    form = {"labels": LABELS, "input": WORDED["capitals"][1], "target": " {label}"}
    library.publish(soft(base, "choice", **form).to_bytes(), base=address)
