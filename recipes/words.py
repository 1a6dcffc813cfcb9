"""Kinds 1 to 4: categories, definitions, relations and forms of words, all from WordNet."""

import re
from functools import cache
from random import Random

from forms import article, gerund, past, plural, third
from render import Task
from wordnet import NOUN_KINDS, Synset, wordnet

_PLAIN_KINDS = {"natural object": "object", "artifact": "object", "place": "place", "body part": "body part"}
_KIND_WORDS = {  # other words for a kind; one column is drawn per task
    "person": ("person", "human", "someone"),
    "place": ("place", "location", "place"),
    "artifact": ("thing", "object", "artifact"),
    "natural object": ("thing", "object", "natural object"),
    "quantity": ("quantity", "amount", "number"),
    "time": ("time", "time", "date"),
    "group": ("group", "organization", "group"),
    "act": ("act", "action", "activity"),
}


@cache
def nouns() -> tuple[list[Synset], list[Synset]]:
    """(common, all) noun senses that have a plain kind."""
    every = [s for s in wordnet().of("n") if s.lex in NOUN_KINDS]
    return [s for s in every if s.count > 0], every


def noun(rng: Random) -> Synset:
    """A noun sense, half of the time a common one."""
    common, every = nouns()
    return rng.choice(common if rng.random() < 0.55 else every)


@cache
def _all(pos: str) -> tuple[list[Synset], list[Synset]]:
    every = [s for s in wordnet().of(pos) if len(s.short) > 8]
    return [s for s in every if s.count > 0], every


def sense(rng: Random, parts: str = "nnnvva") -> Synset:
    """A sense of any part of speech."""
    common, every = _all(rng.choice(parts))
    return rng.choice(common if rng.random() < 0.55 else every)


def category(rng: Random) -> Task:
    """The category of a noun, or of what a definition defines."""
    column = rng.randrange(3)
    by_gloss = rng.random() < 0.4
    some = rng.sample(sorted(set(NOUN_KINDS.values())), rng.randint(3, 8)) if rng.random() < 0.5 else []

    def name(kind: str) -> str:
        return _KIND_WORDS[kind][column] if kind in _KIND_WORDS else kind

    def draw(rng: Random) -> tuple[str, str]:
        for _ in range(200):
            s = noun(rng)
            kind = NOUN_KINDS[s.lex]
            if kind in ("artifact", "person", "act", "plant", "animal") and rng.random() < 0.4:
                continue
            if not some or kind in some:
                break
        return (s.short if by_gloss else rng.choice(s.words)), name(kind)

    return Task(
        draw,
        (
            "What kind of thing is this?",
            "Which category does it belong to?",
            "Classify the word.",
            "What is it?",
            "Is it a person, a place or a thing?",
            "What does this name?",
            "Give the category.",
        ),
        ("Definition", "Description", "Meaning") if by_gloss else ("Word", "Noun", "Term", "Name"),
        ("Category", "Kind", "Type", "Class"),
        tuple(dict.fromkeys(name(k) for k in some)),
        shots=0.5,
    )


def define(rng: Random) -> Task:
    """Word to definition."""

    def draw(rng: Random) -> tuple[str, str]:
        s = sense(rng)
        return rng.choice(s.words), s.short

    return Task(
        draw,
        ("Define the word.", "What does this word mean?", "Give a definition.", "Explain the word."),
        ("Word", "Term"),
        ("Definition", "Meaning", "Explanation"),
        shots=0.2,
    )


def headword(rng: Random) -> Task:
    """Definition to word."""
    parts = rng.choice(("nnnvva", "n", "v", "a"))

    def draw(rng: Random) -> tuple[str, str]:
        for _ in range(20):
            s = sense(rng, parts)
            single = [w for w in s.words if " " not in w]
            if single:
                break
        return s.short, (single or s.words)[0]

    return Task(
        draw,
        (
            "Which word means this?",
            "What is the word for this?",
            "Give the word that is defined.",
            "Name it.",
            "What do you call this?",
            "Find the word.",
        ),
        ("Definition", "Meaning", "Clue", "Description"),
        ("Word", "Headword", "Term", "Word"),
        shots=0.3,
    )


@cache
def _blanks() -> list[tuple[str, str]]:
    found = []
    for s in wordnet().synsets.values():
        for example in s.examples:
            for word in s.words:
                if re.search(rf"\b{re.escape(word)}\b", example) and len(example.split()) > 3:
                    found.append((re.sub(rf"\b{re.escape(word)}\b", "___", example, count=1), word))
                    break
    return found


def blank(rng: Random) -> Task:
    """Fill the blank of an example sentence."""
    return Task(
        lambda rng: rng.choice(_blanks()),
        ("Fill in the blank.", "Which word is missing?", "Complete the sentence."),
        ("Sentence", "Text"),
        ("Missing word", "Blank", "Word"),
        shots=0.25,
    )


@cache
def _antonyms() -> list[tuple[str, str]]:
    synsets = wordnet().synsets
    return [(s.words[i], synsets[key].words[j]) for s in synsets.values() for i, key, j in s.antonyms if i >= 0 and j >= 0]


@cache
def _synonyms() -> list[list[str]]:
    return [s.words for s in wordnet().synsets.values() if len(s.words) > 1]


def _two_synonyms(rng: Random) -> tuple[str, str]:
    word, other = rng.sample(rng.choice(_synonyms()), 2)
    return word, other


@cache
def _kinds() -> list[tuple[str, str]]:
    found = []
    for s in nouns()[1]:
        above = wordnet().hypernyms(s)
        if above:
            found.append((s.words[0], above[0].words[0]))
            if s.count:
                found += [(s.words[0], above[0].words[0])] * 2
    return found


def relation(rng: Random) -> Task:
    """Antonym, synonym or hypernym of a word."""
    which = rng.choice(("antonym", "synonym", "kind", "kind"))
    if which == "antonym":
        return Task(
            lambda rng: rng.choice(_antonyms()),
            ("What is the opposite of this word?", "Give the antonym.", "Name the opposite."),
            ("Word", "Term"),
            ("Opposite", "Antonym"),
            shots=0.5,
        )
    if which == "synonym":
        return Task(
            _two_synonyms,
            ("Give another word for this.", "What is a synonym?", "Say it with another word."),
            ("Word", "Term"),
            ("Synonym", "Another word", "Same meaning"),
            shots=0.5,
        )
    if rng.random() < 0.5:
        return Task(
            lambda rng: rng.choice(_kinds()),
            ("What is this a kind of?", "Name something more general."),
            ("Word", "Term"),
            ("Kind of", "Hypernym", "More general"),
            shots=0.5,
        )

    def draw(rng: Random) -> tuple[str, str]:
        word, above = rng.choice(_kinds())
        return rng.choice(
            (
                f"What is {article(word)} a kind of?",
                f"{article(word)} is a kind of what?",
                f"What kind of thing is {article(word)}?",
            )
        ), above

    return Task(draw, (), ("Question", "Q"), ("Answer", "A"), shots=0.3)


def pick(rng: Random) -> Task:
    """Which of two is an X, is this an X, and the odd one out."""
    by_kind = _by_kind()
    kinds = [k for k in by_kind if len(by_kind[k]) > 50]
    mode = rng.randrange(4)

    def draw(rng: Random) -> tuple[str, str]:
        a, b = rng.sample(kinds, 2)
        word, other = rng.choice(by_kind[a]), rng.choice(by_kind[b])
        if mode == 0:
            pair = [word, other]
            rng.shuffle(pair)
            return f"Which is {article(a)}, {pair[0]} or {pair[1]}?", word
        if mode == 1:
            asked = rng.choice((a, b))
            return f"Is {word} {article(asked)}?", "yes" if asked == a else "no"
        if mode == 2:
            asked = rng.choice((a, b))
            return f"{word} is {article(asked)}.", "true" if asked == a else "false"
        words = [*rng.sample(by_kind[a], 3), other]
        rng.shuffle(words)
        return ", ".join(words), other

    if mode == 2:
        return Task(
            draw,
            ("True or false?", "Is this true or false?"),
            ("Statement", "Claim"),
            ("True or false", "Truth"),
            ("true", "false"),
            shots=0.4,
        )
    if mode == 3:
        return Task(
            draw,
            ("Which one does not belong?", "Find the odd one out."),
            ("Words", "List"),
            ("Odd one out", "Does not belong"),
            shots=0.5,
        )
    return Task(draw, (), ("Question", "Q"), ("Answer", "A"), ("yes", "no") if mode == 1 else (), shots=0.4)


@cache
def _by_kind() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for s in nouns()[0]:
        kind = NOUN_KINDS[s.lex]
        found.setdefault(_PLAIN_KINDS.get(kind, kind), []).append(s.words[0])
    return found


@cache
def bases() -> dict[str, list[str]]:
    """Common words by part of speech."""
    return {
        pos: sorted({w for s in _all(pos)[0] for w in s.words if w.isalpha() and w.islower() and len(w) > 2})
        for pos in "nva"
    }


@cache
def _irregular_plurals() -> list[tuple[str, str]]:
    return [(base, formed) for formed, base in wordnet().exceptions("noun")]


def degree(word: str, ending: str) -> str:
    """Comparative (`er`) or superlative (`est`) of a short adjective."""
    if word.endswith("e"):
        return word + ending[1:]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "i" + ending
    return word + (word[-1] if re.match(r"^[^aeiou]*[aeiou][bdgmnt]$", word) else "") + ending


def form(rng: Random) -> Task:
    """Inflected forms: plural, past, -ing, third person, comparative, superlative, and back to the base form."""
    name, pos, make = rng.choice(
        (
            ("plural", "n", plural),
            ("plural", "n", plural),
            ("past tense", "v", past),
            ("past tense", "v", past),
            ("-ing form", "v", gerund),
            ("third person", "v", third),
            ("comparative", "a", lambda w: degree(w, "er") if len(w) < 7 else "more " + w),
            ("superlative", "a", lambda w: degree(w, "est") if len(w) < 7 else "most " + w),
        )
    )
    back = rng.random() < 0.25 and pos != "a"

    def draw(rng: Random) -> tuple[str, str]:
        if rng.random() < 0.15 and name in ("plural",):
            base, formed = rng.choice(_irregular_plurals())
        else:
            base = rng.choice(bases()[pos])
            formed = make(base)
        return (formed, base) if back else (base, formed)

    if back:
        return Task(
            draw,
            ("Give the base form.", "What is the dictionary form of the word?"),
            ("Word", "Form"),
            ("Base form", "Lemma"),
            shots=0.6,
        )
    return Task(
        draw,
        (f"Give the {name} of the word.", f"What is the {name}?", f"Write the {name}."),
        ("Word", "Input"),
        (name.capitalize(),),
        shots=0.6,
    )
