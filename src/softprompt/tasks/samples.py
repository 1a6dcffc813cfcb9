"""Small data sets made by program, for the demonstration and the benchmarks where no real data is at hand. No torch.

Three tasks: the word that a definition means (`headwords`), the kind of answer that a question wants (`questions`), and
whether a remark is positive or negative (`remarks`). One row per fact, so that no fact is in two splits.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

Rows = list[dict[str, str]]

_NOUNS = """apple book bottle bridge camera candle carpet castle chair church circle city cloud coat corner cousin cup desk
dish doctor dog door dream dress eagle engine farm field finger flower forest friend garden glass guitar hammer
hotel house island jacket key king kitchen lake lamp lesson letter market meal mirror mountain nail needle nurse
ocean orange paper pencil picture pilot planet plate pocket pond queen river road roof rope school ship shirt
sister song spoon star station stone street student table teacher ticket tower train tree valley village wall
wheel window wing winter""".split()
_PLURALS = {
    "box": "boxes", "fox": "foxes", "bus": "buses", "glass": "glasses", "match": "matches", "bench": "benches",
    "brush": "brushes", "watch": "watches", "baby": "babies", "berry": "berries", "lady": "ladies", "story": "stories",
    "country": "countries", "family": "families", "leaf": "leaves", "wolf": "wolves", "knife": "knives", "life": "lives",
    "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "goose": "geese",
    "mouse": "mice", "ox": "oxen", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "sheep": "sheep",
}  # fmt: skip
_PAST = {
    "go": "went", "see": "saw", "eat": "ate", "run": "ran", "take": "took", "give": "gave", "write": "wrote",
    "speak": "spoke", "sing": "sang", "drink": "drank", "swim": "swam", "begin": "began", "come": "came", "find": "found",
    "buy": "bought", "bring": "brought", "think": "thought", "teach": "taught", "catch": "caught", "sell": "sold",
    "tell": "told", "sleep": "slept", "keep": "kept", "feel": "felt", "leave": "left", "send": "sent", "build": "built",
    "lose": "lost", "win": "won", "sit": "sat", "stand": "stood", "fly": "flew", "grow": "grew", "know": "knew",
    "throw": "threw", "break": "broke", "wear": "wore", "fall": "fell", "drive": "drove", "ride": "rode",
}  # fmt: skip
_VERBS = """walk talk jump play help open close wash clean cook paint climb laugh listen watch call ask answer follow finish
start turn push pull visit travel work plant water count""".split()
_AGENTS = """teach sing paint farm drum climb read write bake dance drive hunt clean build play work lead help travel speak
print report design train ride""".split()
_OPPOSITES = """hot cold|big small|tall short|fast slow|young old|rich poor|happy sad|light dark|open closed|full empty|hard
soft|wet dry|early late|loud quiet|strong weak|thick thin|wide narrow|deep shallow|good bad|right wrong|true
false|clean dirty|heavy light|high low|near far|easy difficult|cheap expensive|sharp blunt|rough smooth|brave
cowardly|kind cruel|safe dangerous|sweet bitter|first last|up down|left right|day night|buy sell|push pull|win
lose|love hate|laugh cry|give take|begin end|friend enemy|summer winter|north south|east west|before
after|always never|inside outside|front back|question answer|birth death|war peace|success failure|victory
defeat|arrive depart|remember forget"""
_GRADED = """tall short cold warm fast slow old young rich poor strong weak loud quiet dark light hard soft deep high low
long kind sweet cheap small great clean bright sharp smooth thick rough proud""".split()
_YOUNG = """dog puppy|cat kitten|cow calf|horse foal|sheep lamb|hen chick|duck duckling|goose gosling|pig piglet|goat
kid|bear cub|deer fawn|frog tadpole|kangaroo joey|swan cygnet|owl owlet|eagle eaglet|fish fry|seal pup|human
baby"""
_CAPITALS = """France Paris|Italy Rome|Spain Madrid|Germany Berlin|Austria Vienna|Greece Athens|Portugal Lisbon|Ireland
Dublin|Norway Oslo|Sweden Stockholm|Finland Helsinki|Poland Warsaw|Hungary Budapest|Russia Moscow|Turkey
Ankara|Egypt Cairo|Kenya Nairobi|China Beijing|Japan Tokyo|Cuba Havana|Peru Lima|Chile Santiago|Canada
Ottawa|Belgium Brussels|Denmark Copenhagen|Iran Tehran|Iraq Baghdad|Thailand Bangkok|Vietnam Hanoi|Scotland
Edinburgh"""
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = "January February March April May June July August September October November December".split()


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = [tuple(" ".join(pair.split()).split(" ")) for pair in text.split("|")]
    return [(first, second) for first, second in pairs]


def _number(value: int) -> str:
    if value < 20:
        return _ONES[value]
    return _TENS[value // 10 - 2] + (f"-{_ONES[value % 10]}" if value % 10 else "")


def _suffixed(word: str, suffix: str) -> str:
    """An English suffix that begins with e: silent e dropped, y turned to i, a short last consonant doubled."""
    if word.endswith("e"):
        return word + suffix[1:]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "i" + suffix
    short = len(word) <= 4 and word[-1] not in "aeiouwxy" and word[-2] in "aeiou" and word[-3] not in "aeiou"
    return word + (word[-1] if short else "") + suffix


def headwords(seed: int = 0) -> Rows:
    """About 700 definitions and the word that each means: plurals, past forms, opposites, numbers, capitals and more."""
    pairs: list[tuple[str, str]] = []
    pairs += [(f"more than one {noun}", noun + "s") for noun in _NOUNS]
    pairs += [(f"more than one {noun}", plural) for noun, plural in _PLURALS.items()]
    pairs += [(f"the past of {verb}", past) for verb, past in _PAST.items()]
    pairs += [(f"the past of {verb}", _suffixed(verb, "ed")) for verb in _VERBS]
    pairs += [(f"a person who can {verb}", _suffixed(verb, "er")) for verb in _AGENTS]
    pairs += [(f"the opposite of {a}", b) for x, y in _pairs(_OPPOSITES) for a, b in ((x, y), (y, x))]
    pairs += [(f"more {word} than another", _suffixed(word, "er")) for word in _GRADED]
    pairs += [(f"the most {word} of all", _suffixed(word, "est")) for word in _GRADED]
    pairs += [(f"a young {animal}", young) for animal, young in _pairs(_YOUNG)]
    pairs += [(f"the capital of {country}", city) for country, city in _pairs(_CAPITALS)]
    pairs += [(f"the number after {_number(n)}", _number(n + 1)) for n in range(99)]
    pairs += [(f"the number before {_number(n + 1)}", _number(n)) for n in range(99)]
    for names in (_DAYS, _MONTHS):
        for here, then in itertools.pairwise([*names, names[0]]):
            pairs += [(f"what comes after {here}", then), (f"what comes before {then}", here)]
    rows = [{"definition": definition, "headword": word} for definition, word in dict(pairs).items()]
    random.Random(seed).shuffle(rows)
    return rows


def questions(seed: int = 0) -> Rows:
    """Questions made from a small grammar, with the kind of answer each wants."""
    draw = random.Random(seed)
    people = "doctor teacher pilot king queen student nurse singer farmer".split()
    deeds = "built painted found sold lost mended bought cleaned opened".split()
    country = [name for name, _ in _pairs(_CAPITALS)]
    patterns = {
        "person": ["Who {d} the {n} ?", "What {p} {d} the {n} of {c} ?", "Which {p} came from {c} ?"],
        "location": ["Where is the {n} of the {p} ?", "What city in {c} has a {n} ?", "Where did the {p} go ?"],
        "number": ["How many {n}s are in {c} ?", "When was the {n} {d} ?", "How much does a {n} weigh ?"],
        "description": ["What is a {n} ?", "Why did the {p} come to {c} ?", "How does a {n} work ?"],
    }
    rows: dict[str, str] = {}
    while len(rows) < 1500:
        label = draw.choice(list(patterns))
        pattern = draw.choice(patterns[label])
        text = pattern.format(d=draw.choice(deeds), n=draw.choice(_NOUNS), p=draw.choice(people), c=draw.choice(country))
        rows[text] = label
    return [{"text": text, "label": label} for text, label in rows.items()]


def remarks(seed: int = 0) -> Rows:
    """Short remarks made from a small grammar, positive or negative."""
    draw = random.Random(seed)
    good = "excellent wonderful superb delightful brilliant charming fresh funny moving clever".split()
    bad = "terrible awful boring dull dreadful clumsy stale tedious weak annoying".split()
    subjects = "film story cast plot music ending meal hotel phone service camera book".split()
    patterns = ["the {s} was {a} .", "a {a} {s} , and a {b} one .", "what a {a} {s} !", "i found the {s} {a} and {b} ."]
    rows: dict[str, str] = {}
    while len(rows) < 1500:
        label = draw.choice(["positive", "negative"])
        first, second = draw.sample(good if label == "positive" else bad, 2)
        rows[draw.choice(patterns).format(s=draw.choice(subjects), a=first, b=second)] = label
    return [{"text": text, "label": label} for text, label in rows.items()]


def write_rows(rows: Rows, file: Path) -> Path:
    """Write rows as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
