"""Results of an engine's jobs, waited for on an event loop: labels scored, numbers generated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from softprompt.engines.continuation import text_behind
from softprompt.engines.protocol import (
    Deliver,
    Engine,
    GenerateJob,
    Job,
    Piece,
    ReadJob,
    Result,
    Sampling,
    ScoreJob,
    Scores,
    TokensRead,
    Vectors,
)
from softprompt.engines.reading import with_texts
from softprompt.errors import EngineError
from softprompt.serving.answers import Choice
from softprompt.serving.stream import deliver_to, unexpected

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.serving.inputs import EncodedInput
    from softprompt.serving.residents.resident import Resident


class Results:
    """What an engine makes of jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def of(self, jobs: Sequence[Job]) -> list[Result]:
        """One result for each job, handed in together; when this is cancelled, or one fails, the others are given up.

        Raises:
            EngineBusy, EngineError, ContextError, ConfigError: as the engine's.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in jobs]
        tickets = self._engine.submit_all(
            [(job, deliver_to(loop, _settle_in(future))) for job, future in zip(jobs, futures, strict=True)]
        )
        try:
            return list(await asyncio.gather(*futures))
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise

    async def echo(
        self, base: FrozenBase, vectors: Vectors, given: str | Sequence[int], ids: tuple[int, ...], top: int | None
    ) -> Piece:
        """An input as what comes before its answer; its tokens with their probabilities, and so many of the likeliest in
        each place, where `top` is a number."""
        if top is None:
            return Piece(given if isinstance(given, str) else text_behind(base.spelling, (), ids))
        (read,) = await self.of([ReadJob(vectors, ids, top)])
        if not isinstance(read, TokensRead):
            raise unexpected(read, "a reading")
        tokens = await asyncio.to_thread(with_texts, base.spelling, ids, read.tokens)
        return Piece("".join(token.text for token in tokens), tokens)

    async def scores(
        self, resident: Resident, behind: Sequence[Sequence[Vectors]], inputs: Sequence[tuple[int, ...]]
    ) -> list[Sequence[float]]:
        """Scores of a task's labels behind each input, by its prompts. Members of an ensemble share a batch as far
        as all may wait."""
        pairs = zip(behind, inputs, strict=True)
        assert resident.labels is not None
        jobs = [ScoreJob(member, ids, resident.labels) for members, ids in pairs for member in members]
        count = len(behind[0])
        found = await self.scored(jobs, len(jobs) if count == 1 else None)
        return [resident.form.mean(found[start : start + count]) for start in range(0, len(jobs), count)]

    async def scored(self, jobs: Sequence[ScoreJob], at_once: int | None = None) -> list[Sequence[float]]:
        """Scores of each job's labels; so many are handed in together, by default as many as may wait."""
        at_once = at_once or max(1, self._engine.max_waiting)
        found: list[Sequence[float]] = []
        for start in range(0, len(jobs), at_once):
            found += [_values(result) for result in await self.of(jobs[start : start + at_once])]
        return found

    async def numbers(self, resident: Resident, behind: Sequence[Vectors], encoded: Sequence[EncodedInput]) -> list[Choice]:
        """The number that each input is answered with, generated."""
        sampling, pairs = Sampling(max_tokens=resident.form.max_new_tokens), zip(behind, encoded, strict=True)
        results = await self.of([GenerateJob(vectors, one.ids, sampling) for vectors, one in pairs])
        rows = []
        for result, one in zip(results, encoded, strict=True):
            if not isinstance(result, Piece):
                raise unexpected(result, "a generation")
            said = resident.form.of_text(result.text.strip())
            rows.append(Choice(said.label, {}, one.truncated, said))
        return rows


def _settle_in(future: asyncio.Future[Result]) -> Deliver:
    """What hands a job's result to a future, an error as one; of a generation its last piece, with the whole text."""
    said: list[str] = []

    def settle(result: Result) -> None:
        if future.done():
            return
        if isinstance(result, EngineError):
            future.set_exception(result)
        elif isinstance(result, Piece):  # of a generation, which is done with its last
            said.append(result.text)
            if result.finish is not None:
                future.set_result(replace(result, text="".join(said)))
        else:
            future.set_result(result)

    return settle


def _values(result: Result) -> Sequence[float]:
    if not isinstance(result, Scores):
        raise unexpected(result, "a scoring")
    return result.values
