"""The texts the base is pretrained on: every corpus whose licence lets the weights be shipped, and nothing else.

Test splits are never opened, and of the labelled training rows those that `held_out` names are left out, so that
a validation split made by the same rule is unseen by the base.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("SOFTPROMPT_DATA", HERE.parent.parent / "shared" / "data"))

_MASC_KINDS = {  # file-name patterns of the MASC corpus -> what a person would call that text
    "spoken": "conversation",
    "court": "transcript",
    "debate": "debate",
    "email": "email",
    "essays": "essay",
    "fiction": "fiction",
    "ficlets": "fiction",
    "govt-docs": "report",
    "blog": "blog",
    "jokes": "joke",
    "journal": "magazine",
    "letters": "letter",
    "movie-script": "script",
    "newspaper": "news",
    "non-fiction": "textbook",
    "technical": "science",
    "travel-guides": "travel guide",
    "twitter": "tweets",
    "spam": "spam",
    "face-to-face": "conversation",
    "telephone": "conversation",
}


def held_out(row: dict[str, str]) -> bool:
    """Whether a labelled row belongs to validation: a tenth of the rows, chosen by the content of the row alone.

    The `validation: 0.1` split of the package uses the very same rule, so a row held out there was never seen here.
    """
    digest = hashlib.blake2b(json.dumps(row, sort_keys=True, ensure_ascii=False).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < 0.1


@cache
def labelled(name: str, validation: bool = False) -> list[tuple[str, str]]:
    """(text, label) of the training rows of `subjectivity` or `sentence_polarity`; validation rows only on demand."""
    assert name in ("subjectivity", "sentence_polarity"), name
    with open(DATA / name / "train.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["text"], row["label"]) for row in rows if held_out(row) == validation]


def _members(archive: str, pattern: str) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(DATA / "corpus" / archive) as opened:
        for name in sorted(opened.namelist()):
            if re.search(pattern, name):
                raw = opened.read(name)
                try:
                    yield name, raw.decode("utf-8")
                except UnicodeDecodeError:
                    yield name, raw.decode("latin-1")


def fold(text: str) -> str:
    """White space folded to single spaces."""
    return " ".join(text.split())


@cache
def movie_reviews() -> list[tuple[list[str], str]]:
    """(sentences, positive | negative) of every film review."""
    reviews = []
    for name, text in _members("movie_reviews.zip", r"/(pos|neg)/.*\.txt$"):
        sentences = [fold(line) for line in text.splitlines() if line.strip()]
        reviews.append((sentences, "positive" if "/pos/" in name else "negative"))
    return reviews


@cache
def product_sentences() -> list[tuple[str, int]]:
    """(sentence, sum of its opinion marks) of customer reviews, marks such as `[+2]` stripped."""
    found = []
    for archive in ("product_reviews_1.zip", "product_reviews_2.zip"):
        for name, text in _members(archive, r"\.txt$"):
            if "README" in name:
                continue
            for line in text.splitlines():
                marks, mark, sentence = line.partition("##")
                sentence = fold(re.sub(r"^\[[a-z]\]\s*", "", sentence))
                if mark and len(sentence) > 10:
                    found.append((sentence, sum(int(m) for m in re.findall(r"\[([+-]\d)\]", marks))))
    return found


@cache
def comparative_sentences() -> list[str]:
    """Sentences of the comparative-sentence corpus, its XML-like marks and annotation lines stripped."""
    found = []
    for _, text in _members("comparative_sentences.zip", r"labeledSentences\.txt$"):
        for line in text.splitlines():
            line = fold(re.sub(r"</?cs-\d>", " ", line))
            if len(line.split()) > 5 and not re.match(r"^(\d_|\*)", line):
                found.append(re.sub(r"^\[[a-z]\]\s*", "", line))
    return found


@cache
def masc() -> list[tuple[str, str]]:
    """(text, kind of text) of the MASC corpus, `word_TAG` marks stripped."""
    found = []
    listing = {}
    for _, text in _members("masc_tagged.zip", r"categories\.txt$"):
        for line in text.splitlines():
            name, _, kind = line.partition(" ")
            listing[name.rsplit("/", 1)[-1].removesuffix(".txt")] = kind.strip()
    for name, text in _members("masc_tagged.zip", r"/(spoken|written)/.*\.txt$"):
        kind = listing.get(name.rsplit("/", 1)[-1].removesuffix(".txt"), "text")
        lines = []
        for line in text.splitlines():
            words = [re.sub(r"[/_][^/_\s]*$", "", word) for word in line.split()]
            if words:
                lines.append(" ".join(words))
        found.append((detach("\n".join(lines)), _MASC_KINDS.get(kind, kind)))
    return found


def detach(text: str) -> str:
    """Tokenised English set as print again: no space before punctuation or clitics."""
    text = re.sub(r" ([.,;:?!%)\]])", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r"`` ?", '"', text)
    return re.sub(r" ?''", '"', text).replace("( ", "(").replace("[ ", "[")


@cache
def speeches() -> list[str]:
    """State of the Union and inaugural addresses."""
    return [
        text.strip() for archive in ("state_union.zip", "inaugural.zip") for _, text in _members(archive, r"/\d{4}.*\.txt$")
    ]


@cache
def scripture() -> list[str]:
    """Genesis in English."""
    return [text.strip() for _, text in _members("genesis.zip", r"english-.*\.txt$")]


@cache
def opinion_words() -> list[tuple[str, str]]:
    """(word, positive | negative) of the opinion lexicon."""
    return [
        (line.strip(), "positive" if "positive" in name else "negative")
        for name, text in _members("opinion_lexicon.zip", r"(positive|negative)-words\.txt$")
        for line in text.splitlines()
        if line.strip() and not line.startswith(";")
    ]
