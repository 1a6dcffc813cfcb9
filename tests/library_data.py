"""Small prompt files for tests of the library, made without torch."""

from __future__ import annotations

from typing import Any

from softprompt.prompts.card import Card
from softprompt.prompts.file import Stored, write_file


def make_prompt(task: str = "trec6", seed: int = 0, **fields: Any) -> bytes:
    """A prompt file of 2 x 4 floats; another seed gives another digest. `fields` go into its card."""
    fields.setdefault("base", "builtin/tiny")
    fields.setdefault("fingerprint", "0123456789abcdef" * 2)
    card = Card(task=task, num_virtual_tokens=2, token_dim=4, **fields)
    data = (seed % 2**64).to_bytes(8, "little") * 4
    return write_file(card, {"prompt_embeddings": Stored("F32", (2, 4), data)})


def scored(value: float, rows: int = 500, **more: float) -> dict[str, float]:
    """Metrics of a card."""
    return {"value": value, "rows": rows, **more}
