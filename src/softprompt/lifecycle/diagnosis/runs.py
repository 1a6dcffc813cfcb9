"""Runs: those that have ended, by their ids, and those that have not, by their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.evaluation.findings import Finding, of_losses

if TYPE_CHECKING:
    from softprompt.library.library import Library


def history_of(library: Library, ref: str) -> list[dict[str, Any]]:
    """What each validation of a version's training said; nothing where it was made elsewhere."""
    file = library.histories / f"{ref}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def find_run(library: Library, name: str) -> str | Mapping[str, Any] | None:
    """The version that a run has published, or what is kept of runs that have not ended; None where there is no such run.

    Args:
        name: of a run, the id that `show` tells; of a checkpoint its file, or the name of that in `runs/`, its end or not.
    """
    if (ref := library.registry.version_of_run(name)) is not None:
        return ref
    named = Path(name) if name.endswith(".checkpoint") else Path(f"{name}.checkpoint")
    file = next((one for one in (named, library.runs / named) if one.is_file()), None)
    if file is None:
        return None
    import torch

    try:
        state: Any = torch.load(file, weights_only=True, map_location="cpu")
    except Exception:  # a damaged file fails in many ways
        return None
    return state["runs"] if isinstance(state, dict) and isinstance(state.get("runs"), dict) else None


def of_run(states: Mapping[str, Any]) -> Iterator[Finding]:
    """What shows in runs that have not ended: their losses, and that one was given up."""
    for state in states.values():
        for run in state["runs"][:1]:  # the others are its folds
            if run["failure"] is not None:
                yield Finding.of_remark("no_numbers", str(run["failure"]), "lower learning_rate, or take --dtype float32")
            yield from of_losses(run["history"], learnt=False)
