"""What the killed processes do: change a library at random, and log each change only once it is acknowledged."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from softprompt.errors import LibraryError
from softprompt.library.library import Library
from tests.library_data import make_prompt

TASKS = ("alpha", "beta", "gamma")
ALIASES = ("production", "staging")


def work(home: str, registry: str | None, store: str | None, log: str, seed: int) -> None:
    """Go on until killed."""
    choose = random.Random(seed)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Library.open(home, registry=registry, store=store, actor=Path(log).stem) as library:
        for step in range(1_000_000):
            report = _change(library, choose, f"{seed}-{step}")
            os.write(handle, (json.dumps(report) + "\n").encode())
            os.fsync(handle)


def _change(library: Library, choose: random.Random, mark: str) -> dict[str, Any]:
    """One random change; what of it was acknowledged."""
    task = choose.choice(TASKS)
    draw = choose.random()
    try:
        if draw < 0.5:
            # One in three is of bytes that others publish, delete and collect too.
            seed = choose.randrange(4) if choose.random() < 0.3 else choose.getrandbits(60)
            version = library.publish(make_prompt(task, seed), base="builtin/tiny", tags=["t"])
            return {"did": "publish", "task": task, "number": version.number, "digest": version.digest}
        versions = library.registry.versions(task)
        newest = versions[-1].number
        number = max(1, newest - choose.randrange(8))
        if draw < 0.7:
            move = library.promote(f"{task}@{number}", choose.choice(ALIASES), reason=mark)
            return {"did": "promote" if move.before != move.after else "nothing", "task": task, "mark": mark}
        if draw < 0.75:
            library.rollback(task, choose.choice(ALIASES), reason=mark)
            return {"did": "rollback", "task": task, "mark": mark}
        if draw < 0.87:
            library.registry.delete(f"{task}@{number}")
            return {"did": "delete", "task": task, "number": number}
        if draw < 0.95:
            number = choose.choice([version.number for version in versions if version.deleted] or [number])
            library.restore(f"{task}@{number}")
            return {"did": "restore", "task": task, "number": number}
        return {"did": "gc", "digests": library.gc(purge_deleted=True)}
    except LibraryError as error:  # nothing to roll back, deleted already, ...: a refusal acknowledges nothing
        return {"did": "nothing", "why": str(error)[:200]}
