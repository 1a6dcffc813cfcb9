"""Inputs to the labels of a task, or to its numbers, by an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.engines.protocol import Piece
from softprompt.errors import FieldError
from softprompt.serving.answers import Choice, Head, choose_label
from softprompt.serving.inputs import check_room, encode_inputs
from softprompt.serving.reader import INLINE, Reader
from softprompt.serving.results import Results
from softprompt.serving.stream import Stream
from softprompt.tasks.answers.kinds import SET

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.engines.protocol import Vectors
    from softprompt.serving.monitor import Watch
    from softprompt.serving.residents.resident import Resident


class Labelling:
    """Labels inputs on one base. For use on one event loop."""

    def __init__(self, base: FrozenBase, reader: Reader, results: Results) -> None:
        self._base, self._reader, self._results = base, reader, results

    async def rows(
        self, resident: Resident, inputs: Sequence[str], watch: Watch
    ) -> tuple[list[Choice], list[Sequence[float]], int]:
        """What a task makes of inputs, the scores of its labels behind each, none where it generates numbers, and how many
        tokens the inputs are."""
        size = INLINE if resident.looks_up else INLINE // 8 * len(inputs)
        encoded = await self._reader.off_loop(inputs, size, lambda: encode_inputs(self._base, resident, inputs))
        tokens = sum(len(one.ids) for one in encoded)
        behind = [resident.behind(self._base, one.front) for one in encoded]
        scores: list[Sequence[float]] = []
        if resident.labels is None:
            rows = await self._results.numbers(resident, [members[0] for members in behind], encoded)
        else:
            scores = await self._results.scores(resident, behind, [one.ids for one in encoded])
            said = zip(scores, encoded, strict=True)
            rows = [choose_label(resident.form, own, truncated=one.truncated) for own, one in said]
        watch.accepted(tokens)
        watch.chose(inputs, [(*one.front, *one.ids) for one in encoded], [row.said for row in rows])
        return rows, scores, tokens

    async def best(
        self, resident: Resident, members: tuple[Vectors, ...], ids: tuple[int, ...], head: Head, watch: Watch
    ) -> Stream:
        """The likeliest label behind one input as an answer of one piece. `members` are the task's prompts, with what stands
        before them in the input."""
        assert resident.labels is not None
        check_room(self._base, max(map(len, members)), len(ids), max(map(len, resident.labels)))
        (scores,) = await self._results.scores(resident, [members], [ids])
        watch.accepted(len(ids))
        said = choose_label(resident.form, scores, truncated=False).said
        watch.chose([watch.text], [ids], [said])
        stream = Stream(head, watch)
        asked = dict(zip(resident.form.asked, resident.labels, strict=True))
        tokens = len(asked.get(said.label, max(resident.labels, key=len)))
        stream.deliver(Piece(said.output, finish="stop", count=tokens))
        return stream


def check_classifies(resident: Resident | None, model: str, *, sets: bool) -> Resident:
    """What a model's name means, where that answers with labels; with `sets` with sets of them.

    Raises:
        FieldError: it does not.
    """
    if resident is None:
        raise FieldError(f"{model!r} is the base, which has no labels; name a task with labels as `model`", "model")
    if resident.labels is None and not resident.form.is_number:
        raise FieldError(
            f"task {resident.task!r} generates text and has no labels; ask /v1/completions or "
            "/v1/chat/completions, or name a task with labels",
            "model",
        )
    if sets and not resident.form.is_set:
        raise FieldError(
            f"task {resident.task!r} does not answer with sets of labels, so none of its answers says what is "
            f"flagged; name a task of problem_type {SET}, or ask /v1/classify",
            "model",
        )
    return resident
