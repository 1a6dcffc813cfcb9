"""Answering requests: names of tasks to prompts of the library, rows of any mix of tasks through one frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import TOKEN_BUDGET, OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.serving.answers import choose_label
from softprompt.serving.inputs import encode_inputs
from softprompt.serving.resident import Resident, load_resident

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


class Service:
    """Answers with the prompts of one library. Bases are loaded once, prompts once per version."""

    def __init__(self, library: Library, *, base: BaseLike = None, token_budget: int = TOKEN_BUDGET) -> None:
        """Serve a library on a base that is loaded already, or tell how to load those that its versions name; rows run
        together up to so many tokens."""
        self.library = library
        self._token_budget = token_budget
        self._base = base
        self._architectures: dict[str, Architecture] = {}
        self._residents: dict[tuple[str, str], Resident] = {}  # by digest and fingerprint of the base

    def predict(self, texts: Sequence[str], tasks: str | Sequence[str]) -> list[Prediction]:
        """Answer texts, each with its own task, in shared batches.

        Args:
            texts: inputs; for a template with several columns, JSON objects.
            tasks: a task for each text (`task`, `task@3` or `task@production`), or one for all.

        Raises:
            NotFound: no such task, version or alias.
            FingerprintMismatch: a prompt was made for another base than its version names.
            DataError: a text is empty or lacks a column.
            EngineError: the base gave no numbers to choose a label by.
        """
        if isinstance(texts, str):
            raise ConfigError("texts is one string; give a list of texts")
        refs = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(refs) != len(texts):
            raise ConfigError(f"{len(texts)} texts need {len(texts)} tasks, or one for all; {len(refs)} were given")
        versions = {ref: self.library.registry.resolve(ref) for ref in dict.fromkeys(refs)}
        answers: dict[int, Prediction] = {}
        for source in dict.fromkeys(version.base for version in versions.values()):
            rows = [index for index, ref in enumerate(refs) if versions[ref].base == source]
            architecture = self._architecture(source)
            base = architecture.base
            residents = {ref: self._resident(version, base) for ref, version in versions.items() if version.base == source}
            predictions = self._answer(architecture, [residents[refs[i]] for i in rows], [texts[i] for i in rows])
            answers |= zip(rows, predictions, strict=True)
        return [answers[index] for index in range(len(texts))]

    def _architecture(self, source: str) -> Architecture:
        if source not in self._architectures:
            self._architectures[source] = architecture_of(base_of(self._base, BaseOptions(source=source)))
        return self._architectures[source]

    def _resident(self, version: Version, base: FrozenBase) -> Resident:
        key = (version.digest, base.fingerprint)
        if key not in self._residents:
            self._residents[key] = load_resident(self.library, version, base)
        return replace(self._residents[key], task=version.task, version=version.number)

    def _answer(self, architecture: Architecture, residents: Sequence[Resident], texts: Sequence[str]) -> list[Prediction]:
        base, engine = architecture.base, OfflineEngine(architecture, token_budget=self._token_budget)
        distinct = {resident.digest: resident.tensor for resident in residents}
        prompts, places = list(distinct.values()), {digest: place for place, digest in enumerate(distinct)}
        which = [places[resident.digest] for resident in residents]
        inputs = [encode_inputs(base, resident, [text])[0] for resident, text in zip(residents, texts, strict=True)]
        outputs = [""] * len(texts)
        scores: list[dict[str, float] | None] = [None] * len(texts)
        labelled = [i for i, resident in enumerate(residents) if resident.labels is not None]
        if labelled:
            labels = [residents[i].labels or () for i in labelled]
            scored = engine.score(prompts, [which[i] for i in labelled], [inputs[i].ids for i in labelled], labels)
            for i, row_scores in zip(labelled, result_of(scored), strict=True):
                choice = choose_label(residents[i].form, row_scores, truncated=inputs[i].truncated)
                outputs[i], scores[i] = choice.label, choice.scores
        others = [i for i, resident in enumerate(residents) if resident.labels is None]
        if others:
            bounds = [residents[i].form.max_new_tokens for i in others]
            generated = engine.generate(prompts, [which[i] for i in others], [inputs[i].ids for i in others], bounds)
            for i, ids in zip(others, result_of(generated), strict=True):
                outputs[i] = text_behind(base.spelling, inputs[i].ids, ids).strip()
        return [
            Prediction(resident.form.task, resident.version, text, output, score, encoded.truncated)
            for resident, text, output, score, encoded in zip(residents, texts, outputs, scores, inputs, strict=True)
        ]


def predict(
    texts: Sequence[str], tasks: str | Sequence[str], *, library: Library | None = None, base: BaseLike = None
) -> list[Prediction]:
    """Answer texts with prompts of a library (by default the one in the current home). See :meth:`Service.predict`.

    To answer more than once, keep a :class:`Service`: it loads the base once.
    """
    from softprompt.library.library import Library

    return Service(library or Library.open(), base=base).predict(texts, tasks)
