"""Questions to probabilities of their options.

A task answers the question that it is tuned for: by its labels, calibrated. A base alone answers any: the input is run once,
as if it were a prompt of its own, and the questions and their options are rows and tails behind it, in one batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.engines.protocol import NO_PROMPT, ScoreJob, Vectors
from softprompt.errors import ConfigError, ContextError, EngineError
from softprompt.evaluation.statistics.calibration import calibrated
from softprompt.model.splice import no_prompt, with_front
from softprompt.serving.decisions.answers import Answer
from softprompt.serving.decisions.wording import Asked, ask_base
from softprompt.tasks.answers.decision import Question, same_values, told_values, typed
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.serving.reader import Reader
    from softprompt.serving.residents.resident import Resident
    from softprompt.serving.results import Results


def is_answered(resident: Resident, question: Question) -> bool:
    """Whether a task answers a question.

    Raises:
        ConfigError: it answers none, since it has no labels to choose one among.
    """
    form = resident.form
    if not form.chooses:
        what = "answers with sets of labels" if form.is_set else "generates text"
        raise ConfigError(
            f"task {resident.task!r} {what}, and a decision is one label among several; name a task with those"
        )
    return why_refused(resident, question) is None


def why_refused(resident: Resident, question: Question) -> str | None:
    """Why a task does not answer a question, which it was not tuned for; None where it answers.

    One whose task file held a question answers that one alone. Without, its labels answer a choice whose values they are.
    """
    own, labels, task = resident.question, resident.form.labels or (), resident.task
    if own is not None:
        differs = own.differs(question)
        return None if differs is None else f"task {task!r} was not tuned for this question: {differs}"
    if question.type != "choice":
        return (
            f"task {task!r} was tuned for its labels alone, and this is a {question.type}; ask for a choice among "
            f"{told_values(labels)}, or tune it with the question in its task file (`decision`)"
        )
    if not same_values(labels, question.labels):
        return f"task {task!r} chooses among {told_values(labels)}, and this question among {told_values(question.values)}"
    return None


def answer_by_labels(resident: Resident, question: Question, scores: Sequence[float] = ()) -> Answer:
    """The answer of a task by its labels' scores, calibrated by its temperature; a refusal of what it does not answer.

    Raises:
        EngineError: they are no numbers.
    """
    if (why := why_refused(resident, question)) is not None:
        return Answer(question, refusal=why)
    chances = _numbers(calibrated(scores, resident.temperature))
    own = resident.question
    ours, asked = (resident.form.labels or (), question.labels) if own is None else (own.values, question.values)
    by_value = dict(zip(map(typed, ours), chances, strict=True))
    return Answer(question, tuple(by_value[typed(value)] for value in asked))


async def answer_zero_shot(
    base: FrozenBase, reader: Reader, results: Results, state: str, questions: Sequence[Question]
) -> tuple[list[Answer], int]:
    """The answers of a base that was never tuned for these questions, and how many tokens it reads: the input once, and each
    question.

    Raises:
        ContextError: no question fits behind the input.
        ConfigError, DataError: as :func:`ask_base`.
        EngineBusy, EngineError: as the engine's.
    """
    texts = [state, *(question.text() for question in questions)]
    asked = await reader.off_loop(texts, 0, lambda: ask_base(base, state, questions))
    fits = [_fits(base, asked, place) for place in range(len(questions))]
    if not any(fits):
        raise ContextError(
            f"{plural(len(asked.shared), 'token')} of the input and {len(min(asked.questions, key=len))} of the shortest "
            f"question do not fit the context of {base.name}, {base.context} tokens, with an option; shorten the input"
        )
    shared = _as_prompt(base, asked.shared)
    jobs = [ScoreJob(shared, asked.questions[place], asked.options[place]) for place, fit in enumerate(fits) if fit]
    scored = iter(await results.scored(jobs))
    answers = [
        Answer(question, tuple(_numbers(calibrated(next(scored), 1.0))))
        if fit
        else Answer(question, refusal=f"the question does not fit the context of {base.name} behind the input; shorten it")
        for question, fit in zip(questions, fits, strict=True)
    ]
    return answers, len(asked.shared) + sum(len(job.input) for job in jobs)


def _fits(base: FrozenBase, asked: Asked, place: int) -> bool:
    room = base.room(len(asked.shared) + len(asked.questions[place]))
    return room is None or max(map(len, asked.options[place])) <= room


def _as_prompt(base: FrozenBase, shared: Sequence[int]) -> Vectors:
    """Tokens as engines know a prompt: they keep its keys and values, so that it is run once for all rows behind it."""
    if not shared:
        return NO_PROMPT
    name = hashlib.sha256(repr(("input", tuple(shared))).encode()).hexdigest()
    return Vectors(name, with_front(base, shared, no_prompt(base)))


def _numbers(probabilities: list[float]) -> list[float]:
    if not all(0 <= one <= 1 for one in probabilities):
        raise EngineError(
            "the options of a question got no numbers from the base; it may need a wider dtype (--dtype float32)"
        )
    return probabilities
