"""The teacher of a distillation: the base behind a written instruction, asked once for every input, and remembered.

The instruction is a run of real tokens, and what the base makes of them does not depend on what stands behind. So it goes
through the base once, as a prompt of its tokens' embeddings, and all inputs are asked behind its keys and values. What is
said is kept on disk, by base, instruction and form, and by the tokens of each input.

Shapes: P tokens of the instruction, D width, T tokens of an answer, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.batch import score_jobs
from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.prefix_cache import PrefixCache, stack_prefixes
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Sampling, ScoreJob, Vectors
from softprompt.errors import BaseModelError, ContextError
from softprompt.files import make_folder, write_whole
from softprompt.model.architecture import Architecture
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Ids
from softprompt.model.memory import TokenBudget
from softprompt.model.splice import chunk_by_length, no_prompt, split_head, stack_prompts
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples, Task
from softprompt.text import plural

LIKELIEST = 64
"""K: of a next-token distribution so many of the likeliest tokens are kept, and the rest as one."""

COLUMNS = 16_384
"""Bound on the rows of a chunk times the columns of each, the instruction's among them: each copies its keys and values."""

EVERY_SECONDS = 30.0
"""Between two times that what was said is written."""

_FORMAT = 1


@dataclass(frozen=True)
class Taught:
    """What the base says to an input behind the instruction."""

    said: str
    """The label, or the text."""
    labels: Labels | None
    """Tokens of the labels; None where it writes."""
    scores: tuple[float, ...]
    """Summed log-probability of each label."""
    ids: tuple[int, ...] = ()
    """The tokens of what it wrote, the end among them where it came to one."""
    tokens_TK: Tensor | None = None
    """The likeliest tokens at each of them."""
    logs_TK: Tensor | None = None
    """Their log-probabilities, float32."""


def instruction_before(form: Form) -> str:
    """What stands before an input for the teacher."""
    return form.zero_shot_text() + "\n"


def asked(base: FrozenBase, task: Task, rows: Sequence[Any], split: str) -> Examples:
    """Rows behind the instruction, as token ids; those without an answer too.

    Raises:
        ContextError: it leaves no room for an input.
    """
    form, context = task.form, base.context
    (ids,) = base.encode([instruction_before(form)])
    output = form.output_length(base)
    if context is not None and len(ids) + output >= context:
        raise ContextError(
            f"task {form.task!r}: the instruction takes {plural(len(ids), 'token')}, and {base.name} has a context of "
            f"{context}, of which the longest answer needs {output}: nothing is left for an input; shorten the instruction, "
            "or take examples out of it"
        )
    return task.encode(base, rows, 0, split=split, prepend=instruction_before(form), unanswered=True)


class Teacher:
    """The base behind the instruction of a task."""

    def __init__(self, task: Task, architecture: Architecture, kept: Path | None, warn: Callable[[str], None]) -> None:
        """`kept` is where what it says is remembered, if anywhere."""
        self._architecture, self._base, self._form, self._warn = architecture, architecture.base, task.form, warn
        self._labels = task.form.encode_labels(self._base) if task.form.labels else None
        self._file = kept / "teachers" / f"{self._key()}.pt" if kept is not None else None
        self._known: dict[str, dict[str, Any]] = self._load()

    def _key(self) -> str:
        base, form = self._base, self._form
        about = [
            _FORMAT,
            base.fingerprint,
            str(base.dtype),
            base.quantization,
            base.batch_invariant,
            hashlib.sha256(form.zero_shot_text().encode()).hexdigest(),
            self._labels,
            LIKELIEST if self._labels is None else None,
            form.max_new_tokens if self._labels is None else None,
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]

    def answer(self, inputs: Sequence[list[int]], most: int | None = None) -> Generator[tuple[int, int], None, list[Taught]]:
        """What it says to each input, given with the instruction before it. Yields how many are done, of how many: first of
        none.

        Args:
            most: ask so many of those that it does not know yet, let what it says to them stand in for the others, and keep
                nothing.
        """
        keys = [hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest() for ids in inputs]
        head_PD, rest = no_prompt(self._base), list(inputs)
        if self._architecture.shares_prefix:
            head_PD, rest = split_head(self._base, inputs)
        waiting = {key: ids for key, ids in zip(keys, rest, strict=True) if key not in self._known}
        if not waiting:
            return [self._taught(self._known[key], ids) for key, ids in zip(keys, rest, strict=True)]
        total, saved = len(waiting), time.monotonic()
        asking = dict(itertools.islice(waiting.items(), most))
        yield 0, total
        try:
            for found in self._ask(head_PD, asking):
                self._known |= found
                if most is None and time.monotonic() - saved > EVERY_SECONDS:
                    self._save()
                    saved = time.monotonic()
                yield len(asking.keys() & self._known.keys()), total
        finally:  # also where nobody asks any further
            if most is None:
                self._save()
        records = itertools.cycle([self._known[key] for key in asking])
        return [self._taught(self._known.get(key) or next(records), ids) for key, ids in zip(keys, rest, strict=True)]

    def _ask(self, head_PD: Tensor, inputs: dict[str, list[int]]) -> Generator[dict[str, dict[str, Any]], None, None]:
        """The records of inputs behind the head, chunk by chunk, the head run once."""
        architecture, base, shares = self._architecture, self._base, self._architecture.shares_prefix
        head = Vectors("head", head_PD) if len(head_PD) else NO_PROMPT
        prefixes = PrefixCache(architecture, sys.maxsize) if shares else None
        ask = partial(self._scores if self._labels is not None else self._writes, head, prefixes)
        more = self._form.output_length(base)
        advice = "use a smaller base or dtype, or a shorter instruction"
        budget = TokenBudget(COLUMNS, base.device, self._warn, refusal=BaseModelError, advice=advice)
        waiting = deque([list(inputs)])
        with torch.no_grad():
            while waiting:
                keys = waiting.popleft()
                sizes = [len(head_PD) + len(inputs[key]) + more for key in keys]
                if len(keys) > 1 and max(sizes) * len(keys) > budget.tokens:
                    parts = [[keys[place] for place in part] for part in chunk_by_length(sizes, budget.tokens)]
                    waiting.extendleft(reversed(parts))
                    continue
                found = budget.attempt(partial(ask, [inputs[key] for key in keys]))
                if found is None:
                    budget.halve(max(sizes) * len(keys), max(sizes), single=len(keys) == 1)
                    waiting.appendleft(keys)
                else:
                    yield dict(zip(keys, found, strict=True))

    def _scores(self, head: Vectors, prefixes: PrefixCache | None, inputs: Sequence[Ids]) -> list[dict[str, Any]]:
        assert self._labels is not None
        jobs = [ScoreJob(head, tuple(ids), self._labels) for ids in inputs]
        return [{"scores": scores} for scores in score_jobs(self._architecture, prefixes, jobs)]

    def _writes(self, head: Vectors, prefixes: PrefixCache | None, inputs: Sequence[Ids]) -> list[dict[str, Any]]:
        """Greedy answers, and the next-token distributions that they were chosen from."""
        architecture, base, most = self._architecture, self._base, self._form.max_new_tokens
        jobs = [GenerateJob(head, tuple(ids), Sampling(max_tokens=most)) for ids in inputs]
        written = OfflineEngine(architecture, warn=self._warn).run_jobs(jobs, prefixes)
        ends = [] if base.end_id is None else [base.end_id]
        answers = [ids + ends if len(ids) < most else ids for ids in written]
        if prefixes is None:
            stack, prefix = stack_prompts([head.on(base)]), None
        else:
            stack, prefix = stack_prefixes([head], prefixes.fetch([head]), architecture)
        logits_NV = architecture.logits_behind(stack, prefix, [0] * len(inputs), inputs, [[ids[:-1]] for ids in answers])
        logs_NK, tokens_NK = logits_NV.float().log_softmax(-1).topk(min(LIKELIEST, logits_NV.shape[1]))
        sizes = [len(ids) for ids in answers]
        parts = zip(answers, torch.split(tokens_NK.cpu(), sizes), torch.split(logs_NK.cpu(), sizes), strict=True)
        return [{"ids": ids, "tokens": tokens.int().clone(), "logs": logs.clone()} for ids, tokens, logs in parts]

    def _taught(self, record: dict[str, Any], before: Ids) -> Taught:
        if self._labels is not None:
            scores, labels = tuple(record["scores"]), self._form.labels or ()
            return Taught(labels[max(range(len(scores)), key=scores.__getitem__)], self._labels, scores)
        ids = tuple(record["ids"])
        written = ids[:-1] if ids and ids[-1] == self._base.end_id else ids
        said = text_behind(self._base.spelling, before, written).strip()
        return Taught(said, None, (), ids, record["tokens"].long(), record["logs"])

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._file is None or not self._file.is_file():
            return {}
        try:
            known: dict[str, dict[str, Any]] = torch.load(self._file, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged file fails in many ways; all of them mean to ask anew
            self._warn(f"{self._file} cannot be read ({type(error).__name__}); the instructed base is asked anew")
            return {}
        return known

    def _save(self) -> None:
        if self._file is None:
            return
        data = io.BytesIO()
        torch.save(self._known, data)
        try:
            make_folder(self._file.parent)
            write_whole(self._file, data.getvalue())
        except OSError as error:
            self._warn(f"what the instructed base says cannot be kept: {error.strerror or error}; it is asked anew")
            self._file = None
