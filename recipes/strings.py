"""Kind 8: skills with strings and numbers."""

from functools import cache
from random import Random

import texts
from render import Task
from words import bases

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_NTH = ("first", "second", "third", "fourth")


def number_word(n: int) -> str:
    """A number below a thousand in words."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_ONES[n % 10]}" if n % 10 else "")
    return f"{_ONES[n // 100]} hundred" + (f" and {number_word(n % 100)}" if n % 100 else "")


@cache
def _vocabulary() -> list[str]:
    return [w for pos in "nva" for w in bases()[pos] if len(w) < 11]


def _some(rng: Random, low: int, high: int) -> list[str]:
    if rng.random() < 0.3:
        words = rng.choice(texts.comparative_sentences()).split()
        if len(words) >= high:
            at = rng.randrange(len(words) - high + 1)
            return words[at : at + rng.randint(low, high)]
    return rng.sample(_vocabulary(), rng.randint(low, high))


def words_task(rng: Random) -> Task:
    """Copy, pick, reorder, count, compare words."""
    k = rng.randrange(3)
    name, verbs, make = rng.choice(
        (
            ("Copy", ("Copy the text.", "Repeat this exactly.", "Say it again."), lambda w: " ".join(w)),
            (
                f"{_NTH[k].capitalize()} word",
                (f"What is the {_NTH[k]} word?", f"Give the {_NTH[k]} word."),
                lambda w: w[k],
            ),
            ("Last word", ("What is the last word?", "Give the last word of the text."), lambda w: w[-1]),
            (
                "Reversed",
                ("Reverse the order of the words.", "Say the words backwards."),
                lambda w: " ".join(w[::-1]),
            ),
            (
                "Sorted",
                ("Sort the words by the alphabet.", "Put the words in alphabetical order."),
                lambda w: " ".join(sorted(w)),
            ),
            ("Number of words", ("How many words are there?", "Count the words."), lambda w: str(len(w))),
            ("Upper case", ("Write in upper case.", "Put it in capitals."), lambda w: " ".join(w).upper()),
            ("Title case", ("Capitalize each word.",), lambda w: " ".join(x.capitalize() for x in w)),
            ("Longest word", ("Which word is longest?", "Find the longest word."), lambda w: max(w, key=len)),
            ("Shortest word", ("Which word is shortest?",), lambda w: min(w, key=len)),
        )
    )

    def draw(rng: Random) -> tuple[str, str]:
        words = _some(rng, 3, 7)
        return " ".join(words), make(words)

    return Task(draw, verbs, ("Text", "Words", "Input"), (name,), shots=0.5)


def word_task(rng: Random) -> Task:
    """Letters of one word."""
    name, verbs, make = rng.choice(
        (
            ("Letters", ("How many letters has the word?", "Count the letters."), lambda w: str(len(w))),
            ("Spelling", ("Spell the word.", "Spell it out."), lambda w: "-".join(w)),
            (
                "First letter",
                ("What is the first letter?", "Which letter does it begin with?"),
                lambda w: w[0],
            ),
            ("Last letter", ("What is the last letter?",), lambda w: w[-1]),
            ("Upper case", ("Write in capitals.",), str.upper),
            ("Word", ("Put the letters together.",), None),
        )
    )

    def draw(rng: Random) -> tuple[str, str]:
        word = rng.choice(_vocabulary())
        return ("-".join(word), word) if make is None else (word, make(word))

    return Task(draw, verbs, ("Input",) if make is None else ("Word", "Input"), (name,), shots=0.6)


def _sum(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(0, 50), rng.randint(0, 50)
    if rng.random() < 0.3:
        a, b = max(a, b), min(a, b)
        return rng.choice((f"{a} - {b}", f"{a} minus {b}")), str(a - b)
    if rng.random() < 0.2:
        a, b = a % 11, b % 11
        return rng.choice((f"{a} * {b}", f"{a} times {b}")), str(a * b)
    return rng.choice((f"{a} + {b}", f"{a} plus {b}")), str(a + b)


def _larger(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(0, 999), rng.randint(0, 999)
    return f"{a} or {b}", str(max(a, b))


def _next(rng: Random) -> tuple[str, str]:
    names = rng.choice((_DAYS, _MONTHS))
    at = rng.randrange(len(names))
    return names[at], names[(at + 1) % len(names)]


def _word_of(rng: Random) -> tuple[str, str]:
    n = rng.randint(0, 999) if rng.random() < 0.4 else rng.randint(0, 40)
    return str(n), number_word(n)


def numbers(rng: Random) -> Task:
    """Sums, comparisons, number words, the calendar."""
    draw, verbs, names, out = rng.choice(
        (
            (
                _sum,
                ("Calculate.", "What is the result?", "Work this out."),
                ("Sum", "Problem"),
                ("Result", "Answer"),
            ),
            (
                _larger,
                ("Which number is larger?", "Name the larger number."),
                ("Numbers", "Input"),
                ("Larger", "Maximum"),
            ),
            (_next, ("What comes next?", "What comes after this?"), ("Name", "Input"), ("Next", "After")),
            (_word_of, ("Write the number in words.",), ("Number", "Input"), ("Words", "In words")),
            (
                lambda rng: _word_of(rng)[::-1],
                ("Write as a number.",),
                ("Words", "Input"),
                ("Number", "Digits"),
            ),
        )
    )
    return Task(draw, verbs, names, out, shots=0.6)
