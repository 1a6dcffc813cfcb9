"""What both engines run: rows that generate, a step of all of them at a time, and labels behind rows.

Shapes: B rows, T tokens, S columns, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from softprompt.bases.architectures import HeadLabels
from softprompt.engines.decoded import DecodedRows
from softprompt.engines.kv_buffer import KVBuffer
from softprompt.engines.prefix_cache import PrefixCache, stack_prefixes
from softprompt.engines.protocol import GenerateJob, ScoreJob, Vectors
from softprompt.engines.tiles import TiledRows
from softprompt.model.architecture import Architecture
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from softprompt.model.kinds.invariant import Invariant
from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Ids, row_size
from softprompt.model.prefix import Prefix
from softprompt.model.rounding import NearTies
from softprompt.model.splice import Stack, stack_prompts


class Rows(Protocol):
    """The rows that generate, as one kind of base runs them."""

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        """Take rows in behind those there are; logits (B x V) of what follows each input. Where it fails, none is in."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Run the token that each row chose; logits (B x V) of what follows. Where it fails, clear before anything else."""

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        """Take rows out; for each row that is left, which one it was. `broken`: their logits were no numbers."""

    def clear(self) -> None:
        """Take every row out."""


def rows_of(architecture: Architecture, prefixes: PrefixCache | None, *, rows: int = 0, columns: int = 0) -> Rows:
    """The way to generate: behind the keys and values of prompts, or of answers where an encoder has read the prompts, or by
    running everything again where there are none.

    Args:
        rows: how many there will be at most, where that is known, each of so many `columns`.
    """
    if isinstance(architecture, EncoderDecoder) and architecture.keeps_answers:
        return DecodedRows(architecture)
    if prefixes is None:
        return SplicedRows(architecture)
    if isinstance(architecture, Invariant):
        return TiledRows(architecture, prefixes, rows=rows, columns=columns)
    return CachedRows(architecture, prefixes, rows=rows, columns=columns)


class CachedRows:
    """Rows with their keys and values in one buffer."""

    def __init__(self, architecture: Architecture, prefixes: PrefixCache, *, rows: int = 0, columns: int = 0) -> None:
        self.architecture = architecture
        self.prefixes = prefixes
        self.buffer = KVBuffer(prefixes.nothing, rows=rows, columns=columns)
        self._last = (architecture.base.context or 1 << 30) - 1
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        prompts = self.prefixes.fetch([job.prompt for job in jobs])
        counts = [len(job.input) for job in jobs]
        width = max(counts)
        device = self.architecture.base.device
        ids_BT = torch.tensor([[0] * (width - len(job.input)) + list(job.input) for job in jobs], device=device)
        padding_B1 = torch.tensor([[width - count] for count in counts], device=device)
        offsets_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device) - padding_B1
        column_T = torch.arange(width, device=device)
        real_BT = None if min(counts) == width else column_T[None, :] >= padding_B1
        positions_BT = (column_T[None, :] + offsets_B1).clamp_min(0)
        here = len(self)
        try:
            cache, mask_BS = self.buffer.enter(prompts, counts, real_BT)
            logits_BV = self.architecture.run_cached(ids_BT, positions_BT, cache, mask_BS)
        except BaseException:
            self.buffer.leave(range(here, len(self.buffer)), broken=True)
            raise
        self._lengths += [len(prompt) + count for prompt, count in zip(prompts, counts, strict=True)]
        return logits_BV

    def step(self, tokens: Sequence[int]) -> Tensor:
        device = self.architecture.base.device
        positions_B1 = torch.tensor([min(length, self._last) for length in self._lengths], device=device)[:, None]
        cache, mask_BS = self.buffer.step()
        ids_B1 = torch.tensor(tokens, device=device)[:, None]
        logits_BV = self.architecture.run_cached(ids_B1, positions_B1, cache, mask_BS)
        self._lengths = [length + 1 for length in self._lengths]
        return logits_BV

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        order = self.buffer.leave(rows, broken=broken)
        self._lengths = [self._lengths[row] for row in order]
        return order

    def clear(self) -> None:
        # A fresh buffer: what a pass left behind that failed may not be numbers.
        self.buffer, self._lengths = KVBuffer(self.prefixes.nothing), []


@dataclass(eq=False)
class _Spliced:
    job: GenerateJob
    answer: list[int] = field(default_factory=list)


class SplicedRows:
    """Rows that are run again whole for each token: for bases on which a prompt's keys and values cannot be shared."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._rows: list[_Spliced] = []

    def __len__(self) -> int:
        return len(self._rows)

    def enter(self, jobs: Sequence[GenerateJob]) -> Tensor:
        rows = [_Spliced(job) for job in jobs]
        logits_BV = self._run(rows)
        self._rows += rows
        return logits_BV

    def step(self, tokens: Sequence[int]) -> Tensor:
        for row, token in zip(self._rows, tokens, strict=True):
            row.answer.append(token)
        return self._run(self._rows)

    def leave(self, rows: Sequence[int], *, broken: bool = False) -> list[int]:
        order = [row for row in range(len(self)) if row not in set(rows)]
        self._rows = [self._rows[row] for row in order]
        return order

    def clear(self) -> None:
        self._rows = []

    def _run(self, rows: Sequence[_Spliced]) -> Tensor:
        stack = stack_prompts([row.job.prompt.on(self.architecture.base) for row in rows])
        inputs, tails = [row.job.input for row in rows], [[row.answer] for row in rows]
        logits_NV = self.architecture.logits_behind(stack, None, range(len(rows)), inputs, tails)
        lengths_B = torch.tensor([1 + len(row.answer) for row in rows], device=logits_NV.device)
        return logits_NV[lengths_B.cumsum(0) - 1]


def scores_in_lines(architecture: Architecture, job: ScoreJob) -> bool:
    """Whether a job's row is short enough for lines, on a base that allows them."""
    return architecture.lays_lines(len(job.prompt) + len(job.input) + max(map(len, label_contexts(job.labels))))


def score_size(job: ScoreJob, in_lines: bool) -> tuple[int, int]:
    """Tokens of the longest row, and the number of rows, that a job takes of a pass."""
    return row_size(len(job.input), label_contexts(job.labels), in_lines)


def score_rows(
    architecture: Architecture,
    stack: Stack,
    prefix: Prefix | None,
    which: Sequence[int],
    inputs: Sequence[Ids],
    labels: Sequence[Labels],
    ties: NearTies | None = None,
) -> list[list[float]]:
    """Summed log-probability of each label behind each row, in one pass; see :meth:`Architecture.logits_behind`. `ties`
    counts the rows whose best label rounding could turn."""
    if architecture.base.batch_invariant and len(which) > 1:  # sums over a vocabulary go by the shape of the whole, too
        parts = zip(which, inputs, labels, strict=True)
        return [score_rows(architecture, stack, prefix, [k], [ids], [own])[0] for k, ids, own in parts]
    tails = [label_contexts(candidates) for candidates in labels]
    logits_NV = architecture.logits_behind(stack, prefix, which, inputs, tails)
    numbers = iter(torch.cat(score_labels(logits_NV, labels)).tolist())  # all at once, or a GPU is waited for row by row
    found = [list(itertools.islice(numbers, len(own))) for own in labels]
    if ties is not None and ties.share:
        ends = itertools.accumulate(1 + sum(map(len, own)) for own in tails)
        headed = isinstance(labels[0], HeadLabels)  # minus infinity stands where others have more labels
        bounds = ties.bounds(logits_NV.nan_to_num(neginf=0.0) if headed else logits_NV).tolist()
        first = 0
        for scores, end, own in zip(found, ends, labels, strict=True):
            ties.count += ties.labels(scores, max(bounds[first:end]), max(map(len, own)))
            first = end
    return found


def stacked_apart(architecture: Architecture, widths: Sequence[int]) -> list[list[int]]:
    """Prompts that one stack holds, by the numbers of their virtual tokens: all, but for those of two kinds on a base that
    shares none of their keys and values."""
    if architecture.shares_prefix:
        return [list(range(len(widths)))]
    return [[place for place, own in enumerate(widths) if own == width] for width in dict.fromkeys(widths)]


def apart_by_kind(architecture: Architecture, prompts: Sequence[Vectors]) -> list[list[int]]:
    """The same for prompts."""
    return stacked_apart(architecture, [prompt.width(architecture.base) for prompt in prompts])


def made_ready(
    architecture: Architecture, prefixes: PrefixCache | None, prompts: Sequence[Vectors]
) -> tuple[Stack, Prefix | None, list[int]]:
    """The prompts of some rows, each once, ready to be run: their stack, its keys and values where they are shared, and
    which of it each row has."""
    distinct = {prompt.digest: prompt for prompt in prompts}
    places = {digest: place for place, digest in enumerate(distinct)}
    which, own = [places[prompt.digest] for prompt in prompts], list(distinct.values())
    if prefixes is None:
        return stack_prompts([prompt.on(architecture.base) for prompt in own]), None, which
    return *stack_prefixes(own, prefixes.fetch(own), architecture), which


def score_jobs(
    architecture: Architecture, prefixes: PrefixCache | None, jobs: Sequence[ScoreJob], ties: NearTies | None = None
) -> list[list[float]]:
    """The same for jobs."""
    if len(groups := apart_by_kind(architecture, [job.prompt for job in jobs])) > 1:
        found: dict[int, list[float]] = {}
        for group in groups:
            scores = score_jobs(architecture, prefixes, [jobs[place] for place in group], ties)
            found |= zip(group, scores, strict=True)
        return [found[place] for place in range(len(jobs))]
    stack, prefix, which = made_ready(architecture, prefixes, [job.prompt for job in jobs])
    return score_rows(architecture, stack, prefix, which, [job.input for job in jobs], [job.labels for job in jobs], ties)
