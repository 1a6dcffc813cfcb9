"""How a base that was never tuned for a question reads it: what all questions about an input share, and what each has of its
own, encoded apart, so that the one is run once for all of them.

With a chat template all of it is one message of the user's, and an option begins the answer to it; without, an option
stands behind `Answer:`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.bases.architectures import ENCODERS, KINDS
from softprompt.errors import ConfigError, DataError, reason_of
from softprompt.model.label_scores import Labels
from softprompt.tasks.answers.decision import Question
from softprompt.tasks.answers.label_ids import distinct, with_ends
from softprompt.text import Parts

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.serving.answers import Message

_HERE = "(here the message stands)"
"""Stands for the user's message while a chat template is filled, which then is around it."""


@dataclass(frozen=True)
class Asked:
    """Questions about an input, as token ids."""

    shared: tuple[int, ...]
    """What stands before all of them; none on a base that puts something in front of every text."""
    questions: tuple[tuple[int, ...], ...]
    """Behind it, each of them."""
    options: tuple[Labels, ...]
    """Behind that, each of the options of each."""


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as one text: a single message as it is, several with the role of each before it."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def ask_base(base: FrozenBase, state: str, questions: Sequence[Question]) -> Asked:
    """Questions about a text, as a base reads them.

    Raises:
        ConfigError: the base writes no text.
        DataError: its chat template takes no such message, or two options of a question are read alike.
    """
    if base.task_type in ENCODERS:
        raise ConfigError(
            f"{base.name} is {KINDS[base.task_type]}, which was never tuned for these questions and writes no text; name a "
            "task with labels as `model`"
        )
    before, behind = _around_message(base)
    gap = " " if behind is None else ""
    first: Parts = [(before, state), ("\n\n", "")]
    rest = [[("", question.text()), ("\nAnswer:" if behind is None else behind, "")] for question in questions]
    if any(base.frame):
        shared: list[int] = []
        own = base.encode([[*first, *parts] for parts in rest])
    else:
        (shared,) = base.encode([first])
        own = base.encode(rest, behind=True)
    options = tuple(_encode_options(base, question, number, gap) for number, question in enumerate(questions))
    return Asked(tuple(shared), tuple(map(tuple, own)), options)


def _around_message(base: FrozenBase) -> tuple[str, str | None]:
    """What the base's chat template says before a user's message and behind it; nothing and None where it has none."""
    if getattr(base.tokenizer, "chat_template", None) is None:
        return "", None
    try:
        text: str = base.tokenizer.apply_chat_template(
            [{"role": "user", "content": _HERE}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates come with models, and raise whatever they like
        raise DataError(
            f"the chat template of {base.name} refuses a user's message: {reason_of(error)}; name a tuned task"
        ) from None
    before, found, behind = text.partition(_HERE)
    if not found or _HERE in behind:
        raise DataError(f"the chat template of {base.name} does not say a user's message once, as it is; name a tuned task")
    return before, behind


def _encode_options(base: FrozenBase, question: Question, number: int, gap: str) -> Labels:
    where, alone = f"questions[{number}]", base.task_type == "SEQ_2_SEQ_LM"
    parts: list[Parts] = [[("" if alone else gap, label)] for label in question.labels]
    ids = base.encode(parts, behind=not alone)
    return with_ends(distinct(question.labels, ids, where, base.name), base.end_id, where, base.name)
