"""Small prompt files for tests of the library, made without torch."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
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


def state_of(home: Path) -> dict[str, Any]:
    """All that a home holds: the bytes of its files, and the rows of its registry."""
    files = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    state: dict[str, Any] = {name: data for name, data in files.items() if not name.startswith("registry.db")}
    if "registry.db" in files:
        with closing(sqlite3.connect(home / "registry.db")) as link:
            state["registry.db"] = list(link.iterdump())
    return state
