"""Inflected forms of English words: irregular ones from WordNet's exception lists, regular ones by rule."""

import re
from functools import cache

from wordnet import wordnet

_DOUBLING = re.compile(r"^[^aeiou]*[aeiou][bdgmnprt]$")


@cache
def _irregular_past() -> dict[str, str]:
    forms: dict[str, str] = {}
    for form, lemma in wordnet().exceptions("verb"):
        if not form.endswith(("ing", "s")) and " " not in form:
            forms.setdefault(lemma, form)
    forms.update(
        {
            "be": "was",
            "have": "had",
            "do": "did",
            "go": "went",
            "see": "saw",
            "take": "took",
            "give": "gave",
            "write": "wrote",
            "eat": "ate",
            "begin": "began",
            "break": "broke",
            "drive": "drove",
            "know": "knew",
            "fall": "fell",
            "choose": "chose",
            "speak": "spoke",
            "sing": "sang",
            "draw": "drew",
            "fly": "flew",
            "throw": "threw",
            "grow": "grew",
            "rise": "rose",
            "ride": "rode",
            "wear": "wore",
            "show": "showed",
            "come": "came",
            "become": "became",
            "run": "ran",
            "drink": "drank",
            "swim": "swam",
            "steal": "stole",
            "win": "won",
            "make": "made",
            "say": "said",
            "get": "got",
            "find": "found",
            "tell": "told",
            "leave": "left",
            "feel": "felt",
            "bring": "brought",
            "keep": "kept",
            "hold": "held",
            "build": "built",
        }
    )
    return forms


@cache
def _irregular_plural() -> dict[str, str]:
    forms: dict[str, str] = {}
    for form, lemma in wordnet().exceptions("noun"):
        forms.setdefault(lemma, form)
    return forms


def plural(noun: str) -> str:
    """The plural of a noun or of the last word of a noun phrase."""
    known = _irregular_plural().get(noun)
    if known:
        return known
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def past(verb: str) -> str:
    """The past tense of a verb, or of the first word of a verb phrase."""
    first, space, rest = verb.partition(" ")
    form = _irregular_past().get(first)
    if form is None:
        if first.endswith("e"):
            form = first + "d"
        elif re.search(r"[^aeiou]y$", first):
            form = first[:-1] + "ied"
        elif _DOUBLING.match(first):
            form = first + first[-1] + "ed"
        else:
            form = first + "ed"
    return form + space + rest


def third(verb: str) -> str:
    """The third person singular."""
    first, space, rest = verb.partition(" ")
    special = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    return special.get(first, plural(first) if first not in _irregular_plural() else first + "s") + space + rest


def gerund(verb: str) -> str:
    """The -ing form."""
    first, space, rest = verb.partition(" ")
    if first.endswith("ie"):
        form = first[:-2] + "ying"
    elif first.endswith("e") and not first.endswith(("ee", "oe", "ye")) and len(first) > 2:
        form = first[:-1] + "ing"
    elif _DOUBLING.match(first):
        form = first + first[-1] + "ing"
    else:
        form = first + "ing"
    return form + space + rest


def article(noun: str) -> str:
    """The noun with `a` or `an` in front."""
    return ("an " if noun[:1].lower() in "aeiou" else "a ") + noun
