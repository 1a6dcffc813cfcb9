"""A first task file from a table: which columns are the input and which one is the answer, and why. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, DataError, nearest
from softprompt.names import LONGEST_NAME, check_new_task
from softprompt.rows.tables import read_table
from softprompt.rows.values import Row, is_empty, is_missing, short, text_of
from softprompt.tasks.answers.kinds import NUMBER, SET, has_fraction
from softprompt.tasks.answers.labels import alike, excerpt_of, fold_label, infer_labels
from softprompt.tasks.config.config import keys_of_base, parse_config
from softprompt.tasks.config.schedule import told_few
from softprompt.tasks.draft.proposal import is_list, propose
from softprompt.tasks.task import Task
from softprompt.tasks.wording.chat import ChatFrame, words_of
from softprompt.tasks.wording.template import as_column, nameable
from softprompt.text import plural

_ANSWERS = tuple("label labels category class intent sentiment target answer output y completion response summary".split())
_TEXTS = tuple(
    """text sentence question input review message body content title prompt premise hypothesis context passage passages
    document sentence1 sentence2 question1 question2 text1 text2 text_a text_b query headline subject article""".split()
)
"""Columns of these names are answers and texts wherever their values allow it."""

_ID = re.compile(r"(.*[ _-])?(id|idx|index|uuid|guid|key|nr|no|row)|.*Id|unnamed.*", re.IGNORECASE | re.DOTALL)
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}( .*)?|https?://\S+")

DIFFERENT, WORDS, LETTERS = 0.3, 3, 12
"""A column is free text where its values have at least so many words or letters in the mean and a share of them differs."""

MOST_TOKENS = 128
_UNIQUE, _NUMBERS, _DATES = "is nearly another in each row, as ids are", "holds numbers", "holds dates or addresses"


@dataclass(frozen=True)
class Draft:
    """A task file, and how it came about."""

    yaml: str
    rows: int
    told: str
    """What was read."""
    text: tuple[str, ...]
    """Columns of the input."""
    label: str
    """The column of the answer."""
    answers: str
    """What the answers are taken for, and why."""
    taken: dict[str, str]
    """Why each of these columns was taken."""
    left: dict[str, str]
    """Why each of the others was left."""
    notes: tuple[str, ...]
    """What people should know before they train."""


def draft_task(
    file: Path,
    *,
    text: Sequence[str] = (),
    label: str | None = None,
    name: str | None = None,
    words: Mapping[str, str] | None = None,
    fold_labels: bool = False,
    problem_type: str | None = None,
    base: BaseOptions | None = None,
    frame: ChatFrame | None = None,
    headed: bool = False,
    begins: str | None = None,
) -> Draft:
    """A task file for a table of rows, all of which are read. What is drafted is what training takes as it stands.

    Args:
        file: the rows (.csv, .jsonl, .parquet ...).
        text: the input's columns; by default all that are named like texts, or are free text.
        label: the answer's column; by default one named like an answer, else the one with the fewest values, but two.
        name: of the task; by default the file's, with a hyphen for what a name cannot have.
        words: words to say for labels, such as one for a number.
        fold_labels: take labels that differ by case, spaces or the spelling of a number alone for one.
        problem_type: what kind of answers they are; by default as they look.
        base: what to tune on; by default the built-in one.
        frame: of its chat template, to word the input in; without one it is worded plainly.
        headed: whether it answers through a head, and not in words.
        begins: what its tokenizer begins texts with, which stands before a plain input.

    Raises:
        DataError: no column for an input or an answer, no such column, or what training refuses.
        NameRefused: the name given is none.
    """
    task = check_new_task(name if name is not None else name_of(file))
    read = read_table(file)
    table = _Table(file, read.rows)
    _check_given(table, text, label)
    answer, why = (label, "as you say") if label is not None else table.find_answer(text)
    taken = dict.fromkeys(text, "as you say") or table.find_texts(answer)
    proposal = propose(answer, table[answer].values, table[answer].texts, fold=fold_labels, problem_type=problem_type)
    labels, told = proposal.labels, proposal.told
    table.check_answer(answer, is_set=proposal.kind == SET)
    for column in (*taken, answer):
        if not nameable(column):
            raise ConfigError(f"{file}: no template can name {column!r}; let the first row name each column, without braces")
    config: dict[str, object] = {
        "task": task,
        **keys_of_base(base or BaseOptions()),
        "data": {"train": file.name},
        **words_of(list(taken), answer, frame, generates=labels is None, headed=headed, begins=begins),
    }
    if labels is not None:
        said = _said(labels, words or {})
        config["labels"] = list(dict.fromkeys(said.values()))
        config |= {"id2label": {given: word for given, word in said.items() if given != word}} if words else {}
        config |= {"fold_labels": True} if fold_labels else {}
        metric = "micro_f1" if proposal.kind == SET else "mae" if proposal.kind == NUMBER else "accuracy"
        config |= {**proposal.keys, "metric": metric, "prompt_tuning_init": "LABELS"}
    elif words or fold_labels:
        raise DataError(f"{file}: the answers of {answer!r} are {told}; words and folding are for labels")
    else:
        metric = "mae" if proposal.kind == NUMBER else "exact_match"
        config |= {**proposal.keys, "metric": metric, "max_new_tokens": answer_bound(table[answer].texts)}
    drafted = Task(parse_config(config), folder=file.parent)
    notes = [*(frame.notes if frame is not None else ()), *drafted.remarks, *proposal.notes]
    if alike(dict.fromkeys(labels or (), 0)) or any(label != label.strip() for label in labels or ()):
        notes.append("the same command with --fold-labels writes that, each label in its most frequent spelling")
    nominal = labels if not words and proposal.kind is None else None
    if nominal is not None and not any(isinstance(fold_label(one), str) for one in nominal):
        example = " ".join(f"--word {one}=..." for one in nominal[:2])
        notes.append(f"the labels are numbers, which tell a language model little; words say more: {example}")
    ids = [one for one, why in taken.items() if table[one].kind == _UNIQUE and why != "by its name"]
    notes += [f"the input {one!r} {_UNIQUE}, and an id says nothing of an answer; name another with --text" for one in ids]
    if (told_of_rows := told_few(len(drafted.train))) is not None:
        notes.append(told_of_rows)
    left = {column: reason for column, reason in table.reasons(answer).items() if column not in (*taken, answer)}
    if text:
        left = {column: reason.replace("is free text", "is not among those given") for column, reason in left.items()}
    drawn = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return Draft(drawn, len(table.rows), read.told(), tuple(taken), answer, told, {**taken, answer: why}, left, tuple(notes))


def name_of(file: Path) -> str:
    """The file's name, without what says its kind, as a task may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem_of(file)).strip("-._")[:LONGEST_NAME] or "task"


def stem_of(file: Path) -> str:
    """A file's name without what says its kind: `rows` of `rows.csv.gz`."""
    return Path(file.stem).stem if file.suffix.lower() == ".gz" else file.stem


@dataclass(frozen=True)
class _Column:
    """A column, read whole."""

    name: str
    values: list[object]
    missing: list[int] = field(default_factory=list)
    """Rows without it, counted from 1."""

    @cached_property
    def texts(self) -> list[str]:
        """Its values as templates take them."""
        return [_text(value) for value in self.values]

    @cached_property
    def fault(self) -> str | None:
        """Why it can be no input, whatever it is called."""
        present = [value for value in self.values if not is_empty(value)]
        for value in present:
            try:
                text_of(value)
            except ValueError as error:
                return f"holds {short(value, 40)}, which is no text: {error}"
        if not present:
            return "is empty in all rows"
        if len(self.values) > 1 and len(set(self.texts)) == 1:
            return f"is {excerpt_of(self.texts[0])} in all rows"
        return None

    @cached_property
    def kind(self) -> str | None:
        """What it is where it is no free text: a choice among few values, an id, numbers, dates."""
        texts = [text for text in self.texts if text.strip()]
        unique = len(set(texts)) > 0.95 * len(texts)
        if all(_DATE.fullmatch(text.strip()) for text in texts):
            return _DATES
        numbers = all(not isinstance(fold_label(text), str) for text in texts)
        if numbers and any(has_fraction(text) for text in texts):
            return _NUMBERS  # an id has no fraction
        if unique and (numbers or _ID.fullmatch(self.name)):
            return _UNIQUE
        if numbers:
            return _NUMBERS
        mean = len(texts) or 1
        words = sum(len(text.split()) for text in texts) / mean
        letters = sum(map(len, texts)) / mean
        if len(set(texts)) < DIFFERENT * len(texts):
            return f"has few values ({len(set(texts))})"
        return None if words >= WORDS or letters >= LETTERS else "has short values"


class _Table:
    """A table, read whole, and what its columns look like."""

    def __init__(self, file: Path, rows: Sequence[Row]) -> None:
        self.file, self.rows = file, rows
        names = dict.fromkeys(name for row in rows for name in row)  # the first row may lack some
        self.columns = {
            name: _Column(
                name,
                [as_column(name, row.get(name)) for row in rows],
                [at for at, row in enumerate(rows, 1) if name not in row],
            )
            for name in names
        }
        if len(self.columns) < 2:
            only = next(iter(self.columns), None)
            raise DataError(
                f"{file} has only the column {only!r}; an input and an answer are needed (`softprompt distill` alone needs "
                "no answers; its task file is written by hand)"
            )

    def __getitem__(self, name: str) -> _Column:
        return self.columns[name]

    def find_answer(self, text: Sequence[str]) -> tuple[str, str]:
        """The column of the answer, and why."""
        columns = [column for name, column in self.columns.items() if name not in text]
        named = [column for column in columns if column.name.strip().lower() in _ANSWERS]
        for column in named:
            if column.fault and column.fault.startswith("holds") and not is_list(column.values):
                raise DataError(
                    f"{self.file}: the column {column.name!r} {column.fault}; an answer is one text or number, or a list of "
                    "labels: write one in each row, or name another column with --label"
                )
        usable = [column for column in columns if not column.fault and column.kind != _UNIQUE]
        lists = [column for column in columns if is_list(column.values)]
        if sure := [column for column in (*usable, *lists) if column in named]:
            return self._in_words(sure[0], "by its name")
        if len(lists) == 1:
            return lists[0].name, "it holds lists, as sets of labels do"
        choices = [c for c in usable if c.kind != _DATES and c.name.lower() not in _TEXTS and infer_labels(c.texts)[0]]
        if choices:
            fewest = min(choices, key=lambda column: (column.kind == _NUMBERS, len(set(column.texts))))
            return self._in_words(fewest, f"by its {len(set(fewest.texts))} values")
        texts = [column for column in usable if column.kind is None or column.name.lower() in _TEXTS]
        if len(usable) == 2 and texts:
            return usable[1].name, "the other column" if not text else "the column that is left"
        if text and len(usable) == 1:
            return usable[0].name, "the column that is left"
        raise DataError(f"{self.file}: no column looks like the answer; name it with --label COLUMN ({self.told(text)})")

    def _in_words(self, column: _Column, why: str) -> tuple[str, str]:
        """Another column where it has words for the numbers of this one."""
        if column.kind != _NUMBERS:
            return column.name, why
        for other in self.columns.values():
            pairs = set(zip(column.texts, other.texts, strict=True))
            usable = other is not column and not other.fault and other.kind not in (_UNIQUE, column.kind)
            if usable and len(pairs) == len(set(column.texts)) == len(set(other.texts)):
                return other.name, f"it has words for the numbers of {column.name!r}"
        return column.name, why

    def find_texts(self, answer: str) -> dict[str, str]:
        """The columns of the input, in their order, and why each."""
        columns = [column for name, column in self.columns.items() if name != answer and not column.fault]
        named = [column for column in columns if column.name.strip().lower() in _TEXTS]
        free = [column for column in columns if column in named or column.kind is None]
        whole = [column for column in free if not any(map(is_missing, column.values))] or free[:1]
        taken = [column for at, column in enumerate(whole) if not any(column.texts == other.texts for other in whole[:at])]
        if taken:
            return {column.name: "by its name" if column in named else "free text" for column in taken}
        if not columns:
            told = f"no column can be the input beside {answer!r} ({self.told([answer])})"
            raise DataError(f"{self.file}: {told}; name one with --text")
        most = max(columns, key=lambda column: (column.kind != _UNIQUE, len(set(column.texts)), sum(map(len, column.texts))))
        return {most.name: "the most different values"}

    def check_answer(self, answer: str, *, is_set: bool) -> None:
        """Refuse an answer that training refuses. A set may be empty."""
        column = self.columns[answer]
        if column.fault and "empty" not in column.fault and not is_set:
            raise DataError(f"{self.file}: the column {answer!r} {column.fault}; name another with --label, or mend it")
        lacks = is_missing if is_set else is_empty
        empty = [number for number, value in enumerate(column.values, start=1) if lacks(value)]
        if empty:
            raise DataError(
                f"{self.file}: the column {answer!r} is empty in {len(empty)} of {len(self.rows)} rows, the first of them "
                f"row {empty[0]}; fill it, drop those rows, or name another column with --label"
            )

    def told(self, apart: Sequence[str]) -> str:
        """The columns but some, each with why it is not taken."""
        return "; ".join(f"{name!r} {reason}" for name, reason in self.reasons(None).items() if name not in apart)

    def reasons(self, answer: str | None) -> dict[str, str]:
        """Of each column, why it is not in the input."""
        found: dict[str, str] = {}
        for name, column in self.columns.items():
            twin = next((one for one in found if one != answer and self.columns[one].texts == column.texts), None)
            missing = sum(map(is_missing, column.values))
            found[name] = column.fault or column.kind or (f"says the same as {twin!r}" if twin else "")
            found[name] = found[name] or (f"is missing in {plural(missing, 'row')}" if missing else "is free text")
        return found


def _check_given(table: _Table, text: Sequence[str], label: str | None) -> None:
    for given in (*text, label):
        if given is not None and given not in table.columns:
            tail = nearest(given, table.columns)
            raise DataError(f"{table.file} has no column {given!r}{tail.replace('known:', 'it has')}")
    twice = [name for name, count in Counter(text).items() if count > 1]
    if twice:
        raise ConfigError(f"the column {twice[0]!r} is given twice with --text; once is enough")
    if label in text:
        raise ConfigError(f"the column {label!r} is given as --text and as --label; an answer cannot be its own input")


def _said(labels: Sequence[str], words: Mapping[str, str]) -> dict[str, str]:
    """What is said for each label."""
    for given in words:
        if given not in labels:
            raise DataError(f"no row has the answer {given!r} that --word has a word for{nearest(given, labels)}")
    return {label: words.get(label, label) for label in labels}


def answer_bound(answers: Sequence[str], most: int = MOST_TOKENS) -> int:
    """A bound on the tokens of answers: a power of two that leaves room for two letters a token."""
    longest = max(len(answer) for answer in answers)
    return min(most, max(32, 1 << ((longest + 1) // 2).bit_length()))


def _text(value: object) -> str:
    try:
        return text_of(value)
    except ValueError:
        return ""


class _Dumper(yaml.SafeDumper):
    """YAML that keeps a text with line breaks on one line, in double quotes."""


def _scalar(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if value.splitlines() in ([value], []) else '"'  # which alone keeps every kind of line break
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _scalar)
