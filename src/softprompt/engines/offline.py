"""The in-process engine: rows of different prompts through one frozen model, labels scored or text generated.

It gets tensors and token ids, never names. Each prompt of a call that has rows goes through the base once, whatever their
number.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

from softprompt.bases.grammar import Grammar
from softprompt.engines.batch import rows_of, score_rows, stacked_apart
from softprompt.engines.prefix_cache import PrefixCache, ready
from softprompt.engines.protocol import GenerateJob, Sampling, Vectors
from softprompt.engines.sampling import choose_tokens
from softprompt.errors import BaseModelError
from softprompt.model.architecture import Architecture
from softprompt.model.label_scores import Labels, label_contexts
from softprompt.model.lines import Ids, row_size
from softprompt.model.memory import TokenBudget, tokens_on
from softprompt.model.prefix import layout_for
from softprompt.model.rounding import NearTies
from softprompt.model.splice import chunk_by_length
from softprompt.progress import Silent

TOKEN_BUDGET = {"cpu": 4096, "cuda": 32768}
"""Padded tokens of a chunk of rows, and virtual ones of the prompts whose keys and values are there at once, by kind of
device."""

NO_DRAWS = Random(0)
"""Of rows that are greedy: nothing is drawn from it."""

R = TypeVar("R")

Run = Callable[[list[int]], R]
"""Runs some things, given by their numbers."""


class OfflineEngine:
    """Runs one frozen base in this process, in chunks that fit the memory: when it runs out they are halved, for good.

    What it does comes as a generator, which yields the number of rows just done, chunk by chunk, and returns the results.
    """

    def __init__(
        self, architecture: Architecture, *, token_budget: int | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        """`warn` is called when chunks are halved; by default Python's `warnings`."""
        self.architecture = architecture
        self.ties = NearTies(architecture.base)
        """Of the choices so far."""
        device, warn = architecture.base.device, warn or Silent().warn
        token_budget = tokens_on(device, TOKEN_BUDGET) if token_budget is None else token_budget
        advice = "use a smaller base, dtype or quantization, or shorter inputs"
        self._budget = TokenBudget(token_budget, device, warn, refusal=BaseModelError, advice=advice)

    def score(
        self, prompts: Sequence[Tensor], which: Sequence[int], inputs: Sequence[Ids], labels: Sequence[Labels]
    ) -> Generator[int, None, list[list[float]]]:
        """Summed log-probability of each label behind each input, in one pass over rows of mixed prompts.

        Args:
            prompts: P_k x D each, prefixes P_k x W; an empty one (0 x D) stands for no prompt.
            which: the prompt of each row.
            inputs: token ids of each row, at least one.
            labels: token ids of each label, row by row.

        Raises:
            BaseModelError: there is no memory for a single row.
        """
        architecture, base = self.architecture, self.architecture.base
        tails = [label_contexts(candidates) for candidates in labels]
        longest = max((len(ids) + max(map(len, ends)) for ids, ends in zip(inputs, tails, strict=True)), default=0)
        in_lines = architecture.lays_lines(max(map(len, prompts), default=0) + longest)

        def open_lot(lot: list[int]) -> Run[list[list[float]]]:
            groups = [
                [lot[place] for place in group]
                for group in stacked_apart(architecture, [prompts[prompt].shape[1] for prompt in lot])
            ]
            made = [
                ready(architecture, [prompts[prompt].to(base.device, base.dtype) for prompt in group], self._budget.tokens)
                for group in groups
            ]
            places = {prompt: (number, place) for number, group in enumerate(groups) for place, prompt in enumerate(group)}

            def run(rows: list[int]) -> list[list[float]]:
                found: dict[int, list[float]] = {}
                for number, (stack, prefix) in enumerate(made):
                    own = [row for row in rows if places[which[row]][0] == number]
                    owners, some = [places[which[row]][1] for row in own], [labels[row] for row in own]
                    if own:
                        these = [inputs[row] for row in own]
                        scores = score_rows(architecture, stack, prefix, owners, these, some, self.ties)
                        found |= zip(own, scores, strict=True)
                return [found[row] for row in rows]

            return run

        sizes = [row_size(len(ids), ends, in_lines) for ids, ends in zip(inputs, tails, strict=True)]
        return self._run_lots(open_lot, [len(prompt_PD) for prompt_PD in prompts], which, sizes)

    def generate(
        self,
        prompts: Sequence[Tensor],
        which: Sequence[int],
        inputs: Sequence[Ids],
        max_new_tokens: Sequence[int],
        *,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        grammars: Sequence[Grammar | None] | None = None,
    ) -> Generator[int, None, list[list[int]]]:
        """Continuation of each input, up to a bound of its own, without the end token: greedy, or drawn with the row's own
        of `seeds` where there is a temperature. One whose logits are no numbers ends there. Where a row has one of
        `grammars`, each token is chosen among those that it allows.

        Raises:
            BaseModelError: there is no memory for a single row.
        """
        vectors = [Vectors(str(number), prompt_PD) for number, prompt_PD in enumerate(prompts)]

        def open_lot(lot: list[int]) -> Run[list[list[int]]]:
            prefixes = None
            if any(vectors[prompt].is_prefix(self.architecture.base) for prompt in lot):
                layout_for(self.architecture.base, self.architecture.layout)
            if self.architecture.shares_prefix:
                prefixes = PrefixCache(self.architecture, sys.maxsize, token_budget=self._budget.tokens)
                prefixes.fetch([vectors[prompt] for prompt in lot])

            def run(rows: list[int]) -> list[list[int]]:
                samplings = [
                    Sampling(
                        max_tokens=max_new_tokens[row],
                        temperature=temperature,
                        seed=seeds[row] if seeds else None,
                        grammar=grammars[row] if grammars else None,
                    )
                    for row in rows
                ]
                jobs = [
                    GenerateJob(vectors[which[row]], tuple(inputs[row]), sampling)
                    for row, sampling in zip(rows, samplings, strict=True)
                ]
                return self.run_jobs(jobs, prefixes)

            return run

        sizes = [(len(ids) + bound, 1) for ids, bound in zip(inputs, max_new_tokens, strict=True)]
        return self._run_lots(open_lot, [len(prompt_PD) for prompt_PD in prompts], which, sizes)

    def run_jobs(self, jobs: Sequence[GenerateJob], prefixes: PrefixCache | None) -> list[list[int]]:
        """Continuations of a chunk of rows, which must fit the memory; `prefixes` where the base shares them."""
        columns = max(len(job.prompt) + len(job.input) for job in jobs) + max(job.sampling.max_tokens for job in jobs)
        rows = rows_of(self.architecture, prefixes, rows=len(jobs), columns=columns)
        answers: list[list[int]] = [[] for _ in jobs]
        alive = list(range(len(jobs)))
        draws = {row: Random(job.sampling.seed) for row, job in enumerate(jobs) if job.sampling.temperature}
        matchers = {row: job.sampling.grammar.begin() for row, job in enumerate(jobs) if job.sampling.grammar is not None}
        logits_BV = rows.enter(jobs)
        while True:
            own = [draws.get(row, NO_DRAWS) for row in alive] if draws else ()
            growing = [matchers.get(row) for row in alive]
            chosen = choose_tokens(logits_BV, [jobs[row].sampling for row in alive], own, self.ties, growing)
            over: list[int] = []
            for place, (row, token) in enumerate(zip(alive, chosen, strict=True)):
                if token is not None and token not in self.architecture.base.end_ids:
                    answers[row].append(token)
                    whole = row in matchers and matchers[row].push(token)
                    if not whole and len(answers[row]) < jobs[row].sampling.max_tokens:
                        continue
                over.append(place)
            alive = [alive[place] for place in rows.leave(over, broken=None in chosen)]
            if not alive:
                return answers
            logits_BV = rows.step([answers[row][-1] for row in alive])

    @torch.no_grad()
    def _run_lots(
        self, open_lot: Run[Run[list[R]]], lengths: Sequence[int], which: Sequence[int], sizes: Sequence[tuple[int, int]]
    ) -> Generator[int, None, list[R]]:
        """Run rows behind their prompts, in lots of prompts that fit the memory: those of a whole library need not.

        Args:
            open_lot: makes some prompts ready, and gives what runs rows behind them.
            lengths: virtual tokens of each prompt.
            which: the prompt of each row.
            sizes: tokens and rows of a batch that each row takes.
        """
        results: dict[int, R] = {}
        of_prompt: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(which):
            of_prompt[prompt].append(row)
        for lot, run in self._chunks(open_lot, sorted(of_prompt), [(max(1, length), 1) for length in lengths]):
            rows = sorted(row for prompt in lot for row in of_prompt[prompt])
            for chunk, found in self._chunks(run, rows, sizes):
                results.update(zip(chunk, found, strict=True))
                yield len(chunk)
            del run  # or the lot would be there still while the next is made ready
        return [results[row] for row in range(len(which))]

    def _chunks(self, run: Run[R], things: list[int], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], R]]:
        """Run things in chunks of similar length; each chunk, and what came of it."""
        waiting = deque([things] if things else [])
        while waiting:
            chunk = waiting.popleft()
            lengths, rows = [sizes[thing][0] for thing in chunk], [sizes[thing][1] for thing in chunk]
            longest = max(lengths)
            size = longest * sum(rows)
            if len(chunk) > 1 and size > self._budget.tokens:
                parts = chunk_by_length(lengths, self._budget.tokens, rows)
                waiting.extendleft(reversed([[chunk[place] for place in part] for part in parts]))
            elif (found := self._budget.attempt(lambda: run(chunk))) is not None:  # noqa: B023  (called at once)
                yield chunk, found
                del found
            else:
                self._budget.halve(size, longest, single=len(chunk) == 1)
                waiting.appendleft(chunk)
