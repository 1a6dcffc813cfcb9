"""Answering requests: names of tasks to prompts of the library, rows of any mix of tasks through one frozen base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, DataError, EngineError
from softprompt.evaluation.evaluate import result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.serving.resident import Resident, load_resident
from softprompt.tasks.form import Form

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

    def __init__(
        self,
        library: Library,
        *,
        base: FrozenBase | None = None,
        dtype: str = "auto",
        device: str | None = None,
        quantization: str | None = None,
    ) -> None:
        """Serve a library; `base` spares loading it again where the caller holds it."""
        self.library = library
        self._loading: dict[str, Any] = {"dtype": dtype, "device": device, "quantization": quantization}
        self._given = architecture_of(base) if base is not None else None
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
        versions = {ref: self.library.resolve(ref) for ref in dict.fromkeys(refs)}
        answers: list[Prediction | None] = [None] * len(texts)
        for source in dict.fromkeys(version.base for version in versions.values()):
            rows = [index for index, ref in enumerate(refs) if versions[ref].base == source]
            architecture = self._architecture(source)
            base = architecture.base
            residents = {ref: self._resident(version, base) for ref, version in versions.items() if version.base == source}
            told = _answer(architecture, [residents[refs[i]] for i in rows], [texts[i] for i in rows])
            for index, prediction in zip(rows, told, strict=True):
                answers[index] = prediction
        return [answer for answer in answers if answer is not None]

    def _architecture(self, source: str) -> Architecture:
        if self._given is not None:
            return self._given
        if source not in self._architectures:
            self._architectures[source] = architecture_of(FrozenBase.load(source, **self._loading))
        return self._architectures[source]

    def _resident(self, version: Version, base: FrozenBase) -> Resident:
        key = (version.digest, base.fingerprint)
        if key not in self._residents:
            self._residents[key] = load_resident(self.library, version, base)
        return replace(self._residents[key], task=version.task, version=version.number)


def _answer(architecture: Architecture, residents: Sequence[Resident], texts: Sequence[str]) -> list[Prediction]:
    base, engine = architecture.base, OfflineEngine(architecture)
    distinct = list({resident.digest: resident for resident in residents}.values())
    places = {resident.digest: place for place, resident in enumerate(distinct)}
    vectors = [resident.tensor for resident in distinct]
    which = [places[resident.digest] for resident in residents]
    inputs: list[list[int]] = []
    cut: list[bool] = []
    for resident, text in zip(residents, texts, strict=True):
        check_text(text, f"an input for task {resident.form.task!r}")
        row = resident.form.row_of(text)
        encoded = resident.form.encode_inputs(base, [row], len(resident.vectors), where="input")
        inputs += encoded.ids
        cut.append(encoded.truncated > 0)
    outputs = [""] * len(texts)
    scores: list[dict[str, float] | None] = [None] * len(texts)
    labelled = [i for i, resident in enumerate(residents) if resident.labels is not None]
    if labelled:
        chosen = [residents[i].labels or () for i in labelled]
        scored = result_of(engine.score(vectors, [which[i] for i in labelled], [inputs[i] for i in labelled], chosen))
        for index, row_scores in zip(labelled, scored, strict=True):
            outputs[index], scores[index] = choose_label(residents[index].form, row_scores)
    generating = [i for i, resident in enumerate(residents) if resident.labels is None]
    if generating:
        bounds = [residents[i].form.max_new_tokens for i in generating]
        answers = engine.generate(vectors, [which[i] for i in generating], [inputs[i] for i in generating], bounds)
        for index, ids in zip(generating, result_of(answers), strict=True):
            outputs[index] = base.decode(ids).strip()
    return [
        Prediction(resident.form.task, resident.version, text, output, score, truncated)
        for resident, text, output, score, truncated in zip(residents, texts, outputs, scores, cut, strict=True)
    ]


def check_text(text: str, what: str, *, blank: bool = False) -> None:
    """Refuse what is no text or has no content, and half characters, which Python makes of bytes that are not UTF-8.

    Args:
        what: the text's name for messages.
        blank: whether white space is content.

    Raises:
        DataError: it is refused.
    """
    if not isinstance(text, str):
        raise DataError(f"{what} is {type(text).__name__}, not text; give a string")
    if not blank and not text.strip():
        raise DataError(f"{what} is empty; give some text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{what} is not valid Unicode text (near {shown!r}); send UTF-8") from None


def choose_label(form: Form, scores: Sequence[float]) -> tuple[str, dict[str, float]]:
    """The likeliest label, the first among equals, and the probability of each, from summed log-probabilities.

    Raises:
        EngineError: they are no numbers.
    """
    assert form.labels is not None
    if any(map(math.isnan, scores)) or max(scores) == -math.inf:
        raise EngineError(
            f"the labels of task {form.task!r} got no numbers from the base; its prompt may be damaged, or the base needs a "
            "wider dtype (--dtype float32)"
        )
    probabilities = dict(zip(form.labels, softmax(scores), strict=True))
    return max(form.labels, key=lambda label: probabilities[label]), probabilities


def softmax(scores: Sequence[float]) -> list[float]:
    """Softmax over a few scores, in double precision."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def predict(
    texts: Sequence[str],
    tasks: str | Sequence[str],
    *,
    library: Library | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quantization: str | None = None,
) -> list[Prediction]:
    """Answer texts with prompts of a library (by default the one in the current home). See :meth:`Service.predict`.

    To answer more than once, keep a :class:`Service`: it loads the base once.
    """
    from softprompt.library.library import Library

    service = Service(library or Library.open(), dtype=dtype, device=device, quantization=quantization)
    return service.predict(texts, tasks)
