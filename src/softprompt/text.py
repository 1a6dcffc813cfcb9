"""Text: who wrote it, its plurals, what its words are made of, and what is none: lone halves of surrogate pairs, which JSON
can escape and no UTF-8 can carry."""

from __future__ import annotations

import functools
import itertools
import json
import re
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


UNSPACED = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
"""Characters of Chinese and Japanese, which stand without spaces, for brackets of a regular expression: each is a word."""

_PARTS = re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+")


def words_of(text: str, marks: str = "") -> list[str]:
    """The words of a text, composed (NFC), as it writes them; each character of Chinese and Japanese is one, as in scorers
    of these languages. With `marks`, what else counts, as a regular expression."""
    found = re.findall(f"[{in_words()}]+{marks and f'|{marks}'}", unicodedata.normalize("NFC", text))
    return [part for word in found for part in parts_of(word)]


def parts_of(word: str) -> list[str]:
    """What stands between spaces, in words: each character of Chinese and Japanese, and what is between them."""
    return [word] if word.isascii() else _PARTS.findall(word)


def whole_word(pattern: str) -> str:
    """A regular expression for what a pattern matches where no letter of the same word stands before or behind it; beside
    characters of Chinese and Japanese, each a word, nothing does."""
    letter = f"(?![{UNSPACED}])[{in_words()}]"
    # What is written is looked for first: few places have its first letter, and the classes are large.
    return f"(?={pattern})(?:(?<!{letter})|(?!{letter}))(?:{pattern})(?:(?!{letter})|(?<!{letter}))"


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
