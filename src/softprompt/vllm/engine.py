"""The engine over vLLM's own: jobs of vectors and token ids, run by an engine that vLLM started.

Where vLLM's workers hold prompts (`held.py`), a request is token ids and a prompt's digest. Elsewhere a prompt's vectors and
the input's own embeddings go with it as one matrix (`prompt_embeds`), so nothing depends on how an engine mixes the two.
vLLM keeps the keys and values of whole blocks of either, and so a prompt's once.

Shapes: P virtual tokens, T tokens of an input, D width.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import threading
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, nullcontext
from functools import cached_property, partial
from typing import Any

import torch

from softprompt.engines.continuation import Continuation
from softprompt.engines.protocol import (
    Deliver,
    EmbedJob,
    Engine,
    EngineStatus,
    GenerateJob,
    Job,
    ReadJob,
    ScoreJob,
    Scores,
    Ticket,
    TokenProbability,
    Vectors,
)
from softprompt.engines.validate import Validator
from softprompt.errors import ConfigError, EngineBusy, EngineError, reason_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.label_scores import Labels
from softprompt.text import plural
from softprompt.vllm.held import HeldPrompts
from softprompt.vllm.outline import OutlineBase
from softprompt.vllm.seam import most_logprobs

LEAST_TEMPERATURE = 0.01
"""vLLM draws at this temperature where a lower one, not 0, is asked for."""
USUAL_LOGPROBS = 20
"""Likeliest tokens that are asked for where labels are scored; vLLM lets requests ask for as many unless told otherwise."""
ANY_TOKEN = 0
"""Stands where workers put vectors. Of a prompt always the same, since vLLM's cache knows blocks by their tokens."""

_log = logging.getLogger(__name__)


class _Elsewhere(Causal):
    """A causal model that another process runs: nothing of it is tried here."""

    @cached_property
    def shares_prefix(self) -> bool:
        return False


class _Ticket:
    """A job handed in."""

    def __init__(self, engine: VllmEngine, work: Coroutine[Any, Any, None]) -> None:
        self._engine = engine
        self.future = asyncio.run_coroutine_threadsafe(work, engine.loop)

    def cancel(self) -> None:
        self.future.cancel()


class VllmEngine(Engine):
    """Runs jobs on an engine of vLLM's. Safe to call from any thread; results come on the event loop that vLLM runs on."""

    def __init__(self, client: Any, base: OutlineBase, loop: asyncio.AbstractEventLoop, *, max_waiting: int = 1024) -> None:
        """
        Args:
            client: vLLM's `EngineClient`, which is its owner's to stop.
            base: the outline of what it runs.
            loop: the event loop that it runs on.
            max_waiting: jobs that may be under way.

        Raises:
            ConfigError: vLLM was started in a way in which prompts could not be served.
        """
        self.client, self.base, self.loop = client, base, loop
        self._bound, self._most = max_waiting, most_logprobs(client.model_config)
        self._validator = Validator(_Elsewhere(base))
        self.name, self._numbers = secrets.token_hex(4), itertools.count()
        self._lock = threading.Lock()
        self._tickets: set[_Ticket] = set()
        self._running = self._steps = self._hits = self._misses = 0
        self._accepts = True
        self.held: HeldPrompts | None = None
        """What vLLM's workers hold; while there is none, vectors go with each request."""

    @property
    def max_waiting(self) -> int:
        return self._bound

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        return self.submit_all([(job, deliver)])[0]

    def submit_all(self, jobs: Sequence[tuple[Job, Deliver]]) -> list[Ticket]:
        for job, _ in jobs:
            self._check(job)
        if len(jobs) > self._bound:
            raise ConfigError(
                f"{len(jobs)} rows were handed in together, and {self._bound} may be under way; hand in fewer at once"
            )
        with self._lock:
            if not self._accepts or self.client.errored:
                raise EngineError("vLLM's engine has ended and takes no more jobs; start the server again")
            if self._running + len(jobs) > self._bound:
                raise EngineBusy(
                    f"{plural(self._running, 'job')} under way, {len(jobs)} more handed in, and {self._bound} may be; "
                    "try again later"
                )
            self._running += len(jobs)
            tickets = [_Ticket(self, self._run(job, deliver)) for job, deliver in jobs]
            self._tickets.update(tickets)
        for ticket in tickets:
            ticket.future.add_done_callback(partial(self._done, ticket))
        return list(tickets)

    def status(self) -> EngineStatus:
        with self._lock:
            return EngineStatus(
                running=self._running, waiting=0, prefix_bytes=0, prefix_hits=self._hits, prefix_misses=self._misses,
                steps=self._steps, accepts=self._accepts and not self.client.errored,
            )  # fmt: skip

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """From its own event loop it does not wait: use :meth:`drained` there."""
        with self._lock:
            self._accepts = False
            left = list(self._tickets)
        for ticket in left if not drain else ():
            ticket.cancel()

    async def drained(self, timeout: float) -> None:
        """Take no more jobs, and wait for those that there are; what is not done in time is given up."""
        self.stop()
        with self._lock:
            left = [asyncio.wrap_future(ticket.future) for ticket in self._tickets]
        if left:
            _, late = await asyncio.wait(left, timeout=timeout)
            for future in late:
                future.cancel()

    def _check(self, job: Job) -> None:
        """Raises `ConfigError` for what vLLM cannot do, and as the other engines for what nobody could."""
        if isinstance(job, EmbedJob):
            raise ConfigError(
                "vLLM gives no hidden states, by which `auto` chooses and which embeddings are; name a task as `model`, and "
                "ask `softprompt serve` for embeddings"
            )
        if isinstance(job, ReadJob):
            raise ConfigError(
                "vLLM tells no log-probabilities of tokens behind vectors, which echo with logprobs asks for; leave echo "
                "out, or ask `softprompt serve`"
            )
        if job.prompt.is_prefix(self.base):
            raise ConfigError(
                f"prompt {job.prompt.digest[:12]} is a trained prefix, keys and values of every layer, and vLLM takes soft "
                "prompts alone; serve it with `softprompt serve`"
            )
        self._validator.check(job)
        if isinstance(job, GenerateJob):
            if job.sampling.grammar is not None:
                raise ConfigError(
                    "answers are not held to a schema on vLLM here (response_format, output_schema); leave response_format "
                    'out, on completions of a task with output_schema say {"type": "text"} there, or ask `softprompt serve`'
                )
            if 0 < job.sampling.temperature < LEAST_TEMPERATURE:
                raise ConfigError(
                    f"temperature {job.sampling.temperature} is below {LEAST_TEMPERATURE}, the least that vLLM draws at; "
                    "ask for 0, which is greedy, or more"
                )
            if (job.sampling.logprobs or 0) > self._most:
                raise ConfigError(
                    f"{job.sampling.logprobs} log-probabilities a token are asked for, and this vLLM gives {self._most} at "
                    "most; ask for fewer, or start it with more --max-logprobs"
                )

    def _done(self, ticket: _Ticket, _: object) -> None:
        with self._lock:
            self._running -= 1
            self._tickets.discard(ticket)

    async def _run(self, job: Job, deliver: Deliver) -> None:
        """A job to its end; whatever goes wrong is delivered."""
        try:
            if isinstance(job, ScoreJob):
                deliver(Scores(await self.score(job)))
            elif isinstance(job, GenerateJob):
                await self._generate(job, deliver)
        except asyncio.CancelledError:
            if not self._accepts:
                deliver(EngineError("the engine was stopped before the job was done; try again"))
            raise
        except EngineError as error:
            deliver(error)
        except Exception as error:
            deliver(self.failure(error))

    def failure(self, error: Exception) -> EngineError:
        """What is said of an error of vLLM's."""
        if self.client.errored:
            return EngineError("vLLM's engine ended while it ran this; start the server again")
        _log.error("vLLM failed", exc_info=error)
        cause = error.__cause__ if error.__cause__ is not None and not str(error) else error
        return EngineError(f"vLLM failed: {type(cause).__name__}: {reason_of(cause)}; try again")

    async def _generate(self, job: GenerateJob, deliver: Deliver) -> None:
        base, sampling = self.base, job.sampling
        room = base.room(len(job.prompt) + len(job.input))
        most = sampling.max_tokens if room is None else min(sampling.max_tokens, room)
        continuation = Continuation(sampling, base.spelling, base.end_ids, room, job.input)
        settings = {
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": None if sampling.seed is None else sampling.seed % (1 << 63),
            "logprobs": sampling.logprobs,
            "stop_token_ids": sorted(base.end_ids),
        }
        async with aclosing(self._outputs(job.prompt, job.input, settings)) as outputs:
            async for output in outputs:
                for place, token in enumerate(output.token_ids):
                    probability = None
                    if sampling.logprobs is not None:
                        probability = _probability(token, output.logprobs[place], sampling.logprobs)
                    piece = continuation.push(token, probability)
                    if piece is not None:
                        deliver(piece)
                        if piece.finish is not None:
                            return
        raise EngineError("vLLM ended the answer before its last token; try again")

    async def score(self, job: ScoreJob) -> tuple[float, ...]:
        """Summed log-probability of each label. What labels begin with in common is run once; of each place the next tokens
        are asked for together."""
        places: dict[tuple[int, ...], set[int]] = {}
        for label in job.labels:
            for at, token in enumerate(label):
                places.setdefault(tuple(label[:at]), set()).add(token)
        found = await _all([self._next(job, before, tokens) for before, tokens in places.items()])
        by_place = dict(zip(places, found, strict=True))
        return _sums(job.labels, by_place)

    async def _next(self, job: ScoreJob, before: tuple[int, ...], tokens: set[int]) -> dict[int, float]:
        """Log-probabilities of tokens behind an input. vLLM tells those of the likeliest tokens, and always that of the one
        it chose: tokens that are not among the first are made the only choice, each in a request of its own."""
        count = 0 if len(tokens) == 1 else min(self._most, USUAL_LOGPROBS)
        told = await self._first(job, before, sorted(tokens), count)
        found = {token: told[token] for token in tokens if token in told}
        left = sorted(tokens - found.keys())
        rest = await _all([self._first(job, before, [token], 0) for token in left])
        found |= {token: row[token] for token, row in zip(left, rest, strict=True)}
        if any(math.isnan(value) for value in found.values()):
            raise EngineError("the base gave no numbers for this row; its prompt may be damaged")
        return found

    async def _first(self, job: ScoreJob, before: tuple[int, ...], allowed: list[int], count: int) -> dict[int, float]:
        """Log-probabilities, no choice ruled out yet, of the likeliest tokens and of the likeliest that is allowed."""
        settings = {"max_tokens": 1, "temperature": 0.0, "logprobs": count, "allowed_token_ids": allowed}
        async with aclosing(self._outputs(job.prompt, (*job.input, *before), settings)) as outputs:
            async for output in outputs:
                return {token: float(one.logprob) for token, one in output.logprobs[0].items()}
        raise EngineError("vLLM ended the answer before its first token; try again")

    async def _outputs(self, prompt: Vectors, ids: Sequence[int], settings: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """What vLLM generates behind a prompt and an input, as it comes."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        name = f"softprompt-{self.name}-{next(self._numbers)}"
        first = True
        held = self.held if prompt.vectors_PD is not None else None
        async with nullcontext() if held is None else held.holding(prompt) as wanted:
            if wanted is not None:
                settings = {**settings, "extra_args": wanted}
            # End tokens are named by each request, and text is made of tokens here, as by the other engines.
            sampling = SamplingParams(
                **settings, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA, skip_clone=True
            )
            given = self._prompt(prompt, ids, held=wanted is not None)
            async with aclosing(self.client.generate(given, sampling, name)) as outputs:
                async for output in outputs:
                    if first and prompt.vectors_PD is not None:
                        self._count(len(prompt), output.num_cached_tokens or 0)
                    first = False
                    self._steps += 1
                    yield output.outputs[0]

    def _count(self, length: int, cached: int) -> None:
        """Whether a prompt's keys and values were there: all blocks of it that hold nothing else."""
        block = self.client.vllm_config.cache_config.block_size
        if length >= block and cached >= length // block * block:
            self._hits += 1
        else:
            self._misses += 1

    def _prompt(self, prompt: Vectors, ids: Sequence[int], held: bool) -> Any:
        """A prompt and an input as vLLM takes them. The salt keeps what vLLM's cache has of a prompt apart from that of any
        other. Where workers hold the prompt, any token stands at each of its positions, and the salt alone says which it is;
        else all of it is vectors, as the cache knows vectors by their numbers, and where tokens stand between vectors not at
        all."""
        from vllm.inputs import embeds_input, tokens_input

        if prompt.vectors_PD is None:
            return tokens_input(list(ids))
        salt = f"{prompt.digest}:{len(prompt)}"
        if held:
            return tokens_input([ANY_TOKEN] * len(prompt) + list(ids), cache_salt=salt)
        rows_TD = self.base.embed(torch.tensor(ids, device=self.base.device))
        embeds_SD = torch.cat([prompt.on(self.base), rows_TD])
        return embeds_input(embeds_SD, cache_salt=salt)


def _probability(token: int, row: Any, count: int) -> TokenProbability:
    """A token with the likeliest in its place, of a row of vLLM's, which has the token's and those of the likeliest."""
    best = sorted(row.items(), key=lambda item: -item[1].logprob)[:count]
    top = tuple((other, "", float(one.logprob)) for other, one in best)
    return TokenProbability(token, "", float(row[token].logprob), top)


def _sums(labels: Labels, by_place: dict[tuple[int, ...], dict[int, float]]) -> tuple[float, ...]:
    return tuple(sum(by_place[tuple(label[:at])][token] for at, token in enumerate(label)) for label in labels)


async def _all(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results of what runs at once; when one fails the others are given up."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
