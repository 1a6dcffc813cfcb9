"""Uploads and jobs for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.bases.options import BaseOptions
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.records import Job
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.worker import trainer, work
from softprompt.library.library import Library

SHORT = {"max_steps": 12, "num_virtual_tokens": 6, "per_device_train_batch_size": 4, "learning_rate": 0.1}
"""A recipe of a second."""

ROWS = [
    {"text": f"the {colour} {thing} {number}", "label": "good" if colour == "red" else "bad"}
    for number in range(8)
    for colour in ("red", "blue")
    for thing in ("apple", "stone")
]


def lines(rows: Sequence[Mapping[str, Any]] = ROWS) -> bytes:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def chat(asked: str, answer: str, system: str | None = None) -> dict[str, Any]:
    """A row in OpenAI's shape."""
    turns = [("user", asked), ("assistant", answer)]
    if system is not None:
        turns.insert(0, ("system", system))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def queue_job(library: Library, folder: Path, task: str = "one", *, fingerprint: str | None = None, **fields: Any) -> Job:
    """A job on the base in a folder, which clients call `tiny-llama`; on no other than that of a fingerprint."""
    if "training_file" not in fields:
        fields["training_file"] = Uploads(library).add(lines(), "rows.jsonl").name
    settings = SHORT | fields.pop("softprompt", {})
    request = JobRequest(model="tiny-llama", suffix=task, softprompt=settings, **fields)
    return Jobs(library, most_trained=1 << 62).create(request, {"tiny-llama": str(folder)}, fingerprint=fingerprint)


def do_all(library: Library) -> None:
    """Be the worker until nothing is left to do."""
    work(library, trainer(BaseOptions(dtype="float32", device="cpu"), 30), idle_seconds=0.05)


def conversation(*said: str, weights: Sequence[int | None] = (), system: str | None = None) -> dict[str, Any]:
    """A row of several turns in OpenAI's shape: of the user and, with these weights, of the assistant in turn."""
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    for place, content in enumerate(said):
        messages.append({"role": "assistant" if place % 2 else "user", "content": content})
        if place % 2 and weights and weights[place // 2] is not None:
            messages[-1]["weight"] = weights[place // 2]
    return {"messages": messages}


def pair(asked: str, chosen: str, rejected: str) -> dict[str, Any]:
    """A preference in OpenAI's shape."""
    return {
        "input": {"messages": [{"role": "user", "content": asked}], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": chosen}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


CHAT_TEMPLATE = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '<end>' }}{% endfor %}" + (
    "{% if add_generation_prompt %}a:{% endif %}"
)
"""A template of few tokens, for a base of a small context."""
