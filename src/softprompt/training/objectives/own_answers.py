"""The prompt's own answers to training inputs, sampled in training, in which what must not be written is looked for."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from torch import Tensor

from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import OfflineEngine
from softprompt.model.splice import with_front
from softprompt.tasks.answers.patterns import Patterns
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples
from softprompt.training.objectives.unlikelihood import Unwanted


@dataclass
class OwnAnswers:
    """What a run's prompt wrote that must not come, by training row, and what it took to find it."""

    config: TaskConfig
    form: Form
    rows: Examples
    found: dict[int, list[int]] = field(default_factory=dict)
    """Tokens of the last such answer to a row."""
    tokens: int = 0
    """Generated so far."""
    asked: int = 0
    """Answers generated so far."""
    matched: int = 0
    """Those among them that must not come."""

    def __post_init__(self) -> None:
        self.patterns = Patterns(must_not=self.config.unwanted_patterns)
        self._looked_at = [not self.patterns.check(text) for text in self.rows.answers]

    def due(self, step: int) -> bool:
        """Whether a sample is taken before a step."""
        return bool(self.config.unwanted_patterns) and step % self.config.unwanted_every == 0

    def most_tokens(self, steps: int) -> int:
        """Generated in so many steps at most."""
        rows = min(self.config.unwanted_rows, sum(self._looked_at))
        return math.ceil(steps / self.config.unwanted_every) * rows * self.form.max_new_tokens

    def sample(
        self, engine: OfflineEngine, prompt_PD: Tensor, coming: Sequence[int], step: int
    ) -> Generator[int, None, dict[str, Any]]:
        """Write answers to some of the rows that are trained next, and find those that must not come. Which rows, and the
        draws of each, are a function of seed and step alone. Yields how many rows are done; returns what :meth:`took` takes.
        """
        base, drawing = engine.architecture.base, Random(f"{self.config.seed} unwanted {step}")
        some = [row for row in dict.fromkeys(coming) if self._looked_at[row]]
        rows = drawing.sample(some, min(self.config.unwanted_rows, len(some)))
        seeds = [drawing.getrandbits(63) for _ in rows]
        fronts = list(dict.fromkeys(tuple(self.rows.front(row)) for row in rows))
        prompts = [with_front(base, front, prompt_PD.to(base.dtype)) for front in fronts]
        which = [fronts.index(tuple(self.rows.front(row))) for row in rows]
        inputs, most = [self.rows.inputs[row] for row in rows], [self.form.max_new_tokens] * len(rows)
        written = yield from engine.generate(
            prompts, which, inputs, most, temperature=self.config.unwanted_temperature, seeds=seeds
        )
        found = {}
        for row, ids in zip(rows, written, strict=True):
            if ids and self.patterns.check(text_behind(base.spelling, self.rows.inputs[row], ids).strip()):
                found[row] = self._until_matched(engine, row, ids)
        return {"found": found, "tokens": sum(len(ids) for ids in written), "asked": len(rows)}

    def _until_matched(self, engine: OfflineEngine, row: int, ids: Sequence[int]) -> list[int]:
        """An answer up to what must not be written: what stands behind that is not to blame."""
        spelling, end = engine.architecture.base.spelling, len(ids)
        while end > 1 and self.patterns.check(text_behind(spelling, self.rows.inputs[row], ids[: end - 1]).strip()):
            end -= 1
        return list(ids[:end])

    def took(self, sample: dict[str, Any], targets: list[Unwanted]) -> None:
        """Keep a sample: what was found becomes an unwanted answer among the targets."""
        self.tokens += sample["tokens"]
        self.asked += sample["asked"]
        self.matched += len(sample["found"])
        self.found |= sample["found"]
        self._put(sample["found"], targets)

    def _put(self, found: dict[int, list[int]], targets: list[Unwanted]) -> None:
        for row, ids in found.items():
            targets[row] = replace(targets[row], found=tuple(ids))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"found": self.found, "tokens": self.tokens, "asked": self.asked, "matched": self.matched}

    def load_state(self, state: dict[str, Any], targets: list[Unwanted]) -> None:
        """Go on from a state."""
        self.found = dict(state["found"])
        self.tokens, self.asked, self.matched = state["tokens"], state["asked"], state["matched"]
        self._put(self.found, targets)

    def told(self) -> dict[str, int]:
        """What a card's recipe says of it."""
        return {"unwanted_tokens": self.tokens, "unwanted_asked": self.asked, "unwanted_matched": self.matched}
