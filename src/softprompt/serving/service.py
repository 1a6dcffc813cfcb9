"""Answering requests: names of tasks to prompts of the library, rows of any mix of tasks through one frozen base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.base import FrozenBase
from softprompt.engines.local import LocalEngine
from softprompt.errors import ConfigError, DataError
from softprompt.form import Form
from softprompt.prompt import SoftPrompt

if TYPE_CHECKING:
    from softprompt.library import Library


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


@dataclass(frozen=True)
class _Resident:
    """A prompt ready to serve."""

    version: int
    prompt: SoftPrompt
    form: Form


class Service:
    """Answers with the prompts of one library. Bases are loaded once, prompts once per version."""

    def __init__(
        self,
        library: Library,
        *,
        base: FrozenBase | None = None,
        dtype: str = "auto",
        device: str | None = None,
    ) -> None:
        """Serve a library; `base` spares loading it again where the caller holds it."""
        self.library = library
        self._dtype, self._device = dtype, device
        self._given = base
        self._bases: dict[str, FrozenBase] = {}
        self._residents: dict[str, _Resident] = {}

    def predict(self, texts: Sequence[str], tasks: str | Sequence[str]) -> list[Prediction]:
        """Answer texts, each with its own task, in shared batches.

        Args:
            texts: inputs; for a template with several columns, JSON objects.
            tasks: a task for each text (`task`, `task@3` or `task@production`), or one for all.

        Raises:
            NotFound: no such task, version or alias.
            FingerprintMismatch: a prompt was made for another base than its version names.
            DataError: a text is empty or lacks a column.
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
            base = self._base(source)
            residents = {refs[i]: self._resident(refs[i], base) for i in rows}
            told = _answer(base, [residents[refs[i]] for i in rows], [texts[i] for i in rows])
            for index, prediction in zip(rows, told, strict=True):
                answers[index] = prediction
        return [answer for answer in answers if answer is not None]

    def _base(self, source: str) -> FrozenBase:
        if self._given is not None:
            return self._given
        if source not in self._bases:
            self._bases[source] = FrozenBase.load(source, dtype=self._dtype, device=self._device)
        return self._bases[source]

    def _resident(self, ref: str, base: FrozenBase) -> _Resident:
        version = self.library.resolve(ref)
        if version.digest not in self._residents:
            prompt = SoftPrompt.from_bytes(self.library.read(version), digest=version.digest)
            self._residents[version.digest] = _Resident(version.number, prompt, Form.of_card(prompt.card))
        found = self._residents[version.digest]
        found.prompt.check_base(base)  # each time: two versions of the same bytes may name different bases
        return _Resident(version.number, found.prompt, found.form)


def _answer(base: FrozenBase, residents: Sequence[_Resident], texts: Sequence[str]) -> list[Prediction]:
    engine = LocalEngine(base)
    distinct = list({resident.prompt.digest: resident for resident in residents}.values())
    places = {resident.prompt.digest: place for place, resident in enumerate(distinct)}
    vectors = [resident.prompt.vectors_PD for resident in distinct]
    which = [places[resident.prompt.digest] for resident in residents]
    inputs: list[list[int]] = []
    cut: list[bool] = []
    for resident, text in zip(residents, texts, strict=True):
        if not text.strip():
            raise DataError(f"an input for task {resident.form.task!r} is empty; give some text")
        if not _is_unicode(text):
            raise DataError(f"an input for task {resident.form.task!r} is not valid Unicode text ({text!r}); send UTF-8")
        row = resident.form.row_of(text)
        encoded = resident.form.encode_inputs(base, [row], len(resident.prompt.vectors_PD), where="input")
        inputs += encoded.ids
        cut.append(encoded.truncated > 0)
    outputs = [""] * len(texts)
    scores: list[dict[str, float] | None] = [None] * len(texts)
    labelled = [i for i, resident in enumerate(residents) if resident.form.labels]
    if labelled:
        label_ids = {r.prompt.digest: r.form.encode_labels(base) for r in distinct if r.form.labels}
        chosen = [label_ids[residents[i].prompt.digest] for i in labelled]
        scored = engine.score(vectors, [which[i] for i in labelled], [inputs[i] for i in labelled], chosen)
        for index, row_scores in zip(labelled, scored, strict=True):
            labels = residents[index].form.labels or ()
            scores[index] = dict(zip(labels, softmax(row_scores), strict=True))
            outputs[index] = max(labels, key=lambda label, row=scores[index]: row[label])  # type: ignore[misc]
    told = [i for i, resident in enumerate(residents) if not resident.form.labels]
    if told:
        bounds = [residents[i].form.max_new_tokens for i in told]
        generated = engine.generate(vectors, [which[i] for i in told], [inputs[i] for i in told], bounds)
        for index, ids in zip(told, generated, strict=True):
            outputs[index] = base.decode(ids).strip()
    return [
        Prediction(resident.form.task, resident.version, text, output, score, truncated)
        for resident, text, output, score, truncated in zip(residents, texts, outputs, scores, cut, strict=True)
    ]


def _is_unicode(text: str) -> bool:
    """Whether the text has no half characters, which Python makes of bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
) -> list[Prediction]:
    """Answer texts with prompts of a library (by default the one in the current home). See :meth:`Service.predict`.

    To answer more than once, keep a :class:`Service`: it loads the base once.
    """
    from softprompt.library import Library

    return Service(library or Library.open(), dtype=dtype, device=device).predict(texts, tasks)
