"""The demonstration: three tasks tuned at once on the built-in base, then answered in one mixed batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.library.library import Library
from softprompt.progress import Progress
from softprompt.serving.offline import Service
from softprompt.tasks import samples
from softprompt.tasks.task import Task


def demo_tasks(home: Path, progress: Progress) -> list[Task]:
    """The three tasks: on real data where SOFTPROMPT_DATA has them, else on data made by program; worded as the base has not
    been pretrained on, so that each has something to learn."""

    def made(rows: samples.Rows, name: str) -> dict[str, str]:
        return {"train": str(samples.write_rows(rows, home / "data" / f"{name}.jsonl").resolve())}

    headword = Task(
        task="headword",
        data=made(samples.headwords(), "headwords"),
        input="Definition: {definition}\nWord:",
        target=" {headword}",
        max_new_tokens=8,
        max_steps=300,
    )
    real = Path(os.environ.get("SOFTPROMPT_DATA", ""))
    if os.environ.get("SOFTPROMPT_DATA") and (real / "trec6").is_dir() and (real / "subjectivity").is_dir():
        progress.note(f"data: trec6 and subjectivity from {real}, headwords made by program")
        real = real.resolve()
        return [
            Task(
                task="trec6",
                data={split: str(real / "trec6" / f"{split}.jsonl") for split in ("train", "test")},
                input="{text}\nIt wants a",
                labels=["abbreviation", "entity", "description", "person", "location", "number"],
                max_steps=200,
            ),
            Task(
                task="subjectivity",
                data={split: str(real / "subjectivity" / f"{split}.jsonl") for split in ("train", "test")},
                input="Text: {text}\nThis is",
                labels=["subjective", "objective"],
                max_steps=100,
            ),
            headword,
        ]
    progress.note("data: all made by program; set SOFTPROMPT_DATA to a folder with trec6 and subjectivity for real data")
    return [
        Task(
            task="questions",
            data=made(samples.questions(), "questions"),
            input="{text}\nIt wants a",
            labels=["person", "location", "number", "description"],
            max_steps=100,
        ),
        Task(
            task="remarks",
            data=made(samples.remarks(), "remarks"),
            input="Review: {text}\nSentiment:",
            labels=["positive", "negative"],
            max_steps=100,
        ),
        headword,
    ]


def answer_mixed_batch(tasks: Sequence[Task], home: Path, each: int = 3) -> list[dict[str, Any]]:
    """Answer a few test rows of every task, their rows interleaved, with the answers that were expected."""
    rows = [(task, task.test[rank]) for rank in range(each) for task in tasks]
    texts = [str(row[task.form.input.fields[0]]) for task, row in rows]
    predictions = Service(Library.open(home)).predict(texts, [task.name for task, _ in rows])
    return [
        {"task": answer.task, "text": answer.text, "output": answer.output, "expected": row[task.form.target_field]}
        for answer, (task, row) in zip(predictions, rows, strict=True)
    ]
