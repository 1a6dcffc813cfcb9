"""An engine without a model: threaded, deterministic. What it says is a function of prompt, input and sampling alone."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from softprompt.engines.protocol import (
    Deliver,
    Embedding,
    EmbedJob,
    EngineStatus,
    GenerateJob,
    Job,
    Piece,
    ReadJob,
    Result,
    ScoreJob,
    Scores,
    TokenProbability,
    TokensRead,
)
from softprompt.errors import ConfigError, ContextError, EngineBusy, EngineError

WORDS = (" red", " green", " blue", " apple", " stone", " river", " true", " false", " good", " bad")


@dataclass(eq=False)
class FakeTicket:
    """A job handed in."""

    job: Job
    deliver: Deliver
    cancelled: bool = False
    given: int = 0
    """Tokens delivered."""
    text: str = ""
    steps: list[str] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled = True


class FakeEngine:
    """Answers jobs from a thread of its own, one token of every generation per step.

    Args:
        context: longest prompt, input and one token together; None for no limit.
        max_waiting: jobs in hand before it is busy.
        step_s: how long a step takes.
        width: numbers of an embedding.
    """

    def __init__(self, *, context: int | None = 96, max_waiting: int = 1024, step_s: float = 0.0, width: int = 32) -> None:
        self.context, self.max_waiting, self.step_s, self.width = context, max_waiting, step_s, width
        self.tickets: list[FakeTicket] = []
        """Every job ever handed in, for tests to look at."""
        self.batches: list[int] = []
        """Sizes of what was handed in together."""
        self.failing: str | None = None
        """Where set, every job ends with this EngineError."""
        self.score = fake_score
        """What labels get, by the prompt's digest, the input and the label."""
        self.endless = False
        """Whether generations only end by cancellation."""
        self.going = threading.Event()
        """Cleared, the engine stands still."""
        self.going.set()
        self._jobs: deque[FakeTicket] = deque()
        self._steps = 0
        self._stopping = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job, deliver: Deliver) -> FakeTicket:
        return self.submit_all([(job, deliver)])[0]

    def submit_all(self, jobs: Sequence[tuple[Job, Deliver]]) -> list[FakeTicket]:
        for job, _ in jobs:
            assert job.input, "a job has an empty input"
            self._fit(job)
        with self._change:
            if self._stopping:
                raise EngineError("the engine is stopped; start the server again")
            if len(jobs) > self.max_waiting:
                raise ConfigError(f"{len(jobs)} rows were handed in together, and the queue holds {self.max_waiting}")
            if len(self._jobs) + len(jobs) > self.max_waiting:
                raise EngineBusy(f"{len(self._jobs)} jobs wait and {self.max_waiting} may; try again later")
            tickets = [FakeTicket(job, deliver) for job, deliver in jobs]
            self.tickets += tickets
            self.batches.append(len(jobs))
            self._jobs.extend(tickets)
            self._change.notify_all()
        return tickets

    def status(self) -> EngineStatus:
        with self._change:
            return EngineStatus(len(self._jobs), 0, 0, 0, 0, self._steps, not self._stopping)

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        with self._change:
            self._stopping = True
            left = [] if drain else list(self._jobs)
            if not drain:
                self._jobs.clear()
            self._change.notify_all()
        for ticket in left:
            ticket.deliver(EngineError("the engine is stopped; start the server again"))
        self._thread.join(timeout)

    def live_jobs(self) -> int:
        """Jobs in hand, cancelled ones not counted."""
        with self._change:
            return sum(not ticket.cancelled for ticket in self._jobs)

    def _fit(self, job: Job) -> None:
        prompt = 0 if isinstance(job, EmbedJob) else len(job.prompt)
        output = max(map(len, job.labels)) if isinstance(job, ScoreJob) else 1
        if self.context is not None and prompt + len(job.input) + output > self.context:
            raise ContextError(f"{prompt} + {len(job.input)} + {output} tokens do not fit the context of {self.context}")

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._jobs and not self._stopping:
                    self._change.wait()
                if not self._jobs:
                    return
            self.going.wait()
            if self.step_s:
                time.sleep(self.step_s)
            self._steps += 1
            for ticket in list(self._jobs):
                result = None if ticket.cancelled else self._step(ticket)
                if not isinstance(result, Piece) or result.finish is not None:
                    with self._change:  # before it is told: who hears that a job is over may count those that are left
                        if ticket in self._jobs:
                            self._jobs.remove(ticket)
                if result is not None:
                    ticket.deliver(result)

    def _step(self, ticket: FakeTicket) -> Result:
        job = ticket.job
        if self.failing is not None:
            return EngineError(self.failing)
        if isinstance(job, EmbedJob):
            return Embedding(fake_embedding(job.input, self.width))
        if isinstance(job, ReadJob):
            return TokensRead(tuple(TokenProbability(token, "", -1.0 - token / 1000) for token in job.input[1:]))
        if isinstance(job, ScoreJob):
            return Scores(tuple(self.score(job.prompt.digest, job.input, label) for label in job.labels))
        return self._generate(ticket, job)

    def _generate(self, ticket: FakeTicket, job: GenerateJob) -> Piece:
        sampling = job.sampling
        seed = "" if sampling.temperature == 0 else str(sampling.seed)
        number = _number(job.prompt.digest, job.input, f"{seed}:{ticket.given}")
        word = WORDS[number % len(WORDS)]
        ticket.given += 1
        ticket.text += word
        tokens: tuple[TokenProbability, ...] = ()
        if sampling.logprobs is not None:
            others = [(number + k) % len(WORDS) for k in range(sampling.logprobs)]
            top = tuple((k, WORDS[k], -0.5 - place) for place, k in enumerate(others))
            tokens = (TokenProbability(number % len(WORDS), word, -0.5, top),)
        cut = min((ticket.text.find(stop) for stop in sampling.stop if stop in ticket.text), default=-1)
        room = math.inf if self.context is None else self.context - len(job.prompt) - len(job.input)
        finish = None
        if cut >= 0:
            finish, word = "stop", ticket.text[:cut][len(ticket.text) - len(word) :]
        elif not self.endless and (ticket.given >= sampling.max_tokens or ticket.given >= room):
            finish = "length"
        elif not self.endless and ticket.given >= 12:
            finish = "stop"
        return Piece(word, tokens, finish, ticket.given if finish else 0)


def fake_embedding(ids: Sequence[int], width: int) -> tuple[float, ...]:
    """Like inputs get like embeddings: the sum of a random direction for each token."""
    total = [0.0] * width
    for token in ids:
        digest = hashlib.blake2b(str(token).encode(), digest_size=64).digest()
        for place in range(width):
            total[place] += digest[place % 64] / 127.5 - 1
    return tuple(value / len(ids) for value in total)


def fake_score(digest: str, ids: Sequence[int], label: Sequence[int]) -> float:
    """A log-probability between -4 and 0."""
    return -(_number(digest, ids, str(tuple(label))) % 4000) / 1000


def _number(digest: str, ids: Sequence[int], more: str) -> int:
    text = f"{digest}|{','.join(map(str, ids))}|{more}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
