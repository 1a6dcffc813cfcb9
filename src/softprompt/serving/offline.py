"""Answering requests: names of tasks to prompts of the library, rows of any mix of tasks through one frozen base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.ensembles import score_members
from softprompt.evaluation.trials import result_of
from softprompt.library.binding import options_for
from softprompt.library.passages import Passages, Sources
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.rows.memory import is_table, rows_in_memory
from softprompt.serving.answers import choose_label
from softprompt.serving.inputs import encode_inputs, text_of_input
from softprompt.serving.residents.resident import Resident, load_resident
from softprompt.tasks.answers.kinds import Said
from softprompt.tasks.answers.schema import grammar_of
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


@dataclass(frozen=True)
class Prediction:
    """The answer to one text."""

    task: str
    version: int
    text: str
    output: str
    """The best label, or the generated text."""
    scores: dict[str, float] | None
    """Probability of each label; None for a task that generates."""
    truncated: bool
    """Whether the input had to be cut to fit the context."""
    labels: tuple[str, ...] | None = None
    """The labels that hold, where an answer is a set of them."""
    value: float | None = None
    """Where an answer is a number, that, within its range; None where none was said."""
    outside: bool = False
    """Whether the number that was said lay outside of its range."""


class Service:
    """Answers with the prompts of one library. Bases are loaded once, prompts once per version."""

    def __init__(
        self,
        library: Library,
        *,
        base: BaseLike = None,
        token_budget: int | None = None,
        passages: Sources | Passages = None,
    ) -> None:
        """Serve a library on a base that is loaded already, or tell how to load those that its versions name.

        Args:
            token_budget: rows run together up to so many tokens; by default as suits the device.
            passages: what finds passages for inputs: a folder of texts or a Python function, for all tasks that look them
                up or for each by its name; by default the folder that a prompt was tuned with.
        """
        self.library = library
        self._token_budget = token_budget
        self._base = base
        self._architectures: dict[BaseOptions, Architecture] = {}
        self.remarks: list[str] = []
        """What people should know of the answers so far: how many hung on a near tie, and where passages are others than
        in training."""
        self._passages = passages if isinstance(passages, Passages) else Passages(passages, self.remarks.append)
        self._residents: dict[tuple[str, str, str], Resident] = {}  # by version, its digest, and fingerprint of the base

    def __repr__(self) -> str:
        return f"Service({self.library!r}, {len(self._residents)} prompts and {len(self._architectures)} bases in memory)"

    def predict(self, texts: Iterable[str | Mapping[str, Any]], tasks: str | Sequence[str]) -> list[Prediction]:
        """Answer texts, each with its own task, in shared batches.

        Args:
            texts: inputs: texts, or rows with a task's columns (a list, or a column or a table of pandas or Arrow); for a
                template with several columns, JSON objects too. Answers come in their order.
            tasks: a task for each text (`task`, `task@3` or `task@production`), or one for all.

        Raises:
            NotFound: no such task, version or alias.
            FingerprintMismatch: a prompt was made for another base than the one that its version, or the caller, names.
            BaseModelError: the base is not where it is said to be, or cannot be loaded.
            DataError: a text is empty or lacks a column.
            EngineError: the base gave no numbers to choose a label by.
        """
        if isinstance(texts, str | Mapping):
            raise ConfigError(f"texts is one {'string' if isinstance(texts, str) else 'row'}; give a list of them")
        texts = rows_in_memory(texts) if is_table(texts) else _listed(texts)
        refs = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(refs) != len(texts):
            raise ConfigError(
                f"{plural(len(refs), 'task')} for {plural(len(texts), 'text')}; give one for each, or one for all"
            )
        versions = {ref: self.library.registry.resolve(ref) for ref in dict.fromkeys(refs)}
        answers: dict[int, Prediction] = {}
        named = {ref: self._options(version) for ref, version in versions.items()}
        for options in dict.fromkeys(named.values()):
            rows = [index for index, ref in enumerate(refs) if named[ref] == options]
            architecture = self._architecture(options)
            base = architecture.base
            residents = {ref: self._resident(version, base) for ref, version in versions.items() if named[ref] == options}
            own = [residents[refs[i]] for i in rows]
            given = [text_of_input(one.form, texts[i], f"input {i + 1}") for one, i in zip(own, rows, strict=True)]
            predictions = self._answer(architecture, own, given)
            answers |= zip(rows, predictions, strict=True)
        return [answers[index] for index in range(len(texts))]

    def load(self, task: str) -> None:
        """Load the base of a task, and its prompt, unless they are there already. Raises as :meth:`predict` does."""
        version = self.library.registry.resolve(task)
        self._resident(version, self._architecture(self._options(version)).base)

    def _options(self, version: Version) -> BaseOptions:
        """How the base of a version is loaded; a base that is loaded already is that of all."""
        return BaseOptions() if isinstance(self._base, FrozenBase) else options_for(version, BaseOptions.of(self._base))

    def _architecture(self, options: BaseOptions) -> Architecture:
        if options not in self._architectures:
            self._architectures[options] = architecture_of(base_of(self._base, options))
        return self._architectures[options]

    def _resident(self, version: Version, base: FrozenBase) -> Resident:
        key = (version.ref, version.digest, base.fingerprint)  # versions with equal bytes may have other passages
        if key not in self._residents:
            self._residents[key] = load_resident(self.library, version, base, self._passages)
        return self._residents[key]

    def _answer(self, architecture: Architecture, residents: Sequence[Resident], texts: Sequence[str]) -> list[Prediction]:
        base, engine = architecture.base, OfflineEngine(architecture, token_budget=self._token_budget)
        inputs = [encode_inputs(base, resident, [text])[0] for resident, text in zip(residents, texts, strict=True)]
        behind = [resident.behind(base, encoded.front) for resident, encoded in zip(residents, inputs, strict=True)]
        distinct = {members[0].digest: [member.on(base) for member in members] for members in behind}
        prompts, places = list(distinct.values()), {digest: place for place, digest in enumerate(distinct)}
        which = [places[members[0].digest] for members in behind]
        said = [Said("", "")] * len(texts)
        scores: list[dict[str, float] | None] = [None] * len(texts)
        labelled = [i for i, resident in enumerate(residents) if resident.labels is not None]
        if labelled:
            labels = [residents[i].labels or () for i in labelled]
            some = [inputs[i].ids for i in labelled]
            forms = [residents[i].form for i in labelled]
            scored = score_members(engine, prompts, [which[i] for i in labelled], some, labels, forms)
            for i, row_scores in zip(labelled, result_of(scored), strict=True):
                choice = choose_label(residents[i].form, row_scores, truncated=inputs[i].truncated)
                said[i], scores[i] = choice.said, choice.scores
        others = [i for i, resident in enumerate(residents) if resident.labels is None]
        if others:
            bounds = [residents[i].form.max_new_tokens for i in others]
            single, some = [members[0] for members in prompts], [inputs[i].ids for i in others]
            grammars = [grammar_of(residents[i].form, base) for i in others]
            generated = engine.generate(single, [which[i] for i in others], some, bounds, grammars=grammars)
            cut = 0
            for i, grammar, ids in zip(others, grammars, result_of(generated), strict=True):
                cut += grammar is not None and not grammar.accepts(ids)
                said[i] = residents[i].form.of_text(text_behind(base.spelling, inputs[i].ids, ids).strip())
            if cut:
                self.remarks.append(
                    f"{plural(cut, 'answer')} ran into max_new_tokens before the JSON was whole; train with more, or "
                    "bound what is long in output_schema (maxLength, maxItems)"
                )
        if engine.ties.remark is not None:
            self.remarks.append(engine.ties.remark)
        return [
            Prediction(
                resident.form.task,
                resident.version,
                text,
                one.output,
                score,
                encoded.truncated,
                one.labels,
                one.value,
                one.outside,
            )
            for resident, text, one, score, encoded in zip(residents, texts, said, scores, inputs, strict=True)
        ]


def _listed(texts: Iterable[Any]) -> list[Any]:
    """Texts by their place, which a column of pandas would not give: it is asked by its index."""
    values = getattr(texts, "to_pylist", None)  # of Arrow, whose own scalars are no strings
    if values is not None:
        return list(values())
    if not isinstance(texts, Iterable):
        raise ConfigError(f"texts is {texts!r}, of type {type(texts).__name__}; give a list of texts or of rows")
    return list(texts)


def predict(
    texts: Iterable[str | Mapping[str, Any]],
    tasks: str | Sequence[str],
    *,
    library: Library | None = None,
    base: BaseLike = None,
    passages: Sources = None,
) -> list[Prediction]:
    """Answer texts with prompts of a library (by default the one in the current home). See :class:`Service` and its
    :meth:`~Service.predict`.

    To answer more than once, keep a :class:`Service`: it loads the base once.
    """
    from softprompt.library.library import library_or_current

    with library_or_current(library) as opened:
        return Service(opened, base=base, passages=passages).predict(texts, tasks)
