"""A task: rows of data in a form, split into training, validation and test, and encoded for a base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from softprompt.bases.architectures import refuse_unless_causal, task_type_of_name
from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, DataError
from softprompt.tasks.config import TaskConfig, parse_config, read_config
from softprompt.tasks.form import Form, excerpt
from softprompt.tasks.rows import Row, digest_rows, find_file, hold_out, read_hub_split, read_rows


@dataclass(frozen=True)
class Examples:
    """Rows of a split as token ids."""

    inputs: list[list[int]]
    targets: list[list[int]]
    """The answer's tokens; for a generated answer the end token is among them."""
    choices: list[int]
    """Index of the right label; empty for a task that generates."""
    answers: list[str]
    """The answers as text."""
    truncated: int
    """Inputs that were cut to fit the context."""
    answers_cut: int = 0
    """Answers that were cut to `max_new_tokens`."""

    def __len__(self) -> int:
        return len(self.inputs)


class Task:
    """What a prompt is tuned for: a config and its rows.

    Make one from a file with :meth:`load`, or from keywords: `Task(task="mine", data="mine.csv", labels=["a", "b"])`.
    """

    def __init__(self, config: TaskConfig | None = None, *, folder: str | Path = ".", **fields: Any) -> None:
        """Check the config and find the data; rows are read when they are first needed.

        Raises:
            ConfigError: the config is wrong or has no task name.
        """
        self.config = config if config is not None else parse_config(fields)
        self.folder = Path(folder)
        self.form = Form.of_config(self.config)
        if not self.config.task:
            raise ConfigError("task is missing: give the task a name")

    @classmethod
    def load(cls, path: str | Path) -> Task:
        """Read a task file.

        Raises:
            ConfigError: it is wrong.
        """
        return cls(read_config(path), folder=Path(path).resolve().parent)

    def variant(self, **changes: Any) -> Task:
        """The same task with some keys of its config changed; rows are shared where the data are the same.

        Raises:
            ConfigError: a key is unknown or a value wrong.
        """
        kept = self.config.model_dump(exclude_unset=True)
        other = Task(parse_config(kept | changes, where=f"task {self.name!r}"), folder=self.folder)
        if other.config.data == self.config.data:
            other.__dict__["_splits"] = self._splits
        return other

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.form.task

    @property
    def base_options(self) -> BaseOptions:
        """The base to load, and how; a folder beside the task file is found too."""
        options = self.config.base_options
        return replace(options, source=self._beside(options.source), adapter=self._beside(options.adapter))

    def _beside(self, path: str | None) -> str | None:
        if path is None or Path(path).is_dir() or not (self.folder / path).is_dir():
            return path
        return str(self.folder / path)

    def check_base_name(self) -> None:
        """Refuse a base that by its name or by `task_type` is no causal model, before anything is fetched.

        Raises:
            BaseModelError: with the task type that it is.
        """
        source = self.base_options.address
        known = task_type_of_name(source)
        if known and not Path(source).is_dir():
            refuse_unless_causal(known, source)
        refuse_unless_causal(self.config.task_type, f"the base of task {self.name} ({source})")

    @cached_property
    def _splits(self) -> tuple[list[Row], list[Row], list[Row]]:
        data = self.config.data
        if data is None:
            raise ConfigError(f"task {self.name!r} has no `data`; name a file: `data: {{train: rows.csv}}`")
        train = self.rows_of(data.train)
        test_share = 0.1 if data.test is None else data.test
        taken = data.validation if isinstance(data.validation, float) else 0.0
        rest = train
        if isinstance(test_share, float):
            rest, test = hold_out(train, taken, test_share)
        else:
            test = self.rows_of(test_share)
        if isinstance(data.validation, float):
            rest, validation = hold_out(rest, 0.0, data.validation)
        else:
            validation = self.rows_of(data.validation)
        for split, rows in (("training", rest), ("validation", validation), ("test", test)):
            if not rows:
                raise DataError(
                    f"task {self.name!r}: no rows are left for the {split} split of {len(train)} rows; "
                    "give more rows, or a file for it"
                )
        return rest, validation, test

    def rows_of(self, name: str) -> list[Row]:
        """Rows of a file, or of a split where the task's data come from the hub.

        Raises:
            DataError: they cannot be read.
        """
        data = self.config.data
        if data is not None and data.dataset:
            return read_hub_split(data.dataset, data.name, name)
        return read_rows(find_file(name, self.folder))

    def address_of(self, name: str) -> str:
        """Where the rows of a file are, or of a split where the task's data come from the hub.

        Raises:
            DataError: there is no such file.
        """
        data = self.config.data
        if data is not None and data.dataset:
            return f"{data.dataset}{f'/{data.name}' if data.name else ''}:{name}"
        return str(find_file(name, self.folder).resolve())

    @property
    def train(self) -> list[Row]:
        """Training rows."""
        return self._splits[0]

    @property
    def validation(self) -> list[Row]:
        """Rows that choose the best prompt."""
        return self._splits[1]

    @property
    def test(self) -> list[Row]:
        """Rows that judge it."""
        return self._splits[2]

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the training rows in their order."""
        return digest_rows(self.train)

    def majority(self) -> str:
        """The most frequent answer of the training rows, the first among equals."""
        return Counter(self.form.answer(row, "a training row") for row in self.train).most_common(1)[0][0]

    def encode(
        self, base: FrozenBase, rows: Sequence[Row], num_virtual_tokens: int, *, split: str, prepend: str = ""
    ) -> Examples:
        """Rows as token ids that fit the context.

        Raises:
            DataError: a row lacks a field, has an empty input, or a label that is not listed.
            ContextError: prompt, template and answer leave no room.
        """
        where = f"task {self.name!r}, {split} row"
        answers = [self.form.answer(row, f"{where} {index + 1}") for index, row in enumerate(rows)]
        inputs = self.form.encode_inputs(base, rows, num_virtual_tokens, prepend=prepend, where=where)
        if self.form.labels is not None:
            label_ids = self.form.encode_labels(base)
            choices = [self.form.labels.index(answer) for answer in answers]
            return Examples(inputs.ids, [list(label_ids[c]) for c in choices], choices, answers, inputs.truncated)
        end = [base.end_id] if base.end_id is not None else []
        targets = [ids + end for ids in base.encode([self.form.verbalize(answer) for answer in answers])]
        bound, answers_cut = self.form.max_new_tokens, 0
        for index, ids in enumerate(targets):
            if not answers[index].strip():
                field, row = self.form.target_field, excerpt(rows[index])
                raise DataError(f"{where} {index + 1}: the field {field!r} is empty; give an answer: {row}")
            if len(ids) > bound:
                targets[index] = ids[:bound]
                answers_cut += 1
        return Examples(inputs.ids, targets, [], answers, inputs.truncated, answers_cut)
