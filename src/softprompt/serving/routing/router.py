"""The router: which task an input is nearest to, in the frozen base's own embedding space. No torch.

Shapes: K tasks, D width.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softprompt.errors import ConfigError, LibraryError, NotFound, PromptFileError, RegistryError
from softprompt.prompts.file import read_file
from softprompt.registry.listing import Filters
from softprompt.registry.queries import PRODUCTION

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Entry

_LOG = logging.getLogger(__name__)

THRESHOLD = -0.2
"""Nearness below which nothing is chosen. On four tasks of the built-in base 95 of 100 of a task's own inputs are nearer
(`benchmarks/router.py`)."""

RETRY_S = 30.0
"""Seconds after which a prompt file that could not be read is tried again."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Route:
    """The task that an input is nearest to."""

    task: str
    score: float
    """Cosine of input and centroid, less what the task's own training inputs have on average: 0 is as near as these, less is
    further away."""

    def row(self) -> dict[str, str | float]:
        """As an answer shows it."""
        return {"task": self.task, "score": round(self.score, 4)}


class Router:
    """Tasks by their centroids. Each is compared with the input alone, so none depends on which others there are."""

    def __init__(self, centroids: Mapping[str, Floats]) -> None:
        """Take the centroid of each task, as `centroid.centroid_of` makes them: D numbers, at most 1 long."""
        self.tasks = sorted(centroids)
        stacked_KD = np.stack([centroids[task] for task in self.tasks]) if self.tasks else np.zeros((0, 0), np.float32)
        self._lengths_K = np.linalg.norm(stacked_KD, axis=1)
        self._directions_KD = stacked_KD / np.maximum(self._lengths_K, 1e-12)[:, None]

    def nearest(self, directions: Sequence[Floats]) -> Route:
        """The task nearest to inputs of one request, given as unit vectors from the base's origin: the best on average.

        Raises:
            NotFound: no task has a centroid.
        """
        if not self.tasks:
            raise NotFound(
                "no task can be chosen by content: none has a centroid on this base; train one here (those of other tools "
                "have none), or name a task as `model`"
            )
        # The centroid's own length is the mean cosine of the training inputs with it.
        scores_K = self._directions_KD @ np.mean(np.stack(directions), axis=0) - self._lengths_K
        best = int(np.argmax(scores_K))
        return Route(self.tasks[best], float(scores_K[best]))

    def choose(self, directions: Sequence[Floats], threshold: float = THRESHOLD) -> Route:
        """The same, or no task where none is near enough.

        Raises:
            NotFound: no task has a centroid, or the nearest is further away than the threshold.
        """
        route = self.nearest(directions)
        if not route.score >= threshold:  # nor where the score is no number, as on a base that overflows
            raise NotFound(
                f"no task is near enough: the nearest is {route.task!r} with {route.score:.3f}, and {threshold:.3f} is "
                "needed; name a task as `model`"
            )
        return route


def direction_of(embedding: Sequence[float], origin_D: Floats) -> Floats:
    """Unit vector from the base's origin to an embedding.

    Raises:
        ConfigError: the embedding has another width.
    """
    offset_D = np.asarray(embedding, np.float32) - origin_D if len(embedding) == len(origin_D) else None
    if offset_D is None:
        raise ConfigError(
            f"an embedding has {len(embedding)} numbers and the base's origin {len(origin_D)}; give one of this base"
        )
    return offset_D / np.float32(max(float(np.linalg.norm(offset_D)), 1e-12))


class Centroids:
    """The centroids of one tenant's tasks on one base, each read once. For one thread at a time."""

    def __init__(self, library: Library, fingerprints: Set[str], *, retry_s: float = RETRY_S) -> None:
        """`fingerprints` are those of the base; `retry_s` seconds after a file could not be read it is tried again."""
        self._retry_s = retry_s
        self.library, self.fingerprints = library, fingerprints
        self.router = Router({})
        self._by_digest: dict[str, Floats | None] = {}
        self._state: tuple[int, int] | None = None
        self._again = math.inf

    def refresh(self) -> Router:
        """The router of the tasks as they are now: of each, the version that its bare name means.

        What cannot be read is left out, and tried again after a while or after the next change.

        Raises:
            RegistryError: the registry fails.
        """
        state = self.library.registry.state()
        if state == self._state and time.monotonic() < self._again:
            return self.router
        defaults = default_versions(self.library.registry.tasks(Filters(every=True))).values()
        entries = [entry for entry in defaults if entry.fingerprint in self.fingerprints]
        read = {entry.digest: self._by_digest[entry.digest] for entry in entries if entry.digest in self._by_digest}
        again = math.inf
        for entry in entries:
            if entry.digest not in read:
                try:
                    read[entry.digest] = read_centroid(self.library.read(f"{entry.task}@{entry.version}"))
                except RegistryError:
                    raise
                except (LibraryError, PromptFileError) as error:
                    _LOG.warning("auto leaves out task %r: %s", entry.task, error)
                    again = time.monotonic() + self._retry_s
        found = {entry.task: read.get(entry.digest) for entry in entries}
        self.router = Router({task: centroid for task, centroid in found.items() if centroid is not None})
        self._by_digest, self._state, self._again = read, state, again
        return self.router


def read_centroid(data: bytes) -> Floats | None:
    """The centroid in a prompt file; None where there is none.

    Raises:
        PromptFileError: the file is damaged.
    """
    card, tensors = read_file(data)
    stored = tensors.get("centroid")
    if stored is None:
        return None
    width = len(stored.data) // 4 if card.centroid_width is None else card.centroid_width
    if stored.dtype != "F32" or stored.shape != (width,) or len(stored.data) != 4 * width:
        raise PromptFileError(
            f"the centroid of task {card.task!r} is {stored.dtype} {stored.shape}, not {width} F32; train it again"
        )
    centroid_D = np.frombuffer(stored.data, np.dtype("<f4"))
    if not np.isfinite(centroid_D).all():
        raise PromptFileError(f"the centroid of task {card.task!r} holds values that are not finite; train it again")
    return centroid_D


def default_versions(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Of every live version of tasks, the one that each task's bare name means: production, else the newest."""
    ordered = sorted(entries, key=lambda entry: (PRODUCTION in entry.aliases, entry.version))
    return {entry.task: entry for entry in ordered}
