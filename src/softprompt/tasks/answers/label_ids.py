"""Token ids of labels: told apart from each other, whatever they are of. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from softprompt.errors import DataError

Ids = tuple[int, ...]


def distinct(labels: Sequence[str], ids: Sequence[Sequence[int]], where: str, base: str) -> dict[Ids, str]:
    """Labels by their token ids, in order.

    Args:
        where: what they are of, for messages: a task, a question.
        base: the base's name.

    Raises:
        DataError: two have the same tokens, or one has none.
    """
    seen: dict[Ids, str] = {}
    for label, tokens in zip(labels, ids, strict=True):
        if not tokens:
            raise DataError(f"{where}: the label {label!r} has no tokens in the vocabulary of {base}; rename it")
        other = seen.setdefault(tuple(tokens), label)
        if other is not label:
            raise DataError(
                f"{where}: the labels {other!r} and {label!r} have the same tokens on {base}; rename one of them"
            )
    return seen


def with_ends(labels: Mapping[Ids, str], end_id: int | None, where: str, base: str, mend: str = "") -> tuple[Ids, ...]:
    """The same, each with the base's end token where one label's tokens begin another's: the longer one's score would be the
    shorter one's and more, so that it could never win.

    Args:
        mend: what else than renaming one helps, for the message.

    Raises:
        DataError: one begins another, and the base has no end token.
    """
    begun = next((pair for pair in itertools.pairwise(sorted(labels)) if pair[1][: len(pair[0])] == pair[0]), None)
    if begun is None:
        return tuple(labels)
    if end_id is None:
        short, long = (labels[tokens] for tokens in begun)
        raise DataError(
            f"{where}: the tokens of the label {short!r} begin those of {long!r}, which could never win, and {base} has no "
            f"end token to tell them apart; rename one{mend}"
        )
    return tuple((*tokens, end_id) for tokens in labels)
