"""WordNet 3.0, read straight from its data files (Debian's `wordnet-base`)."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

WORDNET = Path(os.environ.get("WORDNET_DATA", "/usr/share/wordnet"))

NOUN_KINDS = {  # lexicographer file -> plain word
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    8: "body part",
    9: "idea",
    10: "communication",
    11: "event",
    12: "feeling",
    13: "food",
    14: "group",
    15: "place",
    16: "motive",
    17: "natural object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    21: "possession",
    22: "process",
    23: "quantity",
    24: "relation",
    25: "shape",
    26: "state",
    27: "substance",
    28: "time",
}


@dataclass(slots=True)
class Synset:
    """One sense: its words (first the commonest), its gloss split in definition and examples, its pointers."""

    key: tuple[str, int]
    lex: int
    words: list[str]
    definition: str
    examples: list[str]
    pointers: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    antonyms: list[tuple[int, tuple[str, int], int]] = field(default_factory=list)
    count: int = 0

    @property
    def short(self) -> str:
        """The definition without asides: parentheses dropped, cut at the first semicolon."""
        text = re.sub(r"\([^)]*\)", " ", self.definition).split(";")[0]
        return " ".join(text.replace("`", "'").split()).strip(" ,:")

    @property
    def instance(self) -> bool:
        """Whether this is one named individual rather than a kind."""
        return "@i" in self.pointers


class WordNet:
    """All synsets, by (part of speech, offset), with an index from lemma to senses in order of frequency."""

    def __init__(self) -> None:
        self.synsets: dict[tuple[str, int], Synset] = {}
        self.senses: dict[tuple[str, str], list[Synset]] = {}
        counts = self._counts()
        for pos, name in (("n", "noun"), ("v", "verb"), ("a", "adj"), ("r", "adv")):
            for line in self._lines(f"data.{name}"):
                synset = self._parse(pos, line, counts)
                self.synsets[synset.key] = synset
            for line in self._lines(f"index.{name}"):
                parts = line.split()
                number = int(parts[2])
                self.senses[pos, parts[0]] = [self.synsets[pos, int(o)] for o in parts[-number:]]
        self._ancestors: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}

    @staticmethod
    def _lines(name: str) -> list[str]:
        with open(WORDNET / name, encoding="latin-1") as lines:
            return [line for line in lines if not line.startswith("  ")]

    def _counts(self) -> dict[tuple[str, int, int], int]:
        counts: dict[tuple[str, int, int], int] = defaultdict(int)
        for line in self._lines("cntlist.rev"):
            key, _, count = line.split()
            lemma, rest = key.split("%")
            _, lex, number, *_ = rest.split(":")
            counts[lemma, int(lex), int(number)] += int(count)
        return counts

    @staticmethod
    def _parse(pos: str, line: str, counts: dict[tuple[str, int, int], int]) -> Synset:
        head, _, gloss = line.partition(" | ")
        parts = head.split()
        lex, number = int(parts[1]), int(parts[3], 16)
        words, count = [], 0
        for i in range(number):
            word, sense = parts[4 + 2 * i], int(parts[5 + 2 * i], 16)
            word = re.sub(r"\((a|p|ip)\)$", "", word)
            count += counts.get((word.lower(), lex, sense), 0)
            words.append(word.replace("_", " "))
        examples = [e.strip() for e in re.findall(r'"([^"]+)"', gloss)]
        definition = re.split(r';?\s*"', gloss.strip())[0].strip(" ;")
        synset = Synset((pos, int(parts[0])), lex, words, definition, examples, count=count)
        at = 4 + 2 * number
        for i in range(int(parts[at])):
            kind, offset, target, which = parts[at + 1 + 4 * i : at + 5 + 4 * i]
            target_key = ("a" if target == "s" else target, int(offset))
            synset.pointers.setdefault(kind, []).append(target_key)
            if kind == "!":
                synset.antonyms.append((int(which[:2], 16) - 1, target_key, int(which[2:], 16) - 1))
        return synset

    def sense(self, lemma: str, number: int = 1, pos: str = "n") -> Synset:
        """The numbered sense of a lemma, as WordNet orders them."""
        return self.senses[pos, lemma.lower().replace(" ", "_")][number - 1]

    def hypernyms(self, synset: Synset) -> list[Synset]:
        """Direct kinds of a synset, of instances too."""
        return [self.synsets[key] for kind in ("@", "@i") for key in synset.pointers.get(kind, ())]

    def ancestors(self, synset: Synset) -> frozenset[tuple[str, int]]:
        """Keys of the synset and of all above it."""
        known = self._ancestors.get(synset.key)
        if known is None:
            self._ancestors[synset.key] = frozenset([synset.key])  # a guard: WordNet has one verb cycle
            known = frozenset([synset.key]).union(*(self.ancestors(h) for h in self.hypernyms(synset)))
            self._ancestors[synset.key] = known
        return known

    def of(self, pos: str) -> list[Synset]:
        """All synsets of a part of speech."""
        return [s for s in self.synsets.values() if s.key[0] == pos]

    def exceptions(self, name: str) -> list[tuple[str, str]]:
        """(irregular form, lemma) pairs of `noun`, `verb` or `adj`."""
        pairs = (line.split()[:2] for line in self._lines(f"{name}.exc"))
        return [(a.replace("_", " "), b.replace("_", " ")) for a, b in pairs]


@cache
def wordnet() -> WordNet:
    """WordNet, read once."""
    return WordNet()
