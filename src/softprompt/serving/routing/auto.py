"""`auto`: inputs through the engine to embeddings, and those to the nearest task of a tenant."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from softprompt.engines.protocol import Embedding, EmbedJob, Job, Result
from softprompt.errors import EngineError, SoftPromptError
from softprompt.model.embedding import shorten, single_tokens
from softprompt.serving.residents.changes import AWAY_S, PATIENCE_S
from softprompt.serving.residents.residents import Residents
from softprompt.serving.routing.router import Centroids, Floats, Route, Router, direction_of

_LOG = logging.getLogger(__name__)
MOST_INPUTS = 32
"""Inputs of one request that are looked at; and the most jobs to hand in together."""


@dataclass
class _Tenant:
    centroids: Centroids
    refreshing: asyncio.Task[Router] | None = None
    refreshed_at: float = -math.inf
    """When its router was last right."""
    failed_at: float = -math.inf
    """When bringing it up to date last failed, or took too long."""


class AutoRouter:
    """Chooses tasks by content. For use on one event loop."""

    def __init__(
        self,
        residents: Residents,
        run: Callable[[Sequence[Job]], Awaitable[list[Result]]],
        *,
        at_once: int,
        threshold: float,
        fresh_s: float,
    ) -> None:
        """Choose among the tasks of a library; `run` hands jobs to the engine, `at_once` at most, and waits for their
        results."""
        self._residents, self._run = residents, run
        self._at_once = min(at_once, MOST_INPUTS)
        self._threshold, self._fresh_s = threshold, fresh_s
        self._measuring: asyncio.Task[Floats] | None = None
        self._tenants: dict[str, _Tenant] = {}

    async def choose(self, tenant: str, inputs: Sequence[Sequence[int]]) -> Route:
        """The task of a tenant that is nearest to inputs, given as token ids without template or prompt.

        Raises:
            NotFound: none is near enough, or none has a centroid.
            EngineBusy, EngineError, RegistryError: as the engine's and the registry's.
        """
        router = await self._router(tenant)
        if not router.tasks:
            router.nearest([])  # says why, before the engine is asked in vain
        origin_D = await self._origin()
        base = self._residents.base
        embeddings = await self._embed([shorten(base, ids) for ids in inputs[:MOST_INPUTS]])
        return router.choose([direction_of(embedding, origin_D) for embedding in embeddings], self._threshold)

    async def _router(self, tenant: str) -> Router:
        """The tenant's router, right a moment ago at the latest. While requests come it is brought up to date ahead of time;
        after a pause the first one waits. Where the library is away, it is as it was."""
        if tenant not in self._tenants:
            library = self._residents.tenant_library(tenant)
            self._tenants[tenant] = _Tenant(Centroids(library, self._residents.fingerprints))
        known = self._tenants[tenant]
        now = time.monotonic()
        age = now - known.refreshed_at
        if known.refreshing is None and age >= self._fresh_s / 2:
            known.refreshing = asyncio.create_task(asyncio.to_thread(known.centroids.refresh))
            known.refreshing.add_done_callback(lambda task: _refreshed(known, task, now))
        first = known.refreshed_at == -math.inf
        if known.refreshing is not None and age >= self._fresh_s and now - known.failed_at >= AWAY_S:
            try:
                return await asyncio.wait_for(asyncio.shield(known.refreshing), None if first else PATIENCE_S)
            except (TimeoutError, SoftPromptError):
                if first:
                    raise
                known.failed_at = time.monotonic()
        return known.centroids.router

    async def _origin(self) -> Floats:
        """The mean embedding of single tokens, asked of the engine once, however many wait for it."""
        if self._measuring is None:
            self._measuring = asyncio.create_task(self._measure_origin())
            self._measuring.add_done_callback(self._measured)
        return await asyncio.shield(self._measuring)

    async def _measure_origin(self) -> Floats:
        embeddings = await self._embed(single_tokens(self._residents.base))
        origin_D: Floats = np.mean(np.asarray(embeddings, np.float32), axis=0)
        return origin_D

    def _measured(self, task: asyncio.Task[Floats]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._measuring = None

    async def _embed(self, inputs: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        embeddings: list[Sequence[float]] = []
        for start in range(0, len(inputs), self._at_once):
            results = await self._run([EmbedJob(tuple(ids)) for ids in inputs[start : start + self._at_once]])
            embeddings += [result.values for result in results if isinstance(result, Embedding)]
        if len(embeddings) != len(inputs):
            raise EngineError("the engine answered an embedding with something else; try again")
        return embeddings


def _refreshed(known: _Tenant, task: asyncio.Task[Router], began: float) -> None:
    known.refreshing = None
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        known.refreshed_at, known.failed_at = began, -math.inf
    elif known.refreshed_at > -math.inf:  # an older router is there; else whoever waits for this one gets the error
        known.failed_at = time.monotonic()
        level = logging.WARNING if isinstance(error, SoftPromptError) else logging.ERROR
        _LOG.log(level, "the tasks of `auto` may be out of date: %s", error)
