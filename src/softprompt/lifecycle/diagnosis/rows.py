"""What the rows of a task show, without a base. No torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

from softprompt.bases.architectures import context_of
from softprompt.bases.files.locate import is_local, locate
from softprompt.bases.folder import check_folder
from softprompt.errors import BaseModelError
from softprompt.evaluation.findings import Finding
from softprompt.tasks.answers.labels import excerpt_of
from softprompt.tasks.config.schedule import FEW_ROWS
from softprompt.tasks.task import Task
from softprompt.text import plural

SHARED = 0.05
"""Of a split's inputs: more of them in another split are too many."""
TAGGED = 0.9
"""Of the rows: so many have a tag for each word of their input, where a task wants a label for each token."""
_TAG = re.compile(r"O|[BIESLU]-\S+")

MODES = {
    "with different answers": "contradictory_answers",
    "and are rivals": "labels_alike",
    "nothing teaches": "label_without_rows",
    "will hardly ever be predicted": "label_without_rows",
    "their passages lack": "answers_not_in_passages",
    "by their length alone": "length_tells_the_label",
}
"""What warnings of rows say, and what that is called."""

OF_ROWS = frozenset(
    {*MODES.values(), "few_rows", "duplicates_across_splits", "labels_begin_each_other", "context_exhausted",
     "needs_new_structure", "data_changed", "rows_gone"}
)  # fmt: skip
"""Modes that are of rows, whatever was trained on them."""


def of_rows(task: Task) -> Iterator[Finding]:
    """The failure modes that show in the rows of a task.

    Raises:
        DataError: one is wrong.
    """
    count = len(task.train)
    if count <= FEW_ROWS:
        yield Finding(
            "few_rows",
            f"{plural(count, 'training row')}",
            f"with {FEW_ROWS} or fewer a text prompt may be as good: label more, or compare with the zero-shot score",
        )
    for remark in task.remarks:
        mode = next((mode for words, mode in MODES.items() if words in remark), None)
        if mode is not None:
            yield Finding.of_remark(mode, remark)
    inputs = {
        name: ["\n".join(task.form.texts(row, "a row").values()) for row in rows] for name, rows in task.splits.items()
    }
    names = ["training", "test"] if task.folds else list(inputs)
    for one, other in itertools.combinations(names, 2):
        both = set(inputs[one]) & set(inputs[other])
        if len(both) > SHARED * len(set(inputs[other])):
            yield Finding(
                "duplicates_across_splits",
                f"{len(both)} of {len(set(inputs[other]))} {other} inputs are {one} inputs too",
                "leave them out of one: scores on them say little",
            )
    yield from _of_beginnings(task.form.asked)
    yield from _of_tags(task, inputs["training"])
    yield from _of_context(task, [text for name in names for text in inputs[name]])


def _of_beginnings(labels: Sequence[str]) -> Iterator[Finding]:
    """Labels that begin with another and a word more, whose tokens do so with next to any tokenizer."""
    pairs = [(one, two) for one in labels for two in labels if two.startswith(f"{one} ")]
    if pairs:
        one, two = pairs[0]
        more = f", and {plural(len(pairs) - 1, 'pair')} more" if len(pairs) > 1 else ""
        yield Finding(
            "labels_begin_each_other",
            f"the label {excerpt_of(one)} begins {excerpt_of(two)}{more}: every label gets an end token, which the model "
            "must say too",
            "rename one of them, so that none begins another",
        )


def _of_tags(task: Task, texts: Sequence[str]) -> Iterator[Finding]:
    """Answers that hold a tag for each word of their input."""
    if task.form.labels is not None or task.form.is_number or not texts:
        return
    answers = [task.form.answer(row, "a training row").split() for row in task.train]
    pairs = list(zip(answers, texts, strict=True))
    tagged = sum(len(tags) == len(text.split()) and all(map(_TAG.fullmatch, tags)) for tags, text in pairs)
    if tagged >= TAGGED * len(pairs):
        yield Finding(
            "needs_new_structure",
            f"{tagged} of {plural(len(pairs), 'training row')} have a tag for each word of their input",
            "a label for each token takes a model with a head for tokens (and a CRF), which is no prompt's to give; ask for "
            "what is tagged instead, as text: `{persons}` for the names of persons",
        )


def _of_context(task: Task, texts: Sequence[str]) -> Iterator[Finding]:
    """Inputs with more words than their base has room for, which are cut whatever its tokenizer makes of a word."""
    context = _context(task)
    if context is None:
        return
    length = task.config.num_virtual_tokens
    room = context - length
    longest = max(len(text.split()) for text in texts)
    cut = sum(len(text.split()) > room for text in texts)
    if cut:
        yield Finding(
            "context_exhausted",
            f"{cut} of {plural(len(texts), 'input')} are longer than the {context} tokens of {task.base_options.shown} less "
            f"{length} of the prompt, the longest of {plural(longest, 'word')}: they are cut",
            "shorten the inputs or the template, use fewer virtual tokens, or take a base with a longer context",
        )


def _context(task: Task) -> int | None:
    """The tokens that the base of a task takes, by its config; None where that is not at hand."""
    source = task.base_options.source or ""
    try:
        folder = locate(source) if is_local(source) else None
        if folder is None or not folder.is_dir():
            return None
        return context_of(SimpleNamespace(**check_folder(folder, source, code=task.base_options.trust_remote_code)))
    except (BaseModelError, OSError):  # what is wrong with the base is another matter
        return None
