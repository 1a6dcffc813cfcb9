"""What an engine is: it runs one frozen base for jobs that come and go. It gets vectors and token ids, never names.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from softprompt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.bases.base import FrozenBase
    from softprompt.bases.grammar import Grammar
    from softprompt.model.label_scores import Labels


@dataclass(frozen=True)
class Vectors:
    """A soft prompt as engines know it. What an engine keeps of it is kept under the digest, which names these exact
    numbers; the base is the engine's own, so a digest and an engine together name keys and values."""

    digest: str
    """Hex digest of the prompt file; empty for no prompt."""
    vectors_PD: Tensor | None
    """Of a prefix P x W, which is not D; None for no prompt."""

    def __len__(self) -> int:
        return 0 if self.vectors_PD is None else len(self.vectors_PD)

    def on(self, base: FrozenBase) -> Tensor:
        """The vectors in a base's dtype, on its device; 0 x D for no prompt."""
        vectors_PD = base.embedding.weight[:0].detach() if self.vectors_PD is None else self.vectors_PD
        return vectors_PD.to(base.device, base.dtype)

    def width(self, base: FrozenBase) -> int:
        """Numbers of a virtual token: D, or W of a prefix."""
        return base.width if self.vectors_PD is None else int(self.vectors_PD.shape[1])

    def is_prefix(self, base: FrozenBase) -> bool:
        """Whether it is made of keys and values."""
        return self.width(base) != base.width


NO_PROMPT = Vectors("", None)
"""The base alone."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a continuation is drawn. The result is a function of input, prompt, and these; what else is running can turn no
    more than a near tie, and on a batch-invariant base nothing."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probability reaches this."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens; 0 for all."""
    stop: tuple[str, ...] = ()
    """Texts that end the continuation, and are not part of it."""
    seed: int | None = None
    """Of this row's own draws; None draws one."""
    logprobs: int | None = None
    """Give the log-probability of each token, and of so many of the likeliest in its place (0 or more); None for none."""
    grammar: Grammar | None = None
    """What the continuation must be: each token is chosen among those that it allows there."""


@dataclass(frozen=True)
class GenerateJob:
    """Continue an input."""

    prompt: Vectors
    input: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling


@dataclass(frozen=True)
class ScoreJob:
    """Score labels behind an input."""

    prompt: Vectors
    input: tuple[int, ...]
    """Token ids, at least one."""
    labels: Labels


@dataclass(frozen=True)
class EmbedJob:
    """Mean of the base's last hidden states over the tokens of an input: D float32 numbers."""

    input: tuple[int, ...]
    """Token ids, at least one."""
    prompt: Vectors = NO_PROMPT
    """Of a causal base, a soft prompt that stands before it."""


@dataclass(frozen=True)
class ReadJob:
    """How likely each token of an input is behind a prompt and the tokens before it; of a causal base."""

    prompt: Vectors
    input: tuple[int, ...]
    """Token ids, at least one."""
    top: int = 0
    """Of so many of the likeliest in each place, too."""


Job = GenerateJob | ScoreJob | EmbedJob | ReadJob


@dataclass(frozen=True)
class TokenProbability:
    """A token that was chosen, with the alternatives asked for, likeliest first. Natural logarithms, of the base's own
    distribution before temperature and cuts."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a continuation, as soon as it is certain: text that may begin a stop text is held back."""

    text: str
    tokens: tuple[TokenProbability, ...] = ()
    """Where they were asked for; each token comes exactly once, in order."""
    finish: str | None = None
    """On the last piece: `stop` (end of sequence, or a stop text), `length` (max_tokens or the end of the context)."""
    count: int = 0
    """On the last piece: tokens generated in all, the end token among them."""


@dataclass(frozen=True)
class Scores:
    """Summed log-probability of each label of a ScoreJob, in order."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Embedding:
    """Of an EmbedJob."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class TokensRead:
    """Of a ReadJob: every token of the input but the first. Their texts are left empty."""

    tokens: tuple[TokenProbability, ...]


Result = Piece | Scores | Embedding | TokensRead | EngineError
"""What a job is answered with: one of the last four, or pieces of which the last has a `finish`. After an error, and after
the last piece, nothing comes. After a cancellation nothing need come."""

Deliver = Callable[[Result], None]
"""Called from the engine's own thread: quick, and it never raises."""


class Ticket(Protocol):
    """A job handed in."""

    def cancel(self) -> None:
        """Give the job up: its row leaves at the next step. Harmless at any time, from any thread."""


@dataclass(frozen=True)
class EngineStatus:
    """How an engine stands."""

    running: int
    """Jobs begun and not done with."""
    waiting: int
    """Jobs in the queue."""
    prefix_bytes: int
    """Keys and values held of prompts."""
    prefix_hits: int
    prefix_misses: int
    steps: int
    """Forward passes so far, of any kind."""
    accepts: bool
    """Whether it takes jobs: it was not stopped, and did not fail."""
    near_ties: int = 0
    """Greedy choices of a token, and choices among labels, that rounding could have turned: those depend on what else was
    in the batch."""


class Engine(Protocol):
    """Runs jobs of different prompts together on one frozen base. Safe to call from any thread."""

    @property
    def max_waiting(self) -> int:
        """Jobs that may wait, and so the most that can be handed in together."""

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        """Queue a job; `deliver` gets its results.

        Raises:
            EngineBusy: the queue is full.
            EngineError: the engine is stopped.
            ContextError: prompt and input (and one token, or the longest label) do not fit the context.
        """

    def submit_all(self, jobs: Sequence[tuple[Job, Deliver]]) -> list[Ticket]:
        """Queue jobs together, all or none; so that they can share a batch.

        Raises as `submit`, and ConfigError where they are more than may ever wait.
        """

    def status(self) -> EngineStatus:
        """How it stands now."""

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more jobs; finish those there are (`drain`, within `timeout` seconds) or end each with an EngineError."""
