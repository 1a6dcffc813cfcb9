"""Rows and a task of words that a base can be steered to answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softprompt.tasks.task import Task

WORDS = ("red", "green", "blue", "apple")
ROWS = [{"text": word, "label": "yes" if number % 2 else "no"} for number, word in enumerate(WORDS)]


def data_file(folder: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def a_task(folder: Path, **fields: Any) -> Task:
    file = str(data_file(folder))
    known: dict[str, Any] = {
        "task": "kind", "data": {"train": file, "validation": file, "test": file}, "input": " {text} =",
        "labels": ["yes", "no"], "num_virtual_tokens": 5, "max_steps": 30, "learning_rate": 0.05,
    }  # fmt: skip
    return Task(**(known | fields))
