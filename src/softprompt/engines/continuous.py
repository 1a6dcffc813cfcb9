"""The engine that serves: one thread, one frozen base, rows of different prompts that come and go between its steps.

A step takes in what the budgets let through, runs the new rows' inputs and the jobs of a single pass, and then one token of
every row. What a row is answered does not depend on the rows beside it but for rounding; on a batch-invariant base, in no
bit.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from softprompt.bases.grammar import Matcher
from softprompt.engines.batch import rows_of, score_jobs, score_size, scores_in_lines
from softprompt.engines.continuation import Continuation
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import (
    Deliver,
    Embedding,
    EmbedJob,
    Engine,
    EngineStatus,
    GenerateJob,
    Job,
    Piece,
    ReadJob,
    Result,
    Sampling,
    ScoreJob,
    Scores,
    Ticket,
    TokenProbability,
    TokensRead,
)
from softprompt.engines.reading import read_jobs
from softprompt.engines.sampling import choose_tokens, token_probabilities
from softprompt.engines.scheduler import Limits, Scheduler, Work
from softprompt.engines.validate import Validator
from softprompt.errors import EngineError, reason_of
from softprompt.model.architecture import Architecture
from softprompt.model.memory import free_caches, out_of_memory
from softprompt.model.rounding import NearTies
from softprompt.model.splice import chunk_by_length

PREFIX_BYTES = 1 << 30
"""Keys and values of prompts that are kept."""

_NO_NUMBERS = "the base gave no numbers for this row; its prompt may be damaged"
_NOTHING_ALLOWED = (
    "the base gave no number to any token that the schema of this answer allows next: the tokenizer cannot write it, or the "
    "prompt may be damaged"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ticket:
    engine: ContinuousEngine
    work: Work

    def cancel(self) -> None:
        self.engine._cancel(self.work)


@dataclass(eq=False)
class _Row:
    """A row that generates."""

    work: Work
    sampling: Sampling
    draws: Random
    continuation: Continuation
    matcher: Matcher | None = None
    """Where its answer must be of a grammar."""
    token: int = -1
    """Chosen last, and not run yet."""


class ContinuousEngine(Engine):
    """Continuous batching on one base, which is the engine's alone while it runs."""

    def __init__(
        self, architecture: Architecture, limits: Limits | None = None, *, prefix_bytes: int = PREFIX_BYTES
    ) -> None:
        """
        Args:
            limits: bounds on the queue and on a step.
            prefix_bytes: bound on the keys and values kept of prompts.
        """
        self.architecture = architecture
        self.base = architecture.base
        self.limits = limits or Limits()
        architecture.lays_lines(1)  # its self-check runs the base: now, while nobody else does
        self._prefixes: PrefixCache | None = None
        if architecture.shares_prefix:
            self._prefixes = PrefixCache(architecture, prefix_bytes, token_budget=self.limits.token_budget)
        with torch.no_grad():
            self._rows = rows_of(architecture, self._prefixes)
        self._validator = Validator(architecture)
        self._active: list[_Row] = []
        self._ties = NearTies(self.base)
        self._steps = 0
        self._scheduler = Scheduler(self.limits)
        self._changed = threading.Condition()
        self._accepts = True
        self._ends = False
        self._thread = threading.Thread(target=self._serve, name="softprompt-engine", daemon=True)
        self._thread.start()

    @property
    def max_waiting(self) -> int:
        return self.limits.max_waiting

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        return self.submit_all([(job, deliver)])[0]

    def submit_all(self, jobs: Sequence[tuple[Job, Deliver]]) -> list[Ticket]:
        works = [self._validator.plan(job, deliver) for job, deliver in jobs]
        with self._changed:
            if not self._accepts:
                raise EngineError("the engine is stopped and takes no more jobs; start another")
            self._scheduler.add(works)
            self._changed.notify()
        return [_Ticket(self, work) for work in works]

    def status(self) -> EngineStatus:
        prefixes = self._prefixes
        with self._changed:
            return EngineStatus(
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                prefix_bytes=prefixes.bytes if prefixes else 0,
                prefix_hits=prefixes.hits if prefixes else 0,
                prefix_misses=prefixes.misses if prefixes else 0,
                steps=self._steps,
                near_ties=self._ties.count,
                accepts=self._accepts,
            )

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        with self._changed:
            self._accepts = False
            self._ends = self._ends or not drain
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._changed:
                self._ends = True
            self._thread.join()

    def _cancel(self, work: Work) -> None:
        with self._changed:
            self._scheduler.cancel(work)
            self._changed.notify()

    # The thread

    def _serve(self) -> None:
        reason = "the engine was stopped before the job was done; try again"
        try:
            with torch.no_grad():
                while self._step():
                    pass
        except BaseException as error:
            _log.exception("the engine's thread ends")
            reason = f"the engine failed: {type(error).__name__}: {reason_of(error)}; start another"
        with self._changed:
            self._accepts = False
            left = self._scheduler.clear()
            self._active = []
        for work in left:
            self._answer(work, EngineError(reason))

    def _step(self) -> bool:
        """One round; False once there is nothing left to do and there never will be."""
        with self._changed:
            while self._accepts and not self._ends and not self._scheduler.waiting and not self._active:
                self._changed.wait()
            if self._ends or not (self._scheduler.waiting or self._active):
                return False
        self._leave([index for index, row in enumerate(self._active) if row.work.over])
        with self._changed:
            admitted = self._scheduler.admit()
        rows = [work for work in admitted if isinstance(work.job, GenerateJob)]
        for group in self._grouped(rows, [len(work.job.input) for work in rows]):
            self._pass(group, self._enter)
        scores = [(work, work.job) for work in admitted if isinstance(work.job, ScoreJob)]
        for in_lines in (True, False):  # apart, since one row too long for lines keeps its whole pass out of them
            some = [(work, job) for work, job in scores if scores_in_lines(self.architecture, job) is in_lines]
            sizes = [score_size(job, in_lines) for _, job in some]
            for group in self._grouped([work for work, _ in some], [n for n, _ in sizes], [rows for _, rows in sizes]):
                self._pass(group, self._score)
        reads = [work for work in admitted if isinstance(work.job, ReadJob)]
        for group in self._grouped(reads, [len(work.job.input) for work in reads]):
            self._pass(group, self._read)
        embeds = [work for work in admitted if isinstance(work.job, EmbedJob)]
        for group in self._grouped(embeds, [work.tokens for work in embeds]):
            self._pass(group, self._embed)
        if self._active:
            try:
                self._choose(self._rows.step([row.token for row in self._active]), 0)
            except Exception as error:
                self._fail([row.work for row in self._active], error)
        return True

    def _grouped(self, works: list[Work], lengths: list[int], rows: list[int] | None = None) -> Iterator[list[Work]]:
        """Passes over works of similar length."""
        for group in chunk_by_length(lengths, self.limits.token_budget, rows):
            yield [works[index] for index in sorted(group)]

    def _pass(self, works: list[Work], run: Callable[[list[Work]], None]) -> None:
        """Run works that begin; in halves where there is no memory for all of them. A failure ends these alone."""
        try:
            run(works)
            return
        except Exception as error:
            begun = {id(row.work) for row in self._active}
            if len(works) == 1 or not out_of_memory(error) or any(id(work) in begun for work in works):
                self._fail(works, error)
                return
        # Out here the error is gone, and with it what its frames held of the memory.
        _log.warning("out of memory: a pass of %d jobs runs in halves", len(works))
        free_caches(self.base.device)
        half = len(works) // 2
        self._pass(works[:half], run)
        self._pass(works[half:], run)

    def _score(self, works: list[Work]) -> None:
        values = score_jobs(
            self.architecture, self._prefixes, [work.job for work in works if isinstance(work.job, ScoreJob)], self._ties
        )
        self._close(works, [Scores(tuple(scores)) for scores in values])

    def _read(self, works: list[Work]) -> None:
        jobs = [work.job for work in works if isinstance(work.job, ReadJob)]
        found = read_jobs(self.architecture, self._prefixes, jobs)
        numbers = [all(math.isfinite(token.logprob) for token in tokens) for tokens in found]
        said = zip(found, numbers, strict=True)
        self._close(works, [TokensRead(tokens) if sound else EngineError(_NO_NUMBERS) for tokens, sound in said])

    def _embed(self, works: list[Work]) -> None:
        jobs = [work.job for work in works if isinstance(work.job, EmbedJob)]
        if not any(job.prompt for job in jobs):
            means_BD = self.architecture.embed([job.input for job in jobs])
        else:
            prompts = [job.prompt.on(self.base) for job in jobs]
            means_BD = self.architecture.embed([job.input for job in jobs], prompts)
        self._close(works, [Embedding(tuple(mean)) for mean in means_BD.tolist()])

    def _enter(self, works: list[Work]) -> None:
        """Run the inputs of new rows, and choose their first tokens."""
        jobs = [work.job for work in works if isinstance(work.job, GenerateJob)]
        begun = [  # before any is in, so that one that cannot begin leaves none behind
            _Row(work, job.sampling, _draws(job.sampling.seed), self._begin(job), _matcher(job.sampling))
            for work, job in zip(works, jobs, strict=True)
        ]
        logits_BV = self._rows.enter(jobs)
        first = len(self._active)
        self._active += begun
        self._choose(logits_BV, first)

    def _begin(self, job: GenerateJob) -> Continuation:
        base, room = self.base, self.base.room(len(job.prompt) + len(job.input))
        return Continuation(job.sampling, base.spelling, base.end_ids, room, job.input)

    def _choose(self, logits_BV: Tensor, first: int) -> None:
        """Choose the next token of the rows from `first` on, let those leave that are done, and answer them."""
        rows = self._active[first:]
        samplings, draws, matchers = zip(*((row.sampling, row.draws, row.matcher) for row in rows), strict=True)
        chosen = choose_tokens(logits_BV, samplings, draws, self._ties, matchers)
        probabilities = self._probabilities(logits_BV, rows, chosen)
        answers: list[tuple[Work, Result]] = []
        done: list[int] = []
        broken = False
        for index, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            if token is None:
                broken = True
                result: Result | None = EngineError(_NO_NUMBERS if row.matcher is None else _NOTHING_ALLOWED)
            else:
                row.token = token
                over = row.matcher is not None and row.matcher.push(token)
                result = row.continuation.push(token, probabilities.get(index), over=over)
            if result is not None:
                answers.append((row.work, result))
                if _is_last(result):
                    done.append(first + index)
        self._steps += 1
        self._leave(done, broken=broken)
        for work, result in answers:
            self._answer(work, result)

    def _probabilities(self, logits_BV: Tensor, rows: list[_Row], chosen: list[int | None]) -> dict[int, TokenProbability]:
        requested = [
            (index, token, row.sampling.logprobs)
            for index, (row, token) in enumerate(zip(rows, chosen, strict=True))
            if row.sampling.logprobs is not None and token is not None
        ]
        if not requested:
            return {}
        indices, tokens, counts = zip(*requested, strict=True)
        found = token_probabilities(logits_BV[list(indices)], tokens, counts, alone=self.base.batch_invariant)
        return dict(zip(indices, found, strict=True))

    def _leave(self, rows: list[int], *, broken: bool = False) -> None:
        """Take rows out."""
        if rows:
            left = [self._active[row].work for row in rows]
            self._active = [self._active[row] for row in self._rows.leave(rows, broken=broken)]
            self._finish(left)

    def _finish(self, works: list[Work]) -> None:
        with self._changed:
            for work in works:
                self._scheduler.finish(work)

    def _close(self, works: list[Work], results: Sequence[Result]) -> None:
        """Answer jobs of a single pass."""
        self._steps += 1
        self._finish(works)
        for work, result in zip(works, results, strict=True):
            self._answer(work, result)

    def _answer(self, work: Work, result: Result) -> None:
        if work.over:
            return
        if _is_last(result):  # and never back: it may be given up at this very moment
            work.over = True
        try:
            work.deliver(result)
        except Exception:  # the engine lives on, whatever a caller does
            _log.exception("a caller could not take its result; its job is given up")
            work.over = True

    def _fail(self, works: list[Work], error: Exception) -> None:
        """End jobs that a failure took along, and no others."""
        _log.error("a step failed; %d jobs end with it", len(works), exc_info=error)
        failed = {id(work) for work in works}
        rows = [index for index, row in enumerate(self._active) if id(row.work) in failed]
        if len(rows) == len(self._active):
            # All of them: nothing of the buffer is worth keeping, and memory may be what was lacking.
            self._active = []
            self._rows.clear()
        self._leave(rows if self._active else [], broken=True)
        self._finish(works)
        for work in works:
            self._answer(work, EngineError(f"the base failed: {type(error).__name__}: {reason_of(error)}; try again"))


def _draws(seed: int | None) -> Random:
    # Python's own generator takes no notice of a seed's sign.
    return Random(None if seed is None else seed % (1 << 64))


def _matcher(sampling: Sampling) -> Matcher | None:
    return None if sampling.grammar is None else sampling.grammar.begin()


def _is_last(result: Result) -> bool:
    return not isinstance(result, Piece) or result.finish is not None
