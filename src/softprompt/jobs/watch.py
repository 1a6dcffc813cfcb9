"""Between a worker and its jobs: beating for them, writing down what happens, and how they fail. No torch."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from softprompt.errors import (
    BaseModelError,
    ConfigError,
    FieldError,
    LibraryError,
    RegistryError,
    SoftPromptError,
    TrainingError,
)
from softprompt.jobs.queue import Claim, Queue
from softprompt.names import base_name

log = logging.getLogger("softprompt.jobs")

BEAT_SECONDS = 3.0
LOOK_SECONDS = 0.5
"""How often a worker shows that it lives, and looks whether its jobs are still wanted."""

_CODES = {
    ConfigError: "invalid_request",
    BaseModelError: "base_unusable",
    TrainingError: "training_failed",
    LibraryError: "library_failed",
    SoftPromptError: "failed",
}


class Watch:
    """Beats for jobs, and knows which of them are still wanted, and whether others wait: a thread of its own, so that no
    step waits for SQL."""

    def __init__(self, queue: Queue, jobs: Sequence[int]) -> None:
        self._queue = queue
        self._jobs: tuple[int, ...] = tuple(jobs)
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")
        self.lost: set[int] = set()
        """Those of its jobs that are this worker's no more."""
        self.waits = False
        """Whether a job waits, by the last look; whoever has been for it says False."""

    def add(self, jobs: Collection[int]) -> None:
        """Look after more jobs, also after such as it had before and had lost."""
        with self._changing:
            self._jobs = (*(job for job in self._jobs if job not in jobs), *jobs)
            self.lost -= set(jobs)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        beaten = 0.0
        while not self._ended.wait(LOOK_SECONDS):
            try:
                asked = self._jobs
                beats = time.monotonic() - beaten >= BEAT_SECONDS
                own = self._queue.beat(asked) if beats else self._queue.own(asked)
                beaten = time.monotonic() if beats else beaten
                with self._changing:
                    if self._jobs is asked:  # else it was asked before others came
                        self.lost = set(asked) - own
                self.waits = self._queue.waits()
            except RegistryError as error:  # training goes on; the transaction that publishes has the last word
                log.warning("cannot look after jobs: %s", error)


def record(queue: Queue, claim: Claim, message: str, **more: Any) -> None:
    """Write an event; a registry that is away for a moment costs the event, not the training."""
    try:
        queue.record(claim.id, _without_places(queue, claim, message), **more)
    except RegistryError as error:
        log.warning("job %s: %s (%s)", claim.name, message, error)


def fail(queue: Queue, claim: Claim, error: Exception) -> None:
    """The job has failed for good; nothing where it is no longer this worker's.

    Clients are told our own errors. Any other is a bug, which the log has; a registry that is away leaves the job to the
    next claim.
    """
    field = error.field if isinstance(error, FieldError) else None
    message = str(error)
    if isinstance(error, SoftPromptError):
        log.warning("job %s fails: %s", claim.name, message)
    else:
        log.error("a bug; job %s fails", claim.name, exc_info=error)
        message = "the worker failed on this job; see worker.log in the home"
    try:
        queue.fail(claim.id, _code(error), _without_places(queue, claim, message), field)
    except RegistryError as again:
        log.warning("job %s: %s", claim.name, again)


def _without_places(queue: Queue, claim: Claim, message: str) -> str:
    """A message for clients, who are not told where this machine has the base and the library; the log has it whole."""
    library = queue.library
    places = {library.registry.database.shown: "of the library", library.store.shown: "of the library"}
    places |= {str(library.home): "the home"} | ({claim.base: base_name(claim.base)} if os.path.isabs(claim.base) else {})
    for place, name in places.items():
        message = message.replace(place, name)
    return message


def _code(error: Exception) -> str:
    if isinstance(error, FieldError) and error.field in ("training_file", "validation_file"):
        return f"invalid_{error.field}"
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), "internal_error")
