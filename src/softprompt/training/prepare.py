"""From a task to a run: its rows encoded, its vectors at their start, what its file leaves open chosen by the base. Whatever
is chosen here is told (`remarks.py`), and kept in the card."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt.bases.architectures import ENCODERS
from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.prefix import layout_for
from softprompt.model.splice import stack_prompts
from softprompt.progress import Silent
from softprompt.prompts import initialize
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.task import Examples, Task
from softprompt.training.events import Advanced, Event
from softprompt.training.heads import objective_on, start_head
from softprompt.training.objectives import OBJECTIVES
from softprompt.training.objectives.objective import Splits, Surroundings
from softprompt.training.steps.run import Begins, Run

if TYPE_CHECKING:
    from softprompt.library.library import Library

RATE = 0.45
"""The default learning rate in units of the spread of the base's embeddings, and of a head in units of a logit: AdamW moves
each number of a prompt by about the rate in a step, and how far that is depends on the numbers there are. Gemma multiplies
its embeddings by the root of their width, so that a rate for Llama is a tenth of what it needs."""

PREFIX_RATE = 0.005
"""That of a prefix, in units of the spread of the keys and values that it starts from, for the same reason. It is PEFT's
choice for prefixes that start from a text, and was not searched for on a real base."""

DEEP_RATE = 0.05
"""That on an encoder, likewise. On MiniLM, trec6, 10 virtual tokens, 150 steps: 0.005 gives an accuracy of 0.928, and 0.015,
0.05 and 0.15 give 0.944, 0.946 and 0.946."""


class Preparer:
    """Makes runs on one base. Tasks that share their rows and form, as candidates of a sweep do, share their encoding, where
    their objective asks alike of each row."""

    def __init__(
        self,
        base: FrozenBase,
        architecture: Architecture | None = None,
        warn: Callable[[str], None] | None = None,
        heed: Callable[[], None] | None = None,
        most: int | None = None,
        prompts: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        Args:
            architecture: how the base is run, where that is known already.
            warn: hears of what people should know; by default Python's `warnings`.
            heed: called while the base is asked for what an objective needs; it may raise.
            most: rows that it is asked for at most, which stand for the others: of a run that is not trained.
            prompts: files of those that tasks start from, by the references there; by default the library's.
        """
        self._base, self._given, self._warn, self._heed = base, architecture, warn or Silent().warn, heed
        self._most, self._prompts = most, prompts
        self._encoded: dict[tuple[Any, ...], Splits] = {}
        self._kept: list[Any] = []  # what the keys above name by its id lives as long as they do

    def prepare(self, task: Task, library: Library | None) -> tuple[Run, Examples]:
        """What :meth:`preparing` returns."""
        preparing = self.preparing(task, library)
        while True:
            try:
                next(preparing)
            except StopIteration as end:
                made: tuple[Run, Examples] = end.value
                return made

    def preparing(
        self, task: Task, library: Library | None, begins: Begins | None = None, *, keeps_start: bool = False
    ) -> Generator[Event, None, tuple[Run, Examples]]:
        """A run ready to train, its rows encoded and its vectors at their start, and the rows that will judge it. Yields how
        far the base has been asked for what the objective needs. With `begins` it starts there, and not as its task says.
        Where it starts is kept if no step is better, with `keeps_start`, and always where that is of prompts.

        Raises:
            ConfigError, DataError: the task, or a row of any split, is wrong.
            ContextError: a row, the prompt and the answer have no room.
            NotFound, FingerprintMismatch: a prompt to start from is not there, or of another base.
            NameRefused: the library would refuse the task's name, or the base's.
        """
        base = self._base
        if task.config.data is not None and task.config.data.subsets:
            raise ConfigError(f"task {task.name!r}: data.subsets is of `softprompt train` alone; leave it out here")
        if library is not None:
            library.registry.check_names([task.name], base.name)
        task.form = task.form.within([task.form.answer(row, "a training row") for row in task.train])
        objective = OBJECTIVES[objective_on(task, base)]
        read = library.read if self._prompts is None and library is not None else (self._prompts or {}).get
        parents = _parents(base, task.config, read) if begins is None else []
        length = _length(task.config, parents)
        asked = tuple(task.config.of_objective.items())
        key = (id(task.train), task.form, length, task.config.max_eval_samples, objective, asked)
        if key not in self._encoded:
            self._kept.append(task.train)
            encoded = {
                split: task.encode(base, rows, length, split=split, unanswered=True) for split, rows in task.splits.items()
            }
            folder = library.runs if library is not None else None
            completing = objective.complete(encoded, Surroundings(task, self._architecture, folder, self._warn, self._most))
            try:
                while True:
                    yield Advanced("ask", *next(completing), task.name)
                    if self._heed is not None:
                        self._heed()
            except StopIteration as end:
                self._encoded[key] = end.value
        train, validation, test = (self._encoded[key][split] for split in ("training", "validation", "test"))
        labels = task.form.encode_labels(base) if task.form.labels else None
        if begins is None:
            begins = Begins(self._start(task, length, parents), tuple(parent.digest for parent in parents))
        config = chosen(task.config, base, begins.vectors_PD).model_copy(update={"num_virtual_tokens": length})
        start_PD, head_rate = begins.vectors_PD, 1.0
        if isinstance(self._architecture, HeadedEncoder) and labels is not None:
            head, gain = start_head(self._architecture, task, labels, train, parents, start_PD.shape[1])
            head_rate = head_rate_of(gain, config, base, start_PD)
            start_PD = torch.cat([start_PD, head])
        kept = keeps_start or bool(begins.parents)
        run = Run(task, config, start_PD, train, validation, labels, begins.parents, head_rate, keeps_start=kept)
        run.split(task.folds)
        return run, test

    def forget(self, task: Task) -> None:
        """Give back the memory of a task's rows; another that shares them has them encoded anew."""
        self._encoded = {key: made for key, made in self._encoded.items() if key[0] != id(task.train)}
        self._kept = [rows for rows in self._kept if rows is not task.train]

    @cached_property
    def _architecture(self) -> Architecture:
        return self._given or architecture_of(self._base)

    def _start(self, task: Task, length: int, parents: Sequence[SoftPrompt]) -> Tensor:
        """Where a task's prompt starts. A prefix starts as the keys and values of what a soft prompt would start from, or as
        another prefix is."""
        prefixes = [parent.vectors_PD for parent in parents if parent.card.prompt_type == "prefix"]
        if task.config.prompt_type == "soft":
            if prefixes:
                raise ConfigError(
                    f"prompt_tuning_init_prompt names a prefix ({_named(parents)}), of whose keys and values no soft "
                    "prompt can be made; say prompt_type: prefix, or start from a soft prompt"
                )
            return start_of(self._base, task, length, parents)
        layout = layout_for(self._base, self._architecture.layout)
        if prefixes and len(prefixes) < len(parents):
            raise ConfigError(
                f"prompt_tuning_init_prompt names prefixes and soft prompts ({_named(parents)}), which have no "
                "mean; give one kind"
            )
        if prefixes:
            return initialize.from_prefixes(prefixes, length)
        start_PD = start_of(self._base, task, length, parents).to(self._base.device, self._base.dtype)
        with torch.no_grad():
            return layout.fold(self._architecture.compute_prefix(stack_prompts([start_PD])))[0].float().cpu()


def chosen(config: TaskConfig, base: FrozenBase, start_PD: Tensor | None = None) -> TaskConfig:
    """A config with nothing left to choose; but for the rate of a prefix where its start is not known."""
    if config.hidden_size != config.encoder_hidden_size:
        config = config.model_copy(update={"encoder_hidden_size": config.hidden_size})
    if base.task_type == "SEQ_CLS" or (base.task_type == "MASKED_LM" and config.objective is None):
        config = config.model_copy(update={"objective": "label_scoring"})
    if config.learning_rate is not None:
        return config
    if config.prompt_type == "prefix" and start_PD is None:
        return config
    rate = float(f"{_usual_rate(config, base, start_PD) * config.learning_rate_multiplier:.3g}")
    return config.model_copy(update={"learning_rate": rate})


def _usual_rate(config: TaskConfig, base: FrozenBase, start_PD: Tensor | None) -> float:
    """The learning rate of vectors where none is named; of a prefix by its start."""
    if config.prompt_type == "soft" or start_PD is None:
        return RATE * base.spread
    return (DEEP_RATE if base.task_type in ENCODERS else PREFIX_RATE) * float(start_PD.std())


def head_rate_of(gain: float, config: TaskConfig, base: FrozenBase, start_PD: Tensor) -> float:
    """The rate of a head in units of the vectors', by how little a number of it must move to move a logit by one: a step
    moves a logit by as much as soft prompts move in units of embeddings."""
    return RATE * gain / _usual_rate(config, base, start_PD)


def _length(config: TaskConfig, parents: Sequence[SoftPrompt]) -> int:
    """Virtual tokens: where the file names none, a prefix has those of the prompts that it starts from."""
    lengths = {len(parent.vectors_PD) for parent in parents}
    if config.prompt_type == "prefix" and "num_virtual_tokens" not in config.model_fields_set and len(lengths) == 1:
        return lengths.pop()
    return config.num_virtual_tokens


def _named(parents: Sequence[SoftPrompt]) -> str:
    return ", ".join(f"{parent.card.task}, {parent.card.prompt_type}" for parent in parents)[:200]


def start_of(base: FrozenBase, task: Task, length: int, parents: Sequence[SoftPrompt]) -> Tensor:
    """The vectors that a task's prompt starts from, P x D; for PROMPT, from its parents."""
    config = task.config
    match config.initializer:
        case "RANDOM":
            return initialize.random_vectors(base, length, config.seed)
        case "SAMPLE_VOCAB":
            return initialize.sample_vocabulary(base, length, config.seed)
        case "TEXT":
            return initialize.from_text(base, length, config.prompt_tuning_init_text or "")
        case "LABELS":
            return initialize.from_labels(base, length, task.form.label_words(base), config.seed)
        case "INSTRUCTION":
            return initialize.from_spread(base, length, config.instruction or "")
        case "PROMPT":
            return initialize.from_prompts([parent.vectors_PD for parent in parents], length)


def _parents(base: FrozenBase, config: TaskConfig, read: Callable[[str], bytes | None]) -> list[SoftPrompt]:
    """The prompts that PROMPT starts from; none for other initialisers."""
    if config.initializer != "PROMPT":
        return []
    files = [read(ref) for ref in config.prompt_tuning_init_prompt]
    if None in files:
        raise ConfigError("prompt_tuning_init PROMPT takes prompts from a library; give one")
    prompts = [SoftPrompt.from_bytes(data) for data in files if data is not None]
    for prompt in prompts:
        prompt.check_base(base)
        prompt.check_single("no prompt can start from")
    return prompts
