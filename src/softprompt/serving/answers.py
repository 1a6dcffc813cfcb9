"""What services answer with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import EngineError

if TYPE_CHECKING:
    from softprompt.engines.protocol import TokenProbability
    from softprompt.serving.routing.router import Route
    from softprompt.serving.routing.split import Share
    from softprompt.tasks.answers.kinds import Said
    from softprompt.tasks.form import Form


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: str
    """`system`, `developer`, `user`, `assistant`, ..."""
    content: str


@dataclass(frozen=True)
class Head:
    """What is known of an answer before its first piece."""

    model: str
    """What answers: `task@3`, or the base's name."""
    task: str | None
    """None for the base alone."""
    version: int | None
    system_fingerprint: str
    virtual_tokens: int
    input_tokens: int
    """Tokens of the input, those of the prompt not counted."""
    routed: Route | None = None
    """With `auto`."""
    share: Share | None = None
    """Its part in an experiment."""


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    head: Head
    text: str
    tokens: tuple[TokenProbability, ...]
    """Where they were asked for."""
    finish: str
    """`stop` or `length`."""
    output_tokens: int


@dataclass(frozen=True)
class Choice:
    """The answer to one input of a classification."""

    label: str
    scores: dict[str, float]
    """Probability of each label."""
    truncated: bool
    """Whether the input was cut to fit the context."""
    said: Said
    """All of it, with what is of sets of labels and of numbers alone."""


@dataclass(frozen=True)
class Classified:
    """The answers to the inputs of a classification, in order."""

    head: Head
    """Its `input_tokens` are those of all inputs, templates among them."""
    rows: tuple[Choice, ...]
    problem_type: str | None = None
    """What kind of answers they are, where not one label."""

    @property
    def truncated(self) -> int:
        """How many inputs were cut to fit the context."""
        return sum(row.truncated for row in self.rows)


@dataclass(frozen=True)
class Embedded:
    """The embeddings of inputs, in order."""

    head: Head
    """Its `input_tokens` are those of all inputs."""
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ModelRow:
    """A model that clients may name."""

    id: str
    """A task's name, or the base's; for `AsyncService.model` the name that it was found by."""
    task: str | None
    """None for the base."""
    version: int | None
    """The version that `id` means; None for the base, and where it is one of another base, so that `id` alone is refused."""
    versions: tuple[int, ...]
    """Versions on this base, each called `task@N`."""
    aliases: dict[str, int]
    """Aliases of versions on this base, each called `task@alias`."""
    created: int
    """Unix seconds: when the version was published; 0 for the base."""
    system_fingerprint: str


def choose_label(form: Form, scores: Sequence[float], *, truncated: bool) -> Choice:
    """The likeliest label, the first among equals, and the probability of each, from summed log-probabilities; of a set all
    labels that hold, of a number over ordered labels the nearest one.

    Raises:
        EngineError: they are no numbers.
    """
    assert form.labels is not None
    said = form.of_scores(scores)
    if any(map(math.isnan, (said.scores or {}).values())):
        raise EngineError(
            f"the labels of task {form.task!r} got no numbers from the base; its prompt may be damaged, or the base needs a "
            "wider dtype (--dtype float32)"
        )
    return Choice(said.label, said.scores or {}, truncated, said)
