"""Kind 9: natural questions made from WordNet, with the answer where it is known and with the kind of answer wanted."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import facts
import question_forms as forms_of
from forms import article, past, plural
from render import Task
from words import degree


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the fine kind of answer it wants, and the answer where it is known."""

    text: str
    fine: str
    answer: str = ""


COARSE = {
    "abbreviation": 0, "expansion": 0, "definition": 2, "reason": 2, "manner": 2, "description": 2,
    "person": 3, "group": 3, "biography": 3, "city": 4, "country": 4, "place": 4,
    "date": 5, "count": 5, "quantity": 5, "money": 5,
}  # fmt: skip
"""Fine kind -> column of a scheme below; all other kinds are things, column 1."""
_SCHEMES = (  # the words of six columns, and how often a scheme is drawn
    (("abbreviation", "entity", "description", "person", "location", "number"), 8),
    (("abbreviation", "entity", "description", "human", "location", "numeric"), 3),
    (("abbreviation", "thing", "definition", "person", "place", "quantity"), 5),
    (("acronym", "object", "explanation", "human", "place", "amount"), 3),
    (("abbreviation", "thing", "explanation", "someone", "somewhere", "number"), 3),
    (("short form", "entity", "meaning", "people", "place", "value"), 2),
    (("abbreviation", "object", "description", "person", "location", "quantity"), 4),
    (("letters", "what", "why", "who", "where", "how many"), 3),
    (("A", "E", "D", "H", "L", "N"), 1),
)
_FINE_NAMES = {
    "count": ("count", "number", "amount"),
    "quantity": ("quantity", "measure", "number"),
    "date": ("date", "time", "year"),
    "person": ("person", "human", "individual"),
    "group": ("group", "organization", "group"),
    "biography": ("biography", "description", "person"),
    "money": ("money", "price", "quantity"),
    "reason": ("reason", "explanation", "cause"),
    "manner": ("manner", "method", "procedure"),
    "description": ("description", "explanation", "description"),
    "definition": ("definition", "meaning", "description"),
}
_THING_KINDS = {5: "animal", 20: "plant", 13: "food", 27: "substance", 8: "body part", 11: "event", 4: "activity"}


def _thing_kind(lex: int) -> str:
    return _THING_KINDS.get(lex, "thing")


def _noun(rng: Random, files: tuple[int, ...] = facts.THING_LEX) -> str:
    return rng.choice(facts.thing(rng, files).words[:2])


def _person(rng: Random) -> str:
    return rng.choice(facts.people())[0]


def _role(rng: Random) -> str:
    return rng.choice(forms_of.ROLES if rng.random() < 0.5 else facts.heads()[facts.PERSON_LEX])


def _site(rng: Random) -> str:
    return rng.choice(forms_of.SITES if rng.random() < 0.7 else facts.heads()[facts.PLACE_LEX])


def _head(rng: Random) -> tuple[str, str]:
    """A word that asks for a kind of thing, and its fine kind."""
    if rng.random() < 0.3:
        return rng.choice(forms_of.THINGS), "thing"
    lex = rng.choice(facts.THING_LEX)
    return rng.choice(facts.heads()[lex]), _thing_kind(lex)


def _topic(rng: Random) -> str:
    """Something to ask about: a name, a common noun with an article, a plural."""
    which = rng.randrange(7)
    if which < 3:
        names = (facts.people, facts.places, facts.named_things)[which]()
        return str(rng.choice(names)[0])
    if which == 3:
        return rng.choice(facts.countries())
    word = _noun(rng)
    return (f"the {word}", article(word), plural(word))[which - 4]


def _subject(rng: Random) -> str:
    which = rng.randrange(5)
    if which == 0:
        return _person(rng)
    if which == 1:
        return f"the {rng.choice(facts.heads()[facts.PERSON_LEX])}"
    if which == 2:
        return rng.choice(forms_of.SUBJECTS)
    return f"the {_noun(rng)}" if which == 3 else rng.choice(facts.countries())


def _happened(rng: Random) -> str:
    """A clause behind a question word: `did he break the glass`, `was the glass broken`."""
    action = rng.choice(facts.actions())
    if rng.random() < 0.25:
        return f"{rng.choice(('was', 'were', 'is', 'are'))} {_topic(rng)} {past(action.lemma)}"
    rest = _topic(rng) if rng.random() < 0.3 else action.rest
    helper = rng.choice(("did", "did", "did", "does", "do", "can", "would", "should"))
    return f"{helper} {_subject(rng)} {action.lemma} {rest}"


def _did(rng: Random) -> str:
    """A verb phrase in the past: `broke the glass`."""
    action = rng.choice(facts.actions())
    return f"{past(action.lemma)} {_topic(rng) if rng.random() < 0.35 else action.rest}"


def _do(rng: Random) -> str:
    action = rng.choice(facts.actions())
    return f"{action.lemma} {action.rest}"


def _many(rng: Random) -> str:
    which = rng.randrange(4)
    return plural(_noun(rng) if which < 2 else _head(rng)[0] if which == 2 else _role(rng))


_FILLERS: dict[str, Callable[[Random], str]] = {
    "a_noun": lambda rng: article(_noun(rng)),
    "adjective": lambda rng: rng.choice(facts.adjectives()),
    "be": lambda rng: rng.choice(("is", "are", "was")),
    "beings": lambda rng: plural(_noun(rng, (5, 20, 18, 13))),
    "consume": lambda rng: rng.choice(("eat", "have", "use", "need", "drink", "wear")),
    "country": lambda rng: rng.choice(facts.countries()),
    "did": _did,
    "do": _do,
    "done": lambda rng: past(rng.choice(facts.actions()).lemma),
    "extreme": lambda rng: rng.choice(("normal", "highest", "lowest", "total", "usual")),
    "group": lambda rng: rng.choice(forms_of.GROUPS),
    "happened": _happened,
    "how": lambda rng: rng.choice(forms_of.HOW),
    "lead": lambda rng: rng.choice(forms_of.LEADS),
    "lemma": lambda rng: rng.choice(facts.actions()).lemma,
    "made": lambda rng: past(rng.choice(forms_of.MAKING)),
    "making": lambda rng: rng.choice(forms_of.MAKING),
    "many": _many,
    "measure": lambda rng: rng.choice(forms_of.MEASURES),
    "most": lambda rng: degree(rng.choice(facts.adjectives()), "est"),
    "noun": _noun,
    "nouns": lambda rng: plural(_noun(rng)),
    "person": _person,
    "place": lambda rng: rng.choice(facts.places())[0],
    "purpose": lambda rng: rng.choice(forms_of.PURPOSES),
    "role": _role,
    "roles": lambda rng: plural(_role(rng)),
    "site": _site,
    "subject": _subject,
    "topic": _topic,
    "unit": lambda rng: rng.choice(forms_of.UNITS),
    "year": lambda rng: str(rng.randint(1700, 1999)),
}


def fill(rng: Random, wordings: tuple[str, ...], **known: str) -> str:
    """One of the wordings, its braces filled: first with what is known, else at random."""
    return re.sub(
        r"\{(\w+)\}",
        lambda brace: known[brace[1]] if brace[1] in known else _FILLERS[brace[1]](rng),
        rng.choice(wordings),
    )


def _of_clause(rng: Random, kind: str, wordings: tuple[str, ...], fine: str = "") -> Question:
    clause = rng.choice(facts.clauses()[kind])
    lead = rng.choice(("What", "What", "Which", "What kind of", "What type of"))
    text = fill(rng, wordings, lead=lead, head=clause.head, last=clause.head.split()[-1], clause=clause.verb)
    return Question(text, fine or _thing_kind(clause.lex), clause.name)


def abbreviation(rng: Random) -> Question:
    """Asks for an abbreviation or for its expansion."""
    short, long = facts.short_acronyms(rng)
    if rng.random() < 0.6:
        return Question(fill(rng, forms_of.EXPANSION, short=short), "expansion", long)
    return Question(fill(rng, forms_of.ABBREVIATION, long=long), "abbreviation", short)


def entity(rng: Random) -> Question:
    """Asks for a thing."""
    which = rng.randrange(14)
    if which < 4:
        return _of_clause(rng, "thing", forms_of.THING_CLAUSE)
    if which < 6:
        lex = rng.choice(facts.THING_LEX)
        sense = facts.thing(rng, (lex,))
        head = rng.choice(facts.heads()[lex])
        text = fill(rng, forms_of.THING_GLOSS, gloss=sense.short, word=sense.words[0], head_of_kind=head)
        return Question(text, _thing_kind(lex), sense.words[0])
    if which == 6:
        name, gloss, lex = rng.choice(facts.named_things())
        if lex != facts.GROUP_LEX:
            return Question(fill(rng, forms_of.NAMED_GLOSS, gloss=gloss), _thing_kind(lex), name)
    head, fine = _head(rng)
    return Question(fill(rng, forms_of.THING, head=head, heads=plural(head), a_head=article(head)), fine)


def description(rng: Random) -> Question:
    """Asks for a definition, a reason, a way, an explanation."""
    which = rng.randrange(10)
    if which < 4:
        sense = facts.thing(rng, tuple(facts.things()))
        word = rng.choice(sense.words)
        text = fill(rng, forms_of.DEFINITION, word=word, a_word=article(word), words=plural(word))
        return Question(text, "definition", sense.short)
    if which < 6:
        return Question(fill(rng, forms_of.REASON), "reason")
    if which < 8:
        return Question(fill(rng, forms_of.MANNER), "manner")
    return Question(fill(rng, forms_of.DESCRIPTION), "description")


def person(rng: Random) -> Question:
    """Asks for somebody, for a group, or who somebody is."""
    which = rng.randrange(14)
    if which < 4:
        return _of_clause(rng, "person", forms_of.PERSON_CLAUSE, "person")
    name, gloss, _, _ = rng.choice(facts.people())
    if which < 6:
        bare = re.sub(r"^(?:an?|the) ", "", gloss)
        return Question(fill(rng, forms_of.PERSON_GLOSS, gloss=bare), "person", name)
    if which == 6:
        return Question(fill(rng, forms_of.BIOGRAPHY, name=name), "biography", gloss)
    if which == 7:
        return _of_clause(rng, "group", forms_of.GROUP_CLAUSE, "group")
    if which == 8:
        return Question(fill(rng, forms_of.GROUP), "group")
    return Question(fill(rng, forms_of.PERSON), "person")


def place(rng: Random) -> Question:
    """Asks for a place."""
    which = rng.randrange(10)
    name, gloss = rng.choice(facts.places())
    if which == 0:
        return _of_clause(rng, "place", forms_of.PLACE_CLAUSE, "place")
    if which == 1:
        parts = re.match(r"^(?:an?|the) (\w+(?: \w+)?) ((?:in|of|on|at|between|near|off) .+)$", gloss)
        if parts:
            fine = "city" if re.search("city|town|capital", parts[1]) else "place"
            fine = "country" if re.search("country|republic", parts[1]) else fine
            text = fill(rng, forms_of.PLACE_GLOSS, head=parts[1], where=parts[2], gloss=gloss)
            return Question(text, fine, name)
    if which == 2:
        return Question(fill(rng, forms_of.WHERE_NAME, name=name), "place", gloss)
    if which == 3:
        return Question(fill(rng, forms_of.CAPITAL), "city")
    if which < 7:
        site = _site(rng)
        fine = "country" if site == "nation" else site if site in ("city", "country") else "place"
        return Question(fill(rng, forms_of.PLACE, site=site, lead=rng.choice(forms_of.PLACE_LEADS)), fine)
    return Question(fill(rng, forms_of.WHERE), "place")


def number(rng: Random) -> Question:
    """Asks for a number, a date, a measure."""
    which = rng.randrange(10)
    if which == 0:
        name, _, born, died = rng.choice(facts.people())
        if died:
            if rng.random() < 0.5:
                return Question(fill(rng, forms_of.BORN, name=name), "date", born)
            return Question(fill(rng, forms_of.DIED, name=name), "date", died)
    if which < 4:
        return Question(fill(rng, forms_of.DATE), "date")
    if which < 7:
        return Question(fill(rng, forms_of.COUNT), "count")
    if which == 7:
        return Question(fill(rng, forms_of.MONEY), "money")
    return Question(fill(rng, forms_of.QUANTITY), "quantity")


_KINDS = ((abbreviation, 5), (entity, 27), (description, 22), (person, 20), (place, 14), (number, 16))


def question(rng: Random) -> Question:
    """Any question, its spelling roughened as in real collections: tokens split off, sometimes lower case."""
    asked = rng.choices([make for make, _ in _KINDS], [share for _, share in _KINDS])[0](rng)
    text = " ".join(asked.text.split())
    if rng.random() < 0.5:
        text = " ".join(re.sub(r"([?,]|\.$|'s\b)", r" \1", text).split())
    else:
        text = text.replace(" 's", "'s")
    if rng.random() < 0.12:
        text = text.lower()
    elif rng.random() < 0.05:
        text = text.rstrip(" ?.")
    return Question(text, asked.fine, asked.answer)


def kind(rng: Random) -> Task:
    """The kind of answer a question wants, coarse by one of the schemes or fine."""
    labels: tuple[str, ...] = ()
    if rng.random() < 0.3:
        column = rng.randrange(3)

        def name(fine: str) -> str:
            return _FINE_NAMES[fine][column] if fine in _FINE_NAMES else fine
    else:
        scheme = labels = rng.choices([s for s, _ in _SCHEMES], [share for _, share in _SCHEMES])[0]

        def name(fine: str) -> str:
            return scheme[COARSE.get(fine, 1)]

    def draw(rng: Random) -> tuple[str, str]:
        asked = question(rng)
        return asked.text, name(asked.fine)

    inputs = ("Question", "Question", "Question", "Q", "Text")
    return Task(draw, forms_of.TYPE_ORDERS, inputs, forms_of.TYPE_NAMES, labels, shots=0.3)


def answer(rng: Random) -> Task:
    """The answer itself, where WordNet knows it."""

    def draw(rng: Random) -> tuple[str, str]:
        while True:
            asked = question(rng)
            if asked.answer:
                return asked.text, asked.answer

    return Task(draw, (), ("Question", "Q", "Question"), ("Answer", "A"), shots=0.35)
