"""The made-up rows and task files of ten tasks, each of a few seconds of training."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = {
    "mood": {"positive": "lovely splendid delightful wonderful", "negative": "awful dreadful horrible boring"},
    "size": {"big": "huge enormous giant vast", "small": "tiny little minute slight"},
    "heat": {"hot": "boiling burning scorching steaming", "cold": "frozen icy chilly snowy"},
    "speed": {"fast": "swift rapid hasty sudden", "slow": "lazy crawling sleepy delayed"},
    "age": {"old": "ancient antique worn former", "new": "fresh modern recent young"},
    "tone": {"kind": "gentle friendly caring warm", "rude": "insulting nasty angry hostile"},
    "food": {"sweet": "sugary honeyed candied ripe", "sour": "bitter acid sharp salty"},
    "light": {"bright": "shining sunny golden white", "dark": "black shadowy dim cloudy"},
    "noise": {"loud": "roaring shouting thundering screaming", "quiet": "silent whispering calm still"},
}
"""Of each task that gives labels, the words that tell them."""
WRITES = "note"
"""The task whose answers are written: it says the first noun again."""
NOUNS = "apple river stone house garden window letter bridge".split()
DRIFTED = "Please find attached invoice number {} for {} units of part {}, payable within {} days of delivery to our office."


def rows_of(task: str, count: int, seed: str) -> list[dict[str, str]]:
    """Rows with answers, all of them different."""
    draw, rows = random.Random(f"{task} {seed}"), dict[str, str]()
    while len(rows) < count:
        noun, other = draw.sample(NOUNS, 2)
        label = noun if task == WRITES else list(WORDS[task])[len(rows) % 2]
        words = "plain" if task == WRITES else WORDS[task][label]
        text = f"the {noun} by the {other} was {draw.choice(words.split())} on day {draw.randrange(1, 29)}"
        rows.setdefault(text, label)
    return [{"text": text, "label": label} for text, label in rows.items()]


def drifted(count: int) -> list[str]:
    """Texts unlike all rows."""
    draw = random.Random("drifted")
    return [DRIFTED.format(*(draw.randrange(10, 9999) for _ in range(4))) for _ in range(count)]


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """As JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(task: str) -> dict[str, Any]:
    """The keys of a task file beside its name, base and data."""
    form: dict[str, Any] = {"input": "{text}\nIt was", "labels": list(WORDS.get(task, ()))}
    if task == "mood":  # which the base nearly knows, so that there is something to lose
        form["input"] = "Review: {text}\nSentiment:"
    if task == WRITES:
        form = {"input": "{text}\nIt was the", "target": " {label}", "max_new_tokens": 3}
    return form | {
        "num_virtual_tokens": 8,
        "max_steps": 16,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.03,
        "eval_per_epoch": 1,
        "seed": 1,
    }


def write_task(folder: Path, task: str, **more: Any) -> Path:
    """A task file and its rows: 64 to train on, 24 for validation, 40 for the test."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        split: str(write_rows(folder / f"{task}-{split}.jsonl", rows_of(task, count, split)))
        for split, count in (("train", 64), ("validation", 24), ("test", 40))
    }
    path = folder / f"{task}.yaml"
    path.write_text(
        json.dumps({"task": task, "base": "builtin/tiny", "data": data} | recipe(task) | more)
    )  # YAML holds JSON
    return path
