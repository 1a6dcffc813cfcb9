"""Kind 9: natural questions made from WordNet, with the answer where it is known and with the kind of answer wanted."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import facts
from forms import article, past, plural
from render import Task
from wordnet import NOUN_KINDS
from words import _degree

@dataclass(frozen=True, slots=True)
class Question:
    """A question, the fine kind of answer it wants, and the answer where it is known."""

    text: str
    fine: str
    answer: str = ""


_FINE_OF_LEX = {5: "animal", 20: "plant", 13: "food", 27: "substance", 8: "body part", 11: "event", 4: "activity", 14: "group",
                15: "place", 18: "person", 23: "quantity", 28: "date"}
COARSE = {"abbreviation": 0, "expansion": 0, "definition": 2, "reason": 2, "manner": 2, "description": 2, "person": 3, "group": 3,
          "biography": 3, "city": 4, "country": 4, "place": 4, "date": 5, "count": 5, "quantity": 5, "money": 5}
"""Fine kind -> column of a scheme below; all other kinds are things, column 1."""
_SCHEMES = (
    ("abbreviation", "entity", "description", "person", "location", "number"),
    ("abbreviation", "entity", "description", "human", "location", "numeric"),
    ("abbreviation", "thing", "definition", "person", "place", "quantity"),
    ("acronym", "object", "explanation", "human", "place", "amount"),
    ("abbreviation", "thing", "explanation", "someone", "somewhere", "number"),
    ("short form", "entity", "meaning", "people", "place", "value"),
    ("abbreviation", "object", "description", "person", "location", "quantity"),
    ("letters", "what", "why", "who", "where", "how many"),
    ("A", "E", "D", "H", "L", "N"),
)
_SCHEME_WEIGHTS = (8, 3, 5, 3, 3, 2, 4, 3, 1)
_FINE_NAMES = {"count": ("count", "number", "amount"), "quantity": ("quantity", "measure", "number"), "date": ("date", "time", "year"),
               "person": ("person", "human", "individual"), "group": ("group", "organization", "group"),
               "biography": ("biography", "description", "person"), "money": ("money", "price", "quantity"),
               "reason": ("reason", "explanation", "cause"), "manner": ("manner", "method", "procedure"),
               "description": ("description", "explanation", "description"), "definition": ("definition", "meaning", "description")}
_MEASURES = ("population", "length", "height", "depth", "width", "size", "weight", "speed", "temperature", "distance", "area", "age", "price",
             "cost", "value", "average", "number", "percentage", "rate", "salary", "boiling point", "melting point", "diameter", "volume",
             "life expectancy", "date", "birthday", "year", "telephone number", "zip code", "area code", "record", "score", "total",
             "atomic number", "frequency", "altitude", "elevation", "circumference", "amount", "duration", "fare", "income", "budget")
_HOW = ("long", "tall", "far", "old", "big", "large", "high", "deep", "fast", "heavy", "hot", "cold", "wide", "often", "much", "late", "close",
        "small", "strong", "thick", "warm")
_ROLES = ("author", "inventor", "founder", "king", "queen", "president", "leader", "owner", "director", "captain", "husband", "wife", "father",
          "mother", "son", "daughter", "composer", "editor", "governor", "mayor", "prime minister", "ruler", "creator", "killer", "star",
          "voice", "head", "chairman", "coach", "winner", "manager", "writer", "architect", "designer", "first ruler", "brother", "sister",
          "emperor", "secretary", "first person", "leading actor", "singer", "god", "goddess", "patron saint")
_PLACE_HEADS = ("city", "country", "state", "continent", "river", "island", "town", "mountain", "lake", "capital", "ocean", "sea", "region",
                "county", "province", "street", "desert", "nation", "planet", "university", "place", "park", "building", "valley", "hotel",
                "airport", "village", "state capital", "mountain range", "part of the world", "peninsula", "college", "bay", "hemisphere")
_GROUP_HEADS = ("company", "organization", "team", "band", "tribe", "party", "army", "group", "family", "corporation", "agency", "club", "people",
                "college team", "airline", "union", "firm", "orchestra", "newspaper publisher", "religious order", "race", "baseball team")
_MAKING = ("invent", "write", "discover", "paint", "compose", "build", "make", "win", "say", "eat", "wear", "play", "create", "sell", "find",
           "study", "design", "lose", "teach", "use", "own", "call", "sing", "drink", "name", "produce", "describe")
_PURPOSES = ("purpose", "origin", "meaning", "function", "history", "definition", "nature", "theory", "significance", "effect", "role",
             "story", "cause", "legend", "etymology", "process", "use", "importance", "idea", "background", "advantage", "principle")
_THING_HEADS = ("color", "colour", "animal", "book", "film", "movie", "song", "language", "sport", "game", "disease", "food", "drink", "plant",
                "flower", "tree", "bird", "fish", "dog", "instrument", "religion", "currency", "metal", "chemical", "element", "product", "car", "ship",
                "letter", "word", "symbol", "event", "war", "battle", "novel", "play", "poem", "opera", "television show", "award", "prize",
                "weapon", "medicine", "drug", "vitamin", "organ", "bone", "fruit", "vegetable", "dance", "card", "tool", "gas", "fabric",
                "breed of dog", "kind of animal", "type of bridge", "insect", "holiday", "law", "magazine", "newspaper", "cereal", "brand of beer")


def _thing(rng: Random, files: tuple[int, ...] = facts.THING_LEX) -> tuple[str, str]:
    """A common noun and its fine kind."""
    s = rng.choice(facts.things()[rng.choice(files)])
    return rng.choice(s.words[:2]), _FINE_OF_LEX.get(s.lex, "thing")


def _head(rng: Random, files: tuple[int, ...] = facts.THING_LEX) -> tuple[str, str]:
    if rng.random() < 0.3:
        return rng.choice(_THING_HEADS), "thing"
    lex = rng.choice(files)
    return rng.choice(facts.heads()[lex]), _FINE_OF_LEX.get(lex, "thing")


def _topic(rng: Random) -> str:
    """Something to ask about: a name, a common noun with an article, a plural."""
    which = rng.randrange(7)
    if which == 0:
        return rng.choice(facts.people())[0]
    if which == 1:
        return rng.choice(facts.places())[0]
    if which == 2:
        return rng.choice(facts.named_things())[0]
    if which == 3:
        return rng.choice(facts.countries())
    word = _thing(rng)[0]
    return {4: f"the {word}", 5: article(word), 6: plural(word)}[which]


def _subject(rng: Random) -> str:
    which = rng.randrange(5)
    if which == 0:
        return rng.choice(facts.people())[0]
    if which == 1:
        return f"the {rng.choice(facts.heads()[facts.PERSON_LEX])}"
    if which == 2:
        return rng.choice(("he", "she", "they", "people", "the government", "the company", "Americans", "the president", "we", "it"))
    if which == 3:
        return f"the {_thing(rng)[0]}"
    return rng.choice(facts.countries())


def _doing(rng: Random) -> tuple[str, str]:
    """(lemma, rest) of something done."""
    action = rng.choice(facts.actions())
    return action.lemma, action.rest


def _happened(rng: Random) -> str:
    """A clause in the past behind a question word: `did he break the glass`."""
    lemma, rest = _doing(rng)
    if rng.random() < 0.25:
        return f"{rng.choice(('was', 'were', 'is', 'are'))} {_topic(rng)} {past(lemma)}"
    if rng.random() < 0.3:
        rest = _topic(rng)
    return f"{rng.choice(('did', 'did', 'did', 'does', 'do', 'can', 'would', 'should'))} {_subject(rng)} {lemma} {rest}"


def _did(rng: Random) -> str:
    """A verb phrase in the past: `broke the glass`."""
    lemma, rest = _doing(rng)
    return f"{past(lemma)} {_topic(rng) if rng.random() < 0.35 else rest}"


def abbreviation(rng: Random) -> Question:
    """Asks for an abbreviation or for its expansion."""
    short, long = facts.short_acronyms(rng)
    text, fine = rng.choice((
        (f"What does {short} stand for?", "expansion"), (f"What does the abbreviation {short} mean?", "expansion"),
        (f"What do the letters {short} stand for?", "expansion"), (f"What is {short} short for?", "expansion"),
        (f"What is the full form of {short}?", "expansion"), (f"What does {short} mean?", "expansion"), (f"What is {short}?", "expansion"),
        (f"What does the acronym {short} represent?", "expansion"), (f"{short} stands for what?", "expansion"),
        (f"What is the abbreviation of {long}?", "abbreviation"), (f"What is the acronym for {long}?", "abbreviation"),
        (f"How do you abbreviate {long}?", "abbreviation"), (f"What is the abbreviation for the {long}?", "abbreviation"),
        (f"What is {long} abbreviated as?", "abbreviation"), (f"What are the initials of {long}?", "abbreviation")))
    return Question(text, fine, short if fine == "abbreviation" else long)


def entity(rng: Random) -> Question:
    """Asks for a thing."""
    which = rng.randrange(14)
    if which < 4:
        clause = rng.choice(facts.clauses()["thing"])
        fine = _FINE_OF_LEX.get(clause.lex, "thing")
        lead = rng.choice(("What", "What", "Which", "What kind of", "What type of"))
        head = clause.head if rng.random() < 0.6 else clause.head.split()[-1]
        text = rng.choice((f"{lead} {head} {clause.verb}?", f"{lead} {head} {clause.verb}?", f"Name {article(head)} that {clause.verb}.",
                           f"What is the name of the {head} that {clause.verb}?", f"What {clause.verb}?"))
        return Question(text, fine, clause.name)
    if which < 6:
        lex = rng.choice(facts.THING_LEX)
        s = rng.choice(facts.things()[lex])
        fine = _FINE_OF_LEX.get(lex, "thing")
        text = rng.choice((f"What do you call {s.short}?", f"What {rng.choice(facts.heads()[lex])} is {s.short}?", f"What is the term for {s.short}?",
                           f"What is {s.short} called?", f"What is the name for {s.short}?", f"What is another word for {s.words[0]}?",
                           f"What is the word for {s.short}?"))
        return Question(text, fine, s.words[0])
    if which == 6:
        name, gloss, lex = rng.choice(facts.named_things())
        if lex != facts.GROUP_LEX:
            return Question(rng.choice((f"What is {gloss} called?", f"What is the name of {gloss}?", f"Name {gloss}.")), _FINE_OF_LEX.get(lex, "thing"), name)
    head, fine = _head(rng)
    adjective = rng.choice(facts.adjectives())
    lead = rng.choice(("What", "What", "What", "Which", "What kind of", "What type of", "What sort of", "In what", "What other"))
    text = rng.choice((
        f"{lead} {head} {_happened(rng)}?", f"{lead} {head} {_did(rng)}?", f"{lead} {head} is {adjective}?", f"{lead} {head} has {plural(_thing(rng)[0])}?",
        f"What is the {_degree(adjective, 'est')} {head} in {_topic(rng)}?", f"What is the {_degree(adjective, 'est')} {head}?",
        f"What is {rng.choice(facts.people())[0]} 's favorite {head}?", f"What {head} is {_topic(rng)}?", f"What {plural(head)} {_happened(rng)}?",
        f"What did {_subject(rng)} {rng.choice(_MAKING)}?", f"What is the {head} of {_topic(rng)}?", f"What is {_topic(rng)} made of?",
        f"Name {article(head)} {_did(rng)}.", f"What are the {plural(head)} of {_topic(rng)}?", f"What {head} comes from {_topic(rng)}?",
        f"What was the first {head} {past(_doing(rng)[0])} in {_topic(rng)}?", f"What is the most popular {head} in {_topic(rng)}?",
        f"What {_did(rng)}?", f"What do {plural(_thing(rng)[0])} {rng.choice(('eat', 'have', 'use', 'need', 'drink', 'wear'))}?"))
    return Question(text, fine)


def description(rng: Random) -> Question:
    """Asks for a definition, a reason, a way, an explanation."""
    s = rng.choice(facts.things()[rng.choice(tuple(NOUN_KINDS))] if rng.random() < 0.9 else facts.things()[6])
    word = rng.choice(s.words)
    lemma, rest = _doing(rng)
    which = rng.randrange(10)
    if which < 4:
        text = rng.choice((f"What is {article(word)}?", f"What is {word}?", f"What is {article(word)}?", f"What is {word}?", f"What are {plural(word)}?",
                           f"What does {word} mean?", f"What does the word {word} mean?", f"What is the meaning of {word}?", f"Define {word}.",
                           f"What is the definition of {word}?", f"What is the {word}?", f"What's {article(word)}?"))
        return Question(text, "definition", s.short)
    if which < 6:
        text = rng.choice((f"Why {_happened(rng)}?", f"Why {_happened(rng)}?", f"Why {_happened(rng)}?", f"Why {rng.choice(('is', 'are', 'was'))} {_topic(rng)} {rng.choice(facts.adjectives())}?",
                           f"What caused {_topic(rng)}?", f"What causes {word}?", f"What makes {_topic(rng)} {rng.choice(facts.adjectives())}?",
                           f"What is the reason for {_topic(rng)}?", f"Why do {plural(word)} {lemma} {rest}?", f"For what reason {_happened(rng)}?",
                           f"Why is {_topic(rng)} called {_topic(rng)}?"))
        return Question(text, "reason")
    if which < 8:
        text = rng.choice((f"How do you {lemma} {rest}?", f"How do you {lemma} {_topic(rng)}?", f"How can I {lemma} {rest}?", f"How {_happened(rng)}?",
                           f"How {_happened(rng)}?", f"How {_happened(rng)}?", f"How does {article(word)} work?", f"How is {word} made?",
                           f"How are {plural(word)} {past(lemma)}?", f"How to {lemma} {rest}?", f"What is the best way to {lemma} {rest}?",
                           f"How do {plural(word)} {lemma}?", f"How did {rng.choice(facts.people())[0]} die?", f"How was {_topic(rng)} {past(lemma)}?"))
        return Question(text, "manner")
    text = rng.choice((f"What is the {rng.choice(_PURPOSES)} of {_topic(rng)}?", f"What is the {rng.choice(_PURPOSES)} of the word {word}?",
                       f"What is the difference between {word} and {_thing(rng)[0]}?", f"What is the difference between {_topic(rng)} and {_topic(rng)}?",
                       f"What happened to {_topic(rng)}?", f"What do {plural(word)} do?", f"What does {article(word)} do?",
                       f"What is {rng.choice(facts.people())[0]} famous for?", f"What is {_topic(rng)} known for?", f"Where does the word {word} come from?",
                       f"What is {_topic(rng)} like?", f"What does {_topic(rng)} look like?", f"What is it like to {lemma} {rest}?",
                       f"What effect does {word} have on {_topic(rng)}?", f"Tell me about {_topic(rng)}.", f"What happens when {_subject(rng)} {past(lemma)} {rest}?",
                       f"What is the origin of the name {word}?", f"Describe {_topic(rng)}.", f"What are the {plural(rng.choice(_PURPOSES))} of {_topic(rng)}?",
                       f"What is {word} used for?", f"What are the symptoms of {word}?"))
    return Question(text, "description")


def person(rng: Random) -> Question:
    """Asks for somebody, for a group, or who somebody is."""
    which = rng.randrange(14)
    if which < 4:
        clause = rng.choice(facts.clauses()["person"])
        role = clause.head.split()[-1] if rng.random() < 0.4 else clause.head
        text = rng.choice((f"Who {clause.verb}?", f"Who {clause.verb}?", f"What {role} {clause.verb}?", f"Which {role} {clause.verb}?",
                           f"What is the name of the {role} who {clause.verb}?", f"Name the {role} who {clause.verb}.", f"Who was the {role} who {clause.verb}?"))
        return Question(text, "person", clause.name)
    name, gloss, _, _ = rng.choice(facts.people())
    if which < 6:
        gloss = re.sub(r"^(?:an?|the) ", "", gloss)
        text = rng.choice((f"Who was the {gloss}?", f"Who is the {gloss}?", f"What was the name of the {gloss}?", f"Name the {gloss}.", f"Which person was the {gloss}?"))
        return Question(text, "person", name)
    if which == 6:
        return Question(rng.choice((f"Who is {name}?", f"Who was {name}?", f"Who is {name}?", f"Who was {name} in history?")), "biography", gloss)
    if which < 9:
        if rng.random() < 0.4:
            clause = rng.choice(facts.clauses()["group"])
            return Question(rng.choice((f"What {clause.head} {clause.verb}?", f"Which {clause.head} {clause.verb}?")), "group", clause.name)
        head = rng.choice(_GROUP_HEADS)
        return Question(rng.choice((f"What {head} {_did(rng)}?", f"What {head} {_happened(rng)}?", f"Which {head} {_did(rng)}?",
                                    f"What is the name of the {head} that {_did(rng)}?", f"What {head} is {_topic(rng)} part of?",
                                    f"What is the {_degree(rng.choice(facts.adjectives()), 'est')} {head} in {_topic(rng)}?")), "group")
    role = rng.choice(_ROLES) if rng.random() < 0.5 else rng.choice(facts.heads()[facts.PERSON_LEX])
    topic = _topic(rng)
    text = rng.choice((f"Who {_did(rng)}?", f"Who {_did(rng)}?", f"Who {past(rng.choice(_MAKING))} {topic}?", f"Who {past(rng.choice(_MAKING))} {topic}?",
                       f"Who is the {role} of {topic}?", f"Who was the {role} of {topic}?", f"Who was {topic} 's {role}?", f"What {role} {_did(rng)}?",
                       f"What {role} {_happened(rng)}?", f"Which {role} {_did(rng)}?", f"What is the name of the {role} of {topic}?",
                       f"Name the {role} who {_did(rng)}.", f"What was {name} 's real name?", f"Whose {_thing(rng)[0]} {_did(rng)}?",
                       f"Who was the first {role} to {' '.join(_doing(rng))}?", f"By whom was {topic} {past(rng.choice(_MAKING))}?", f"What is {topic} 's {role} called?",
                       f"Who played {name} in {topic}?", f"What famous {role} {_did(rng)}?", f"Who {_happened(rng)}?", f"Who are the {plural(role)} of {topic}?",
                       f"What {rng.choice(facts.countries())} {role} {_did(rng)}?"))
    return Question(text, "person")


def place(rng: Random) -> Question:
    """Asks for a place."""
    which = rng.randrange(10)
    name, gloss = rng.choice(facts.places())
    if which == 0:
        clause = rng.choice(facts.clauses()["place"])
        return Question(rng.choice((f"What {clause.head} {clause.verb}?", f"Which {clause.head} {clause.verb}?", f"Name the {clause.head} that {clause.verb}.")),
                        "place", clause.name)
    if which == 1:
        match = re.match(r"^(?:an?|the) (\w+(?: \w+)?) (in|of|on|at|between|near|off) (.+)$", gloss)
        if match:
            fine = "city" if "city" in match[1] or "town" in match[1] or "capital" in match[1] else "country" if "country" in match[1] or "republic" in match[1] else "place"
            return Question(rng.choice((f"What {match[1]} is {match[2]} {match[3]}?", f"What is the {match[1]} {match[2]} {match[3]}?",
                                        f"Which {match[1]} lies {match[2]} {match[3]}?", f"What is the name of {gloss}?", f"Name {gloss}.")), fine, name)
    if which == 2:
        return Question(rng.choice((f"Where is {name}?", f"Where is {name} located?", f"Where is {name} found?", f"In what country is {name}?")), "place", gloss)
    if which == 3:
        country = rng.choice(facts.countries())
        return Question(rng.choice((f"What is the capital of {country}?", f"What is the capital city of {country}?", f"What city is the capital of {country}?",
                                    f"What is the {_degree(rng.choice(facts.adjectives()), 'est')} city in {country}?", f"What is {country} 's capital?")), "city")
    head = rng.choice(_PLACE_HEADS) if rng.random() < 0.7 else rng.choice(facts.heads()[facts.PLACE_LEX])
    fine = head if head in ("city", "country") else "country" if head == "nation" else "place"
    lead = rng.choice(("What", "What", "What", "Which", "In what", "In which", "What"))
    if rng.random() < 0.5:
        text = rng.choice((f"{lead} {head} {_happened(rng)}?", f"{lead} {head} {_did(rng)}?", f"{lead} {head} has the most {plural(_thing(rng)[0])}?",
                           f"What is the {_degree(rng.choice(facts.adjectives()), 'est')} {head} in {_topic(rng)}?", f"What {head} is {_topic(rng)} in?",
                           f"What is the {_degree(rng.choice(facts.adjectives()), 'est')} {head}?", f"What {plural(head)} border {rng.choice(facts.countries())}?",
                           f"What {head} is home to {_topic(rng)}?", f"What {head} was {rng.choice(facts.people())[0]} born in?", f"Name a {head} in {_topic(rng)}."))
        return Question(text, fine)
    text = rng.choice((f"Where {_happened(rng)}?", f"Where {_happened(rng)}?", f"Where was {rng.choice(facts.people())[0]} born?", f"Where are {plural(_thing(rng)[0])} found?",
                       f"Where is {_topic(rng)}?", f"Where can I find {_topic(rng)}?", f"Where do {plural(_thing(rng, (5, 20, 18, 13))[0])} live?", f"Where did {_topic(rng)} originate?",
                       f"Where on the body is {_topic(rng)}?", f"Where was {_topic(rng)} {past(_doing(rng)[0])}?", f"Where does {_topic(rng)} come from?",
                       f"Where can you {' '.join(_doing(rng))}?", f"Where was the first {_thing(rng)[0]} {past(rng.choice(_MAKING))}?"))
    return Question(text, "place")


def number(rng: Random) -> Question:
    """Asks for a number, a date, a measure."""
    which = rng.randrange(10)
    noun, topic = _thing(rng)[0], _topic(rng)
    if which == 0:
        name, _, born, died = rng.choice(facts.people())
        if died:
            return rng.choice((Question(f"When was {name} born?", "date", born), Question(f"When did {name} die?", "date", died),
                               Question(f"In what year was {name} born?", "date", born), Question(f"What year did {name} die?", "date", died)))
    if which < 4:
        unit = rng.choice(("year", "year", "year", "date", "month", "day", "century", "time", "decade", "season", "day of the week"))
        return Question(rng.choice((f"When {_happened(rng)}?", f"When {_happened(rng)}?", f"When was {topic} {past(_doing(rng)[0])}?", f"When is {topic}?",
                                    f"What {unit} {_happened(rng)}?", f"In what {unit} {_happened(rng)}?", f"When did {topic} begin?", f"On what {unit} was {topic} {past(_doing(rng)[0])}?",
                                    f"When was the first {noun} {past(rng.choice(_MAKING))}?", f"When did {topic} become {_topic(rng)}?")), "date")
    if which < 7:
        role = rng.choice(facts.heads()[facts.PERSON_LEX])
        things = plural(rng.choice((noun, noun, role, _head(rng)[0])))
        return Question(rng.choice((f"How many {things} {_happened(rng)}?", f"How many {things} are there in {topic}?", f"How many {things} are in {article(noun)}?",
                                    f"How many {things} does {topic} have?", f"How many {things} {_did(rng)}?", f"What is the number of {things} in {topic}?",
                                    f"How many {things} make {article(noun)}?", f"How many people {_did(rng)}?", f"How many {things} are there?",
                                    f"How many {things} were {past(_doing(rng)[0])} in {topic}?")), "count")
    if which == 7:
        return Question(rng.choice((f"How much does {topic} cost?", f"What is the price of {article(noun)}?", f"How much is {topic} worth?", f"How much money {_happened(rng)}?",
                                    f"How much did {_subject(rng)} pay for {topic}?", f"What does it cost to {' '.join(_doing(rng))}?", f"How much was {article(noun)} in 19{rng.randint(10, 99)}?")), "money")
    how, measure = rng.choice(_HOW), rng.choice(_MEASURES)
    return Question(rng.choice((f"How {how} is {topic}?", f"How {how} {_happened(rng)}?", f"How {how} is {article(noun)}?", f"What is the {measure} of {topic}?",
                                f"What is the {measure} of {article(noun)}?", f"What is the average {measure} of {article(noun)}?", f"What was the {measure} of {topic}?",
                                f"How long does it take to {' '.join(_doing(rng))}?", f"What percentage of {plural(noun)} {_did(rng)}?", f"At what {measure} {_happened(rng)}?",
                                f"How {how} can {article(noun)} {_doing(rng)[0]}?", f"What is {topic} 's {measure}?", f"How {how} was {rng.choice(facts.people())[0]}?",
                                f"What is the {rng.choice(('normal', 'highest', 'lowest', 'total', 'usual'))} {measure} of {topic}?", f"How {how} do {plural(noun)} {_doing(rng)[0]}?",
                                f"What are the chances of {topic}?", f"How far is it from {rng.choice(facts.places())[0]} to {rng.choice(facts.places())[0]}?")), "quantity")


_KINDS: tuple[tuple[Callable[[Random], Question], int], ...] = (
    (abbreviation, 5), (entity, 27), (description, 22), (person, 20), (place, 14), (number, 16))


def question(rng: Random, low: bool | None = None) -> Question:
    """Any question, with its spelling roughened as in real collections: tokens split off, sometimes lower case."""
    make = rng.choices([k for k, _ in _KINDS], [w for _, w in _KINDS])[0]
    asked = make(rng)
    text = " ".join(asked.text.split())
    if rng.random() < 0.5:
        text = re.sub(r"\s*([?,.])", r" \1", text).replace("'s", " 's").replace("  ", " ")
    else:
        text = text.replace(" 's", "'s")
    if rng.random() < 0.12:
        text = text.lower()
    elif rng.random() < 0.05:
        text = text.rstrip(" ?.")
    return Question(text[0].upper() + text[1:] if rng.random() < 0.85 else text, asked.fine, asked.answer)


_TYPE_NAMES = ("Type", "Type", "Type", "Kind", "Category", "Answer type", "Expected answer", "Class", "Wants", "Asks for", "Label", "Kind of answer")
_TYPE_ORDERS = ("What kind of answer does this question want?", "What does the question ask for?", "Classify the question by its answer.",
                "Which type of answer is expected?", "Name the type of the answer.", "What is being asked for?", "Classify the following question:",
                "Does it ask for a person, a place, a number or something else?", "Classify the following text:")


def kind(rng: Random) -> Task:
    """The kind of answer a question wants."""
    if rng.random() < 0.3:
        column = rng.randrange(3)

        def name(fine: str) -> str:
            return _FINE_NAMES[fine][column] if fine in _FINE_NAMES else fine
        labels: tuple[str, ...] = ()
    else:
        scheme = rng.choices(_SCHEMES, _SCHEME_WEIGHTS)[0]
        labels = scheme

        def name(fine: str) -> str:
            return scheme[COARSE.get(fine, 1)]

    def draw(rng: Random) -> tuple[str, str]:
        asked = question(rng)
        return asked.text, name(asked.fine)

    return Task(draw, _TYPE_ORDERS, ("Question", "Question", "Question", "Q", "Text"), _TYPE_NAMES, labels, shots=0.3)


def answer(rng: Random) -> Task:
    """The answer itself, where WordNet knows it."""
    def draw(rng: Random) -> tuple[str, str]:
        while True:
            asked = question(rng)
            if asked.answer:
                return asked.text, asked.answer

    return Task(draw, (), ("Question", "Q", "Question"), ("Answer", "A"), shots=0.35)
