"""Rows changed in ways that should not change their answer: case, typos, punctuation, length, the order of passages, and
words in the place of others of their kind. The same row is changed in the same way each time. No torch."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from softprompt.rows.sources import Row, canonical
from softprompt.tasks.wording.template import PASSAGES
from softprompt.text import whole_word

Kind = Literal["case", "typos", "punctuation", "length", "passages"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TYPOS = 0.05
"""Of the letters of a text, so many are swapped with the next one: at least one pair."""

_WORD = re.compile(r"[^\W\d_]{4,}")
_MARKS = re.compile(r"[.,;:!?…。、！？]+(?=\s|\Z)")


def perturbed(kind: Kind, row: Row, columns: Sequence[str], seed: int = 0) -> Row | None:
    """A row whose texts in these columns are changed; None where nothing of it could be.

    Numbers and other values stay, and so does every other column: the answer is among those. A text that had something in
    it still has.
    """
    key = f"{seed}\n{kind}\n".encode() + canonical(row)
    chance = random.Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
    if kind == "passages":
        return _shuffled(row, chance)
    change, texts = _CHANGES[kind], [name for name in columns if name != PASSAGES and isinstance(row.get(name), str)]
    if kind == "length":
        texts = sorted(texts, key=lambda name: -len(row[name]))[:1]
    new = row | {name: change(row[name], chance) for name in texts if row[name].strip()}
    return None if new == row else new


def _case(text: str, chance: random.Random) -> str:
    """All letters small, all big, or each word's first one big: whichever is not how the text is."""
    ways = [way for way in (text.lower(), text.upper(), text.title()) if way != text and way.strip()]
    return chance.choice(ways) if ways else text


def _typos(text: str, chance: random.Random) -> str:
    """Neighbouring letters swapped inside words of four letters or more; first and last letters stay."""
    places = [
        place
        for found in _WORD.finditer(text)
        for place in range(found.start() + 1, found.end() - 2)
        if text[place] != text[place + 1]
    ]
    letters, count = list(text), max(1, round(TYPOS * len(text)))
    done = set[int]()
    for place in chance.sample(places, len(places)):
        if len(done) < count and not {place - 1, place, place + 1} & done:
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
            done.add(place)
    return "".join(letters)


def _punctuation(text: str, chance: random.Random) -> str:
    """Without the marks behind words; with one at the end where it has none."""
    bare = _MARKS.sub("", text)
    return bare if bare.strip() and bare != text else f"{text.rstrip()}{chance.choice('.!…')}"


def _length(text: str, chance: random.Random) -> str:
    """Said twice: longer, and with nothing new in it."""
    return f"{text.rstrip()}\n{text.lstrip()}"


def _shuffled(row: Row, chance: random.Random) -> Row | None:
    value = row.get(PASSAGES)
    parts = value.split("\n") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
    if len(set(map(str, parts))) < 2:
        return None
    order = list(parts)
    while order == parts:
        chance.shuffle(order)
    return row | {PASSAGES: "\n".join(order) if isinstance(value, str) else order}


_CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "case": _case,
    "typos": _typos,
    "punctuation": _punctuation,
    "length": _length,
}


def swapped(group: Sequence[str], row: Row, columns: Sequence[str]) -> list[Row]:
    """A row with the words of a group in the place of each other: of a group of three words two rows, by the next one and by
    the one behind that. No rows where it has no word of the group."""
    pattern = re.compile(whole_word("|".join(map(re.escape, sorted(group, key=len, reverse=True)))), re.IGNORECASE)
    places = {word.casefold(): place for place, word in enumerate(group)}
    texts = {name: row[name] for name in columns if isinstance(row.get(name), str)}
    found = []
    for step in range(1, len(group)):

        def other(match: re.Match[str], step: int = step) -> str:
            place = places.get(match[0].casefold())  # none for an i without its dot, which the pattern takes for one
            return match[0] if place is None else _as_written(match[0], group[(place + step) % len(group)])

        new = row | {name: pattern.sub(other, text) for name, text in texts.items()}
        if new != row:
            found.append(new)
    return found


def _as_written(old: str, new: str) -> str:
    """A word in the case of the one that it stands for; a name keeps its own capital."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
