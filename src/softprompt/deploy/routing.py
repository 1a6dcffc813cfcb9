"""Which replica answers a request: one that holds the prompt already, unless too many requests wait there. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b

REPEATABLE = frozenset(
    f"/v1/{name}"
    for name in ("completions", "chat/completions", "classify", "decisions", "embeddings", "moderations", "responses")
)
"""Routes whose POST changes nothing but counters, so that one which a replica did not answer may be sent to another."""


def task_of(body: bytes) -> str | None:
    """The task that a request's body names, whatever version of it; None where it names none, which the replica tells."""
    try:
        model = json.loads(body)["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return model.partition("@")[0] if isinstance(model, str) else None


def ranked(task: str, replicas: Mapping[str, int]) -> list[str]:
    """Replicas by rendezvous hashing (Thaler and Ravishankar, 1998): each task has an order of its own, in which a replica
    that comes or goes moves no other. So a task's requests find its prompt in memory."""

    def weight(replica: str) -> bytes:
        return blake2b(f"{replica}\0{task}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return sorted(replicas, key=weight, reverse=True)


def choose(task: str, running: Mapping[str, int], enough: int) -> str:
    """The replica for a request: the first in the task's order that runs fewer than `enough` requests, else that with the
    fewest.

    Args:
        running: requests under way at each replica, one at least.
    """
    order = ranked(task, running)
    return next((name for name in order if running[name] < enough), min(order, key=running.__getitem__))
