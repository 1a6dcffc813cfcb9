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
from softprompt.training.run import Tuned
from softprompt.training.train import train


def demo_tasks(home: Path, progress: Progress) -> list[Task]:
    """The three tasks: on real data where SOFTPROMPT_DATA has them, else on data made by program."""
    data = home / "data"
    words = samples.write_rows(samples.headwords(), data / "headwords.jsonl")
    headword = Task(
        task="headword",
        data={"train": str(words.resolve())},
        input="Definition: {definition}\nWord:",
        target=" {headword}",
        max_new_tokens=8,
        max_steps=300,
    )
    real = Path(os.environ.get("SOFTPROMPT_DATA", ""))
    if os.environ.get("SOFTPROMPT_DATA") and (real / "trec6").is_dir() and (real / "subjectivity").is_dir():
        progress.note(f"data: trec6 and subjectivity from {real}, headwords made by program")
        return [_real_task("trec6", real), _real_task("subjectivity", real), headword]
    progress.note("data: all made by program; set SOFTPROMPT_DATA to a folder with trec6 and subjectivity for real data")
    asked = samples.write_rows(samples.questions(), data / "questions.jsonl")
    told = samples.write_rows(samples.remarks(), data / "remarks.jsonl")
    return [
        Task(
            task="questions",
            data={"train": str(asked.resolve())},
            input="Question: {text}\nType:",
            labels=["person", "location", "number", "description"],
            max_steps=100,
        ),
        Task(
            task="remarks",
            data={"train": str(told.resolve())},
            input="Review: {text}\nSentiment:",
            labels=["positive", "negative"],
            max_steps=100,
        ),
        headword,
    ]


def _real_task(name: str, folder: Path) -> Task:
    forms: dict[str, dict[str, Any]] = {
        "trec6": {
            "input": "Question: {text}\nType:",
            "labels": ["abbreviation", "entity", "description", "person", "location", "number"],
            "max_steps": 200,
        },
        "subjectivity": {
            "input": "Text: {text}\nThis is",
            "labels": ["subjective", "objective"],
            "max_steps": 100,
        },
    }
    at = folder.resolve() / name
    return Task(task=name, data={"train": str(at / "train.jsonl"), "test": str(at / "test.jsonl")}, **forms[name])


def tune_demo(tasks: Sequence[Task], home: Path, progress: Progress) -> list[Tuned]:
    """Tune all three at once into a library of their own."""
    return train(list(tasks), library=Library.open(home), progress=progress)


def answer_mixed_batch(tasks: Sequence[Task], home: Path, each: int = 3) -> list[dict[str, Any]]:
    """Answer a few test rows of every task, their rows interleaved, with the answers that were expected."""
    asked = [(task, row) for rank in range(each) for task in tasks for row in [task.test[rank]]]
    texts = [str(row[task.form.input.fields[0]]) for task, row in asked]
    told = Service(Library.open(home)).predict(texts, [task.name for task, _ in asked])
    return [
        {
            "task": prediction.task,
            "text": prediction.text,
            "output": prediction.output,
            "expected": row[task.form.target_field],
        }
        for prediction, (task, row) in zip(told, asked, strict=True)
    ]
