"""Looking inside a soft prompt: which tokens its vectors lie near, how long they are, and which of them matter.

That a vector lies near a token does not mean that it says that word: prompts that do the same task can lie near quite
different texts (Khashabi et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.cases import Rows, find_cases
from softprompt.evaluation.inside.attention import attention_paid
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.binding import options_for
from softprompt.library.library import library_or_current
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.card import goodness
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record

if TYPE_CHECKING:
    from softprompt.library.library import Library

JUDGED = 256
"""Rows at most, of those that are given, that say what is lost without a vector: a passing difference of a point or two is
within chance even of these."""


@dataclass(frozen=True)
class Inspected(Record):
    """A vector of a soft prompt."""

    task: str
    version: int
    position: int
    """From 0, in the order in which they stand before the input."""
    nearest: str
    """The token whose embedding is nearest (L2)."""
    distance: float
    """To that embedding (L2); 0 where the vector is the token's own."""
    similar: str
    """The token whose embedding points most nearly the same way."""
    cosine: float
    """To that embedding."""
    norm: float
    """Its length (L2)."""
    relative_norm: float
    """Over the median length of the base's embeddings."""
    lost: float | None = None
    """By how much the task's metric is worse on the rows that were given once this vector is left out; negative where it is
    better; None without rows."""
    lost_stderr: float | None = None
    """Its standard error, row by row; None where the metric is no mean over rows."""
    attention: float | None = None
    """What the last token of an input, behind which the answer begins, pays to it of its attention, which is 1 in all: the
    mean over those rows, layers and heads; None without rows, and on bases that are not causal or do not tell."""
    rows: int | None = None
    """How many rows that is of."""


def inspect(
    ref: str,
    *,
    data: Rows | None = None,
    library: Library | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[Inspected]:
    """What each vector of a version's soft prompt lies near.

    Args:
        ref: TASK, TASK@N or TASK@ALIAS.
        data: rows with answers, of which 256 at most, drawn by what they hold, say what is lost without each vector, in a
            pass over them for each, and how much attention it gets.
        library: by default the one in the current home.
        base: a base that is loaded already, or how to load one; by default as the version names it.
        progress: where to report to.

    Raises:
        NotFound: there is no such version.
        ConfigError: it is a prefix, which has keys and values and no place among the embeddings; or an ensemble.
        FingerprintMismatch: the base is another one.
        DataError: the rows are wrong.
    """
    shown = progress or Silent()
    with library_or_current(library) as opened:
        version = opened.registry.resolve(ref)
        prompt = SoftPrompt.from_bytes(opened.read(version), digest=version.digest)
        prompt.check_single("cannot be looked into")
        if prompt.card.prompt_type != "soft":
            raise ConfigError(
                f"{version.ref} is a {prompt.card.prompt_type}: keys and values at every layer, which lie near no token; "
                "look into a soft prompt"
            )
        cases = find_cases([version.ref], opened, data) if data is not None else []
        options = options_for(version, BaseOptions.of(base) if not isinstance(base, FrozenBase) else BaseOptions())
        loaded = base_of(base if isinstance(base, FrozenBase) else options, options, shown)
        prompt.check_base(loaded)
        count = len(prompt.vectors_PD)
        judged: Sequence[_Judged] = [_Judged()] * count
        if cases:
            (case,) = cases
            rows = case.rows.part(case.task.draw(case.rows, JUDGED))
            examples = case.task.encode(loaded, rows, prompt.columns, split="test")
            for remark in examples.remarks(version.ref):
                shown.warn(remark)
            trial = Trial(case.task.form, prompt.rows_PD, examples)
            judged = _asked(loaded, trial, count, shown, version.ref)
        found = zip(_near(loaded, prompt.vectors_PD), judged, strict=True)
        return [Inspected(version.task, version.number, place, *near, *asked) for place, (near, asked) in enumerate(found)]


class _Judged(NamedTuple):
    """What rows say of a vector."""

    lost: float | None = None
    stderr: float | None = None
    attention: float | None = None
    rows: int | None = None


def _near(base: FrozenBase, vectors_PD: Tensor) -> Iterator[tuple[str, float, str, float, float, float]]:
    """Of each vector: the nearest token and its distance, the most similar one and its cosine, its length, and that over the
    embeddings' own."""
    ids = [token for token in range(len(base.embedding.weight)) if token not in base.spelling.unusable]
    with torch.no_grad():
        tokens_VD = base.embed(torch.tensor(ids, device=base.device)).float().cpu()
    vectors_PD = vectors_PD.float()
    lengths_V, norms_P = tokens_VD.norm(dim=1), vectors_PD.norm(dim=1)
    products_PV = vectors_PD @ tokens_VD.T
    near_P = (lengths_V**2 - 2 * products_PV).argmin(1)
    cosines_PV = products_PV / (norms_P[:, None] * lengths_V).clamp_min(1e-12)
    usual = float(lengths_V.median())
    for place, near in enumerate(near_P.tolist()):
        like = int(cosines_PV[place].argmax())
        distance, norm = float((vectors_PD[place] - tokens_VD[near]).norm()), float(norms_P[place])
        yield (
            *(_text(base, ids[near]), round(distance, 4)),
            *(_text(base, ids[like]), round(float(cosines_PV[place, like]), 4)),
            *(round(norm, 4), round(norm / usual, 4)),
        )


def _text(base: FrozenBase, token: int) -> str:
    """A token as people read it: control tokens by name, pieces of characters as the tokenizer has them."""
    text = base.spelling.names.get(token) or base.decode([token])
    return text if text and "\ufffd" not in text else str(base.tokenizer.convert_ids_to_tokens(token))


def _asked(base: FrozenBase, whole: Trial, count: int, progress: Progress, whose: str) -> list[_Judged]:
    """What is lost without each of the vectors in turn, and what attention each gets; behind them the rows of a head, if
    there is one, stay."""
    paid = attention_paid(base, replace(whole, vectors_PD=whole.vectors_PD[:count]), count, progress)
    if paid is None:
        progress.note(f"{base.name} tells no attention to a prompt; causal bases with attention do")
    engine = OfflineEngine(architecture_of(base), warn=progress.warn)
    rows_PD = whole.vectors_PD.to(base.dtype)
    kept = [torch.cat([rows_PD[:place], rows_PD[place + 1 :]]) for place in range(count)]
    trials = [Trial(whole.form, one, whole.examples) for one in (rows_PD, *kept)]
    with progress.stage("inspect", len(trials) * len(whole.examples)) as advance:
        first, *others = result_of(judge(engine, trials), advance)
    for remark in first.remarks(whose):
        progress.warn(remark)
    best = goodness(first.metric, first.value)
    lost = [round(best - goodness(one.metric, one.value), 4) for one in others]
    errors = [_stderr(first, one) for one in others]
    weights = [None] * count if paid is None else [round(one, 5) for one in paid]
    return [_Judged(*each, len(whole.examples)) for each in zip(lost, errors, weights, strict=True)]


def _stderr(one: Report, other: Report) -> float | None:
    """The standard error of the difference of two reports on the same rows; None where what rows count has not the value for
    its mean."""
    differences = [a - b for a, b in zip(one.values, other.values, strict=True)]
    mean = math.fsum(differences) / len(differences)
    if (
        abs(abs(mean) - abs(one.value - other.value)) > 1e-9
        or abs(math.fsum(one.values) / len(one.values) - one.value) > 1e-9
    ):
        return None
    return round(math.sqrt(math.fsum((each - mean) ** 2 for each in differences)) / len(differences), 4)
