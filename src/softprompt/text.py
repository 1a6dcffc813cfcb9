"""Text: who wrote it, its plurals, what its words are made of, and what is none: lone halves of surrogate pairs, which JSON
can escape and no UTF-8 can carry."""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from collections.abc import Sequence

Parts = Sequence[tuple[str, str]]
"""A text in parts: what an author wrote, in which control tokens count, and what a user wrote behind it, which is text."""


def plain(text: str) -> Parts:
    """A text that is all a user's."""
    return (("", text),)


MASK = "{mask}"
"""Where a masked language model says its answer, as templates say it."""


def with_mask(parts: Parts, token: str | None) -> Parts:
    """A text in which the author's masks are the tokenizer's."""
    return [(author.replace(MASK, token or MASK), user) for author, user in parts]


def plural(count: int, noun: str) -> str:
    """A number of things, for a message: `1 row`, `2 rows`."""
    return f"{count} {noun}{'s' * (count != 1)}"


@functools.cache
def in_words() -> str:
    """What words are made of, to stand in brackets of a regular expression: `\\w`, and the marks on letters that it leaves
    out. In Hindi, Tamil or Thai vowels are such marks, and words without them others. Marks of emoji are none of them."""
    codes = [code for code in range(0x300, 0x1F000) if not 0xFE00 <= code <= 0xFE0F]
    marks = [code for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    runs = [[code for _, code in run] for _, run in itertools.groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    return r"\w" + "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


def told_layers(layers: Sequence[tuple[int, int, int]]) -> str:
    """What layers keep of a token, each its heads of keys, the width of a key and that of a value: `30 layers of 3 x 64`."""
    told = [
        f"{plural(len(list(same)), 'layer')} of {heads} x {key if key == value else f'{key} and {value}'}"
        for (heads, key, value), same in itertools.groupby(layers)
    ]
    return ", ".join(told[:4]) + (" ..." if len(told) > 4 else "")


def lone_surrogate(value: object) -> str | None:
    """The first half of a surrogate pair that stands alone in a text, or in a text anywhere in a value of JSON.

    It can be neither stored, digested nor tokenised. None where there is none.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return None
