"""Text prompts: the base is asked as it is, by words alone, with or without examples."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

from softprompt.bases.base import FrozenBase
from softprompt.compare.fit import TrainedHead, head_of
from softprompt.compare.method import Settings, Trained
from softprompt.errors import ConfigError, ContextError
from softprompt.evaluation.baselines import zero_shot_examples
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import no_prompt, split_head
from softprompt.progress import Progress
from softprompt.rows.openai_files import MESSAGES
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import Row
from softprompt.tasks.task import Examples, Task
from softprompt.tasks.wording.chat import text_place
from softprompt.tasks.wording.conversation import turns_in
from softprompt.text import MASK

SHOTS = 8
"""Examples of a few-shot text."""


class ZeroShot:
    """The task's text prompt before each input, as every training measures it, on all test rows. Where answers come from a
    head, which no text tells anything, the head as it starts."""

    searched = False

    def check(self, task: Task, base: FrozenBase) -> None:
        """It works everywhere."""

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return {} if base.task_type == "SEQ_CLS" else {"text": task.form.zero_shot_text()}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        if (head := head_of(architecture_of(base), task)) is not None:
            return bare(task, base, task.test, head)
        text = task.form.zero_shot_text()
        asked, warning = zero_shot_examples(base, task, task.test)
        if warning is not None:
            progress.warn(warning)
        return Trained(architecture_of(base), no_prompt(base), asked, bytes=len(text.encode()))


class FewShot:
    """The task's text prompt with examples from the training rows, in the task's own template; fewer where the context has
    no room for them."""

    searched = False

    def __init__(self, shots: int = SHOTS) -> None:
        self._shots = shots

    def check(self, task: Task, base: FrozenBase) -> None:
        if base.task_type == "SEQ_CLS":
            raise ConfigError(f"{base.name} answers through a head, which no examples tell anything; leave out few_shot")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return {"text": task.form.zero_shot_text(), "shots": self._shots}

    def train(self, task: Task, base: FrozenBase, progress: Progress, factor: float = 1.0) -> Trained:
        examples = draw_examples(task, self._shots, task.config.seed)
        uncut = task.encode(base, task.test, 0, split="test").truncated
        for count in range(len(examples), -1, -1):
            text = few_shot_text(task, examples[:count], base)
            asked = _asked(base, task, text)
            if asked is not None and (asked.truncated <= uncut or count == 0):
                break
        if count < self._shots:
            progress.warn(f"{task.name}: the few-shot text has {count} examples, not {self._shots}: no more fit")
        assert asked is not None
        head_PD, rest = split_head(base, asked.inputs)
        kept = len(text.encode())
        return Trained(architecture_of(base), head_PD, replace(asked, inputs=rest), bytes=kept, shots=count)


def bare(task: Task, base: FrozenBase, rows: PlacedRows, head: TrainedHead | None) -> Trained:
    """The base with nothing in front of a task's rows; with the head that it starts with, where it answers through one."""
    rows_RD = no_prompt(base) if head is None else head.rows_HD.to(base.dtype)
    kept = 0 if head is None else 4 * head.numbers
    return Trained(architecture_of(base), rows_RD, task.encode(base, rows, 0, split="test"), bytes=kept)


def _asked(base: FrozenBase, task: Task, text: str) -> Examples | None:
    try:
        return task.encode(base, task.test, 0, split="test", prepend=text)
    except ContextError:
        return None


def draw_examples(task: Task, count: int, seed: int) -> list[Row]:
    """Training rows for a few-shot text: of each label as many as of the others, as far as that goes, in an order by chance.
    A function of the rows and the seed alone."""
    draw = random.Random(f"few-shot {seed}")
    rows = list(task.train)
    draw.shuffle(rows)
    if task.form.labels is None:
        return rows[:count]
    waiting: dict[str, deque[Row]] = defaultdict(deque)
    for row in rows:
        waiting[task.form.answered.answer(row, "a training row")].append(row)
    labels = list(waiting)
    draw.shuffle(labels)
    drawn: list[Row] = []
    while len(drawn) < min(count, len(rows)):
        drawn += [waiting[label].popleft() for label in labels if waiting[label]][: count - len(drawn)]
    draw.shuffle(drawn)
    return drawn


def few_shot_text(task: Task, examples: Sequence[Row], base: FrozenBase) -> str:
    """What stands before an input: the task's text, then examples as the task words them, a blank line behind each. What a
    template says for the base alone, such as the turns of its chat, stands around all of that once, and not in examples,
    where it would be text."""
    text = task.form.zero_shot_text()
    return "".join([text + "\n" if text else "", *(f"{_worded(task, row, base)}\n\n" for row in examples)])


def _worded(task: Task, row: Row, base: FrozenBase) -> str:
    """An example: its input and its answer."""
    form, controls = task.form.answered, base.spelling.without_controls
    whole = form.input.without_prompt
    literals = [literal for literal, _ in whole.parts]
    literals = [literals[0][text_place(whole, base) :], *map(controls, literals[1:-1]), literals[-1]]
    literals[-1] = base.spelling.before_controls(literals[-1])
    turned = literals[-1] != whole.parts[-1][0]  # the assistant's turn begins there
    answer = "".join(
        controls(literal) + value
        for literal, value in form.target.fill_parts({form.target_field: form.answer(row, "a row")})
    )
    masked = any(MASK in literal for literal in literals) and base.task_type == "MASKED_LM"
    if masked:
        literals, answer = [literal.replace(MASK, answer.strip()) for literal in literals], ""
    values = [
        "\n".join(turn["content"] for turn in turns_in(value)) if name == MESSAGES and form.converses else value
        for (_, value), (_, name) in zip(whole.fill_parts(row, "an example"), whole.parts, strict=True)
    ]
    said = "".join(literal + value for literal, value in zip(literals, values, strict=True))
    return said + ("\n" if turned and not said.endswith("\n") else "") + answer
