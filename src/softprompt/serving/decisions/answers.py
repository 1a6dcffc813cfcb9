"""What decisions are answered with. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softprompt.serving.answers import Head
from softprompt.tasks.answers.decision import Question, Value


@dataclass(frozen=True)
class Answer:
    """The answer to one question: a probability for each of its options, or why there is none."""

    question: Question
    probabilities: tuple[float, ...] = ()
    """In the order of the options; they sum to 1."""
    refusal: str | None = None
    """Why the question is not answered; None where it is."""

    @property
    def best(self) -> int:
        """The place of the likeliest option, the first among equals."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def choice(self) -> Value:
        """The likeliest option's value."""
        return self.question.options[self.best].value

    @property
    def confidence(self) -> float:
        """Its probability."""
        return self.probabilities[self.best]

    @property
    def score(self) -> float:
        """The expected level, counted from 0."""
        return math.fsum(level * probability for level, probability in enumerate(self.probabilities))


@dataclass(frozen=True)
class Decided:
    """The answers to the questions about an input, in order."""

    head: Head
    """Its `input_tokens` count the input once, and each question that the base reads."""
    answers: tuple[Answer, ...]
    truncated: bool = False
    """Whether the input was cut to fit the context, as a task's inputs are."""
