"""What a text must hold, and what it must not: words and regular expressions. No torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from softprompt.rows.values import short
from softprompt.text import whole_word

REPEATS = 256
"""How often a repetition without a bound is counted."""

WAYS = REPEATS**3
"""In so many ways at most may an expression be tried at a place of a text: more can take without end."""

_FLAGS = {"i": re.IGNORECASE, "s": re.DOTALL, "m": re.MULTILINE}


class Failure(NamedTuple):
    """A pattern that a text does not keep."""

    rule: str
    """`must` or `must_not`."""
    pattern: str
    """As it was given."""


class Patterns:
    """Patterns that a text must match, and others that it must not.

    `/.../` is a regular expression, found anywhere in the text, with `i`, `s` and `m` behind it as flags. All else are plain
    words: whole ones, of either case, any blanks between them.
    """

    def __init__(self, must: Sequence[str] = (), must_not: Sequence[str] = ()) -> None:
        """
        Raises:
            ValueError: a pattern is blank, is given as both, or is a regular expression that is broken or can take without
                end.
        """
        if isinstance(must, str) or isinstance(must_not, str):
            raise ValueError("one text stands in the place of a list of patterns; put it in brackets")
        if both := [one for one in must if one in must_not]:
            raise ValueError(f"{both[0]!r} is a pattern that must come and must not; take it out of one of them")
        self.must, self.must_not = tuple(must), tuple(must_not)
        self._must = [(one, _compiled(one)) for one in self.must]
        self._must_not = [(one, _compiled(one)) for one in self.must_not]

    def check(self, text: str) -> list[Failure]:
        """Which patterns a text does not keep, in their order; none where all is well."""
        texts = text, _folded(text)
        failed = [Failure("must", one) for one, (own, folds) in self._must if not own.search(texts[folds])]
        return failed + [Failure("must_not", one) for one, (own, folds) in self._must_not if own.search(texts[folds])]


def _compiled(pattern: str) -> tuple[re.Pattern[str], bool]:
    """What finds a pattern, and whether it looks at the folded text."""
    if written := re.fullmatch(r"\s*/(.*)/([a-z]*)\s*", pattern, re.DOTALL):
        return _expression(pattern, *written.groups()), False
    words = _folded(pattern).split()
    if not words:
        raise ValueError(f"the pattern {pattern!r} is blank, and every text has it; write a word, or /a regular expression/")
    inside = r"\s+".join(map(re.escape, words))
    return re.compile(whole_word(inside)), True


def _expression(pattern: str, text: str, letters: str) -> re.Pattern[str]:
    shown = short(pattern)
    if unknown := sorted(set(letters) - _FLAGS.keys()):
        raise ValueError(f"{shown}: {unknown[0]!r} is no flag of a regular expression; use {', '.join(_FLAGS)}")
    flags = re.RegexFlag(0)
    for letter in letters:
        flags |= _FLAGS[letter]
    try:
        made = re.compile(text, flags)
        ways = _ways(parser.parse(text, int(flags)))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{shown} is no regular expression ({error}); mend it, or write words without slashes") from None
    if made.search("") and made.search("\ue000 \ue000"):
        raise ValueError(f"{shown} matches every text, as it matches nothing at all; write what must be there")
    if ways > WAYS:
        raise ValueError(
            f"{shown} can take without end: it has a repetition inside another, or more than three; take some out, or bound "
            "them as in {1,3}"
        )
    return made


def _ways(parsed: Iterable[tuple[Any, Any]]) -> int:
    """In how many ways an expression can be tried at one place, at most; beyond :data:`WAYS` any greater number."""
    total = 1
    for code, given in parsed:
        total = min(total * _ways_of(code, given), WAYS + 1)
    return total


def _ways_of(code: Any, given: Any) -> int:
    if code is ops.BRANCH:
        return sum(map(_ways, given[1]))
    if code in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
        least, most, inside = given
        least, most, once = int(least), int(most), _ways(inside)
        if once == 1:
            return min(most, least + REPEATS - 1) - least + 1
        bounded = min(most, REPEATS)
        return sum(min(once**count, WAYS + 1) for count in range(min(least, bounded), bounded + 1))
    if code is ops.GROUPREF_EXISTS:
        return _ways(given[1]) + _ways(given[2] or ())
    if code in (ops.SUBPATTERN, ops.ATOMIC_GROUP, ops.ASSERT, ops.ASSERT_NOT):
        return _ways(given if code is ops.ATOMIC_GROUP else given[-1])
    return 1


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def check_unwanted(config: Any) -> None:
    """Refuse a task file's keys of unwanted answers where they are of no use.

    Raises:
        ValueError: with the key, and what it needs.
    """
    given = [name for name in config.model_fields_set if name.startswith("unwanted_") and name != "unwanted_weight"]
    if config.unwanted_patterns:
        if config.objective != "unlikelihood":
            raise ValueError(
                f"unwanted_patterns: only `objective: unlikelihood` has them, and this is {config.objective_name}; say so, "
                "or leave them out"
            )
        if config.labels is not None:
            raise ValueError(
                "unwanted_patterns: patterns are for tasks that write, and this one chooses among `labels`; name a column "
                "of unwanted labels with `unwanted`"
            )
        try:
            Patterns(must_not=config.unwanted_patterns)
        except ValueError as error:
            raise ValueError(f"unwanted_patterns: {error}") from None
    elif unused := sorted(set(given) - {"unwanted_patterns"}):
        raise ValueError(f"{unused[0]}: there are no `unwanted_patterns` to look for; give some, or leave it out")
    if config.objective == "unlikelihood" and not config.unwanted and not config.unwanted_patterns:
        raise ValueError(
            "objective: unlikelihood needs unwanted answers; name their column with `unwanted`, or what must not be written "
            "with `unwanted_patterns`"
        )
