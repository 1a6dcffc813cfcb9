"""A task: rows of data in a form, split into training, validation and test, and encoded for a base. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from softprompt.bases import architectures
from softprompt.bases.files.locate import beside, is_saved
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, ConfigError, DataError
from softprompt.rows.memory import MEMORY, take_rows
from softprompt.rows.places import Place, PlacedRows
from softprompt.rows.sources import Row, digest_rows, find_file, read_hub_split, read_rows
from softprompt.tasks.answers.labels import compose, named
from softprompt.tasks.answers.schema import check_answers
from softprompt.tasks.config.config import TaskConfig, parse_config, read_config
from softprompt.tasks.config.instruction import with_instruction
from softprompt.tasks.examples import Examples as Examples
from softprompt.tasks.form import Form
from softprompt.tasks.remarks import remarks_on_rows
from softprompt.tasks.retrieve import Find, Retriever
from softprompt.tasks.splits import FEW, FOLDS, Source, cut, deal, draw, spans, why_none
from softprompt.tasks.wording.template import PASSAGES, field_text
from softprompt.text import MASK, plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase


@dataclass(frozen=True)
class _Splits:
    """The rows of a task, by split, and what is to be said of them."""

    rows: dict[str, PlacedRows]
    remarks: tuple[str, ...]
    faults: dict[str, dict[str, int]]
    folds: list[list[int]]


class Task:
    """What a prompt is tuned for: a config and its rows.

    Make one from a file with :meth:`load`, or from keywords: `Task(task="mine", data="mine.csv", labels=["a", "b"])`. In the
    place of a file's name stand rows in memory, too: a list of dictionaries, or a table.
    """

    def __init__(
        self,
        config: TaskConfig | None = None,
        *,
        folder: str | Path = ".",
        retriever: Find | Retriever | None = None,
        **fields: Any,
    ) -> None:
        """Check the config and find the data; rows are read when they are first needed.

        Args:
            retriever: finds passages for `{passages}` in `input`: from a question and k to a list of texts.

        Raises:
            ConfigError: the config is wrong or has no task name.
        """
        fields, self._given = take_rows(fields)
        self.folder, self._addresses = Path(folder), dict[str, str]()
        self.config = with_instruction(config if config is not None else parse_config(fields), self.folder)
        self.form = Form.of_config(self.config)
        if retriever is not None or self.config.retrieve is not None:
            if not isinstance(retriever, Retriever):
                retriever = Retriever.make(self.config.retrieve, retriever, self.folder, self.form.input)
            self.form = replace(self.form, retriever=retriever)
        if not self.config.task:
            raise ConfigError("task is missing; give the task a name")

    @classmethod
    def load(cls, path: str | Path) -> Task:
        """Read a task file.

        Raises:
            ConfigError: it is wrong.
        """
        return cls(read_config(path), folder=Path(path).resolve().parent)

    def variant(self, **changes: Any) -> Task:
        """The same task with some keys of its config changed; rows are shared where the data are the same,
        and are read alike.

        Raises:
            ConfigError: a key is unknown or a value wrong.
        """
        dropped = {"instruction"} if changes.get("instruction_file") is not None else set()
        kept = self.config.model_dump(exclude_unset=True, exclude=dropped)
        changes, given = take_rows(changes)
        config = parse_config(kept | changes, where=f"task {self.name!r}")
        found, alike = self.form.retriever, (config.retrieve, config.input) == (self.config.retrieve, self.config.input)
        other = Task(config, folder=self.folder, retriever=found if alike or found is None else found.given)
        other._given = self._given | given
        if other.config.data == self.config.data and not given and other.form.reads == self.form.reads:
            other.__dict__["_splits"] = self._splits
        return other

    def subsets(self, count: int) -> list[Task]:
        """Tasks that share its training rows out: in equal parts, of each label its share, by what the rows hold.

        Raises:
            ConfigError: there are too few rows.
        """
        group = self.config.data.group if self.config.data is not None else None
        source = Source.read(self.form, self.train, "the training rows", f"task {self.name!r}, ", group)
        parts = deal(source, count, by_label=self.form.labels is not None)
        if self.folds:
            raise ConfigError(
                f"task {self.name!r}: {plural(len(self.train), 'training row')} are so few that each is held out in turn, "
                "which subsets are not; say what to hold out (data: {validation: 0.1}), or add rows"
            )
        if len(parts) < count:
            raise ConfigError(
                f"task {self.name!r}: {plural(len(self.train), 'training row')} are too few for {count} subsets; add rows"
            )
        data = self.config.data.model_dump(exclude_unset=True, exclude={"subsets"}) if self.config.data else {}
        tasks = [self.variant(data=data) for _ in parts]
        form = self.form.within(source.answers)  # the range of numbers is that of all rows
        for one, places in zip(tasks, parts, strict=True):
            one.form = form
            one.__dict__["_splits"] = replace(self._splits, rows={**self._splits.rows, "training": self.train.part(places)})
        return tasks

    def __repr__(self) -> str:
        return f"Task({self.name!r}, metric {self.form.metric}, on {self.base_options.shown})"

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.form.task

    @property
    def base_options(self) -> BaseOptions:
        """The base to load, and how; a path is looked for beside the task file first, as data are."""
        options = self.config.base_options
        source, adapter = (path and beside(path, self.folder) for path in (options.source, options.adapter))
        return replace(options, source=source, adapter=adapter)

    def check_base_name(self) -> None:
        """Refuse a base that by its name is of a kind that is not tuned, or not of the task's `task_type`, before anything
        is fetched.

        Raises:
            BaseModelError: with the task type that it is.
        """
        source, asked = self.base_options.address, self.config.task_type
        known = architectures.task_type_of_name(source)
        headless = asked == "SEQ_CLS" and known == "MASKED_LM"  # an encoder of that name may have no head for masks
        if known and not headless and not is_saved(Path(source)):
            architectures.check_task_type(asked, known, self.name, source)
            architectures.refuse_unless_tuned(known, source)
        if asked is not None and asked not in architectures.TUNED:
            raise BaseModelError(
                f"task {self.name!r} asks for task_type {asked}, and {architectures.listed_types()} are tuned; leave "
                f"task_type out, which takes what the base ({source}) is"
            )

    @cached_property
    def _splits(self) -> _Splits:
        data = self.config.data
        if data is None:
            raise ConfigError(f"task {self.name!r} has no `data`; name a file: `data: {{train: rows.csv}}`")
        shares = {"validation": data.validation, "test": data.test}
        cuts = {split: 0.1 if share is None else share for split, share in shares.items() if not isinstance(share, str)}
        if sum(cuts.values()) >= 1:
            told = " and ".join(f"{share:g} for {split}" for split, share in cuts.items())
            raise ConfigError(f"task {self.name!r}: shares of {told} leave no rows to train on; make them smaller")
        read = self._read(data.train)
        by_label, few, folds = self.form.chooses, data.validation is None and read.different <= FEW, []
        if few:
            apart = {split: share for split, share in cuts.items() if split != "validation"}
            train, *parts = cut(read, spans(apart.values()), by_label=by_label)
            folds = deal(train, FOLDS, by_label=by_label)
            few = len(folds) > 1  # one input cannot be held out and trained on
            cuts = apart if few else cuts
        if not few:
            train, *parts = cut(read, spans(cuts.values()), by_label=by_label)
            folds = []
        own = {split: self._read(name) for split, name in shares.items() if isinstance(name, str)}
        found = {"training": train, **dict(zip(cuts, parts, strict=True)), **own}
        if few:
            found["validation"] = train
        splits = {split: found[split] for split in ("training", "validation", "test")}
        for split, source in splits.items():
            if not source.rows:
                raise DataError(f"task {self.name!r}: {why_none(split, source if split in own else read)}")
        others = {split: source for split, source in splits.items() if split != "validation" or not few}
        remarks = [*remarks_on_rows(self.form, [read, *own.values()], others), *self._recomposed()]
        faults = {split: own.get(split, read).faults() for split in ("train", "validation", "test")}
        return _Splits({split: source.rows for split, source in splits.items()}, tuple(remarks), faults, folds)

    def _recomposed(self) -> Iterator[str]:
        if changed := [label for label in map(compose, self.config.labels or ()) if label not in (self.config.labels or ())]:
            yield f"`labels` has decomposed Unicode: {named(changed)}; it is read in composed form (NFC)"

    def _read(self, name: str) -> Source:
        """Rows of a file or split as the form reads them."""
        shown = PurePath(name).name
        group = self.config.data.group if self.config.data is not None else None
        return Source.read(self.form, self.rows_of(name), shown, f"task {self.name!r}, ", group)

    def rows_of(self, name: str) -> PlacedRows:
        """Rows of a file, or of a split where the task's data come from the hub.

        Raises:
            DataError: they cannot be read.
        """
        data = self.config.data
        if name in self._given:
            return self._given[name]
        if name.startswith(MEMORY):
            raise DataError(f"task {self.name!r}: the {name.removeprefix(MEMORY)} rows came from memory; give them again")
        if data is not None and data.dataset:
            return read_hub_split(data.dataset, data.name, name)
        return read_rows(find_file(name, self.folder), name)

    def address_of(self, name: str) -> str:
        """Where the rows of a file are, or of a split where the task's data come from the hub. It is looked for once, so a
        task that goes to another machine, where that file is not, takes the answer along.

        Raises:
            DataError: there is no such file.
        """
        data = self.config.data
        if name in self._given:
            return name
        if data is not None and data.dataset:
            return f"{data.dataset}{f'/{data.name}' if data.name else ''}:{name}"
        if name not in self._addresses:
            self._addresses[name] = str(find_file(name, self.folder).resolve())
        return self._addresses[name]

    @property
    def train(self) -> PlacedRows:
        """Training rows."""
        return self._splits.rows["training"]

    @cached_property
    def validation(self) -> PlacedRows:
        """Rows that choose the best prompt: of those held out, `max_eval_samples` at most; those of training where they are
        few, each held out in turn."""
        held = self._splits.rows["validation"]
        places = range(len(held)) if self.folds else self.draw(held, self.config.max_eval_samples)
        return held if len(places) == len(held) else held.part(places)

    @property
    def held_out(self) -> int:
        """How many rows are held out for validation."""
        return len(self._splits.rows["validation"])

    def draw(self, rows: Sequence[Row], count: int | None) -> Sequence[int]:
        """Places of so many rows, drawn by what they hold, of each label its share; of all where they are no more."""
        if count is None or len(rows) <= count:
            return range(len(rows))
        labelled = self.form.chooses
        return draw(rows, [self.form.answer(row, "a row") for row in rows] if labelled else None, count)

    @property
    def folds(self) -> list[list[int]]:
        """Places of the training rows that are held out together; none where validation has rows of its own."""
        return self._splits.folds

    @property
    def test(self) -> PlacedRows:
        """Rows that judge it."""
        return self._splits.rows["test"]

    @property
    def splits(self) -> dict[str, PlacedRows]:
        """Rows by what messages call them."""
        return {"training": self.train, "validation": self.validation, "test": self.test}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What people should know of the rows before they train on them: a warning each."""
        return self._splits.remarks

    @property
    def faults(self) -> dict[str, dict[str, int]]:
        """Of the file that each split comes from, how many rows were blank, repeated or contradictory, where any were."""
        return self._splits.faults

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the training rows in their order."""
        return digest_rows(self.train)

    def majority(self) -> str:
        """The most frequent answer of the training rows, the first among equals; of numbers the median."""
        form = self.form.answered
        return form.usual([form.answer(row, "a training row") for row in self.train])

    def encode(
        self,
        base: FrozenBase,
        rows: Sequence[Row],
        num_virtual_tokens: int,
        *,
        split: str,
        prepend: str = "",
        unanswered: bool = False,
    ) -> Examples:
        """Rows as token ids that fit the context.

        Args:
            split: what messages call rows that do not know their places.
            prepend: a text prompt, which goes in front of what the user says.
            unanswered: take rows without an answer where the task may have such: as if it were the first label, or no text.

        Raises:
            BaseModelError: the task's `task_type` is not that of the base.
            ConfigError: the base asks for what its file does not say.
            DataError: a row lacks a field, has an empty input, or a label that is not listed.
            ContextError: prompt, template and answer leave no room.
        """
        architectures.check_task_type(self.config.task_type, base.task_type, self.name, base.shown)
        if base.task_type in architectures.ENCODERS and self.form.labels is None:
            raise ConfigError(
                f"task {self.name!r} has no `labels`, and {base.shown} is {architectures.KINDS[base.task_type]}, which "
                "writes no text but chooses among labels; list them, or take another base"
            )

        if base.task_type == "MASKED_LM" and not self.form.input.masked and MASK[1:-1] in self.form.input.fields:
            raise ConfigError(
                f"task {self.name!r} has {MASK} in `input`, and {base.shown} is a masked language model, whose answers "
                "stand there with `task_type: MASKED_LM`, while without it this is a column; say task_type, or give "
                "the column another name"
            )

        def where(index: int) -> str:
            return rows.where(index) if isinstance(rows, PlacedRows) else f"{split} row {index + 1}"

        def name(index: int) -> str:
            return f"task {self.name!r}, {where(index)}"

        form = self.form if unanswered else self.form.answered
        answers = [form.answer(row, Place(name, index)) for index, row in enumerate(rows)]
        inputs = self.form.encode_inputs(base, rows, num_virtual_tokens, prepend=prepend, name=name)
        first_cut = where(inputs.cut[0]) if inputs.cut else ""
        fronts = inputs.fronts if any(inputs.fronts) else []
        if self.form.is_set:
            labels = self.form.labels or ()
            sets = [tuple(map(labels.index, self.form.each(answer))) for answer in answers]
            none: list[list[int]] = [[] for _ in answers]
            return Examples(inputs.ids, none, [], answers, inputs.truncated, first_cut=first_cut, sets=sets, fronts=fronts)
        if self.form.labels is not None:
            label_ids = self.form.encode_labels(base)
            choices = [self.form.labels.index(answer) if answer else 0 for answer in answers]
            targets = [list(label_ids[choice]) for choice in choices]
            return Examples(inputs.ids, targets, choices, answers, inputs.truncated, first_cut=first_cut, fronts=fronts)
        end = [base.end_id] if base.end_id is not None else []
        targets = self.form.encode_answers(base, answers, lambda index: f"{name(index)}: the answer")
        check_answers(self.form, base, answers, targets, name)
        ended = base.end_ids  # by a control token that the target spells out
        whole, bound = [ids if ended.intersection(ids[-1:]) else ids + end for ids in targets], self.form.max_new_tokens
        long = [index for index, ids in enumerate(whole) if len(ids) > bound]
        longest, first_long = max((len(whole[index]) for index in long), default=0), where(long[0]) if long else ""
        targets = [ids[:bound] for ids in whole]
        cut = (longest, len(long), first_cut, first_long)
        read = [] if self.form.is_number or PASSAGES not in self.form.input.fields else rows
        passages = [field_text(row, PASSAGES, Place(name, index)) for index, row in enumerate(read)]
        return Examples(inputs.ids, targets, [], answers, inputs.truncated, *cut, fronts, passages=passages)
