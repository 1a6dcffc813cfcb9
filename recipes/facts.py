"""What questions are made of: people, places, things, clauses and acronyms, gathered once from WordNet."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random

from forms import past, third
from wordnet import NOUN_KINDS, Synset, wordnet

PLACE_LEX, PERSON_LEX, GROUP_LEX = 15, 18, 14
THING_LEX = (5, 6, 8, 10, 13, 17, 19, 20, 21, 25, 26, 27, 4, 11, 9)
_VERB_START = re.compile(
    r"^(?:\w+ed|is|was|were|are|has|had|can|wrote|led|made|won|fought|built|held|became|began|gave|took|ran"
    r"|sang|saw|left|found|taught|drew|flew|grew|knew|set|spoke|sold|told|[a-z]{2,}s) "
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A noun phrase and what it does: `river` + `flows through ...`, with the name it is true of."""

    head: str
    verb: str
    name: str
    lex: int


@dataclass(frozen=True, slots=True)
class Action:
    """A sentence taken apart: subject, lemma and past tense of its verb, and the rest."""

    subject: str
    lemma: str
    rest: str


def _strip_article(text: str) -> str:
    return re.sub(r"^(?:an?|the|any of various|any of several|any|one of the|a kind of) ", "", text)


@cache
def people() -> list[tuple[str, str, str, str]]:
    """(name, who that is, year of birth, year of death) of known people; years may be empty."""
    found = []
    for s in wordnet().of("n"):
        if s.instance and s.lex == PERSON_LEX:
            years = re.search(r"\((?:born (?:in )?)?(\d{3,4})(?:-(\d{3,4}))?", s.definition)
            name = max(s.words, key=len) if len(s.words) > 1 else s.words[0]
            found.append((name, s.short, years[1] if years else "", (years[2] or "") if years else ""))
    return found


@cache
def places() -> list[tuple[str, str]]:
    """(name, what that is) of places, rivers and mountains."""
    return [(s.words[0], s.short) for s in wordnet().of("n") if s.instance and s.lex in (PLACE_LEX, 17) and len(s.short) > 5]


@cache
def countries() -> list[str]:
    """Names of countries."""
    country = wordnet().sense("country", 2).key
    return [s.words[0] for s in wordnet().of("n") if s.instance and country in wordnet().ancestors(s)]


@cache
def named_things() -> list[tuple[str, str, int]]:
    """(name, what that is, lexicographer file) of named individuals that are neither people nor places."""
    return [
        (s.words[0], s.short, s.lex) for s in wordnet().of("n") if s.instance and s.lex not in (PLACE_LEX, 17, PERSON_LEX)
    ]


@cache
def things(common: bool = False) -> dict[int, list[Synset]]:
    """Kinds of things (not individuals) by lexicographer file, all of them or the common ones."""
    found: dict[int, list[Synset]] = {}
    for s in wordnet().of("n"):
        if not s.instance and s.lex in NOUN_KINDS and len(s.short) > 5 and (s.count > 0 or not common):
            found.setdefault(s.lex, []).append(s)
    return found


def thing(rng: Random, files: tuple[int, ...] = THING_LEX) -> Synset:
    """A kind of thing, two times of three a common one."""
    return rng.choice(things(rng.random() < 0.65)[rng.choice(files)])


@cache
def heads() -> dict[int, list[str]]:
    """Words that have many kinds under them, by lexicographer file: `city`, `instrument`, `tree`; they ask `What X ...?`."""
    counts: Counter[tuple[str, int]] = Counter()
    for s in wordnet().of("n"):
        for above in wordnet().hypernyms(s):
            counts[above.key] += 1
    found: dict[int, list[str]] = {}
    for key, number in counts.items():
        s = wordnet().synsets[key]
        if s.lex in NOUN_KINDS and (number >= 5 or s.count > 20):
            for word in s.words[:2]:
                if word.islower() and len(word.split()) < 3:
                    found.setdefault(s.lex, []).extend([word] * (1 + (s.count > 0) * 2 + (s.count > 5) * 4))
    return found


@cache
def clauses() -> dict[str, list[Clause]]:
    """Relative clauses of definitions, by `person`, `place`, `group` or `thing`."""
    found: dict[str, list[Clause]] = {"person": [], "place": [], "group": [], "thing": []}
    for s in wordnet().of("n"):
        match = re.match(r"^(.{3,60}?),? (?:who|that|which) (.+)$", s.short)
        if not match or not _VERB_START.match(match[2] + " "):
            continue
        kind = {
            PERSON_LEX: "person",
            PLACE_LEX: "place",
            17: "place" if s.instance else "thing",
            GROUP_LEX: "group",
        }.get(s.lex, "thing")
        if s.lex not in NOUN_KINDS or s.lex in (23, 28):
            continue
        found[kind].append(Clause(_strip_article(match[1]), match[2], s.words[-1 if s.lex == PERSON_LEX else 0], s.lex))
    return found


@cache
def actions() -> list[Action]:
    """Example sentences of verbs, taken apart where the verb is easily found."""
    found = []
    for s in wordnet().of("v"):
        for lemma in s.words:
            if " " in lemma or "-" in lemma:
                continue
            spots = {past(lemma), third(lemma), lemma}
            for example in s.examples:
                words = example.rstrip(".!").split()
                at = next((i for i, w in enumerate(words[:6]) if w in spots), -1)
                subject = " ".join(words[:at])
                if (
                    at < 0
                    or at + 1 >= len(words)
                    or re.search(r"[?,;:]|\b(to|not|will|can|must|has|have|is|are|was|had|don't|I|you)\b", subject)
                ):
                    continue
                rest = " ".join(words[at + 1 :])
                rest = re.sub(r"\b(his|her|their|my)\b", "the", rest)
                often = 1 + 2 * (s.count > 0) + 5 * (s.count > 10)
                found += [Action(subject, lemma, rest)] * often
    return found


@cache
def acronyms() -> list[tuple[str, str]]:
    """(letters, what they stand for), where the initials agree."""
    found = []
    for s in wordnet().of("n"):
        for short in s.words:
            letters = short.replace(".", "").replace("-", "")
            if not (2 <= len(letters) <= 7 and letters.isupper()):
                continue
            for long in s.words:
                initials = "".join(
                    w[0] for w in re.split(r"[\s-]+", long) if w and w.lower() not in ("of", "the", "and", "for", "in")
                )
                if len(long) > 6 and initials.upper() == letters:
                    found.append((short, long))
        if len(s.words) > 1 and re.search(r"\b(unit of|abbreviat|acronym)", s.definition) and len(s.words[-1]) < 6:
            found.append((s.words[-1], s.words[0]))
    return found


def short_acronyms(rng: Random) -> tuple[str, str]:
    """An acronym from WordNet, or one made of the initials of a phrase there is."""
    if rng.random() < 0.5:
        return rng.choice(acronyms())
    phrase = rng.choice(_phrases())
    return "".join(w[0] for w in phrase.split()).upper(), phrase


@cache
def _phrases() -> list[str]:
    return [w for s in wordnet().of("n") for w in s.words if 2 <= len(w.split()) <= 4 and w.replace(" ", "").isalpha()]


@cache
def adjectives() -> list[str]:
    """Short common adjectives, whose superlatives end in -est."""
    return [w for s in wordnet().of("a") if s.count > 3 for w in s.words if w.isalpha() and 2 < len(w) < 6]
