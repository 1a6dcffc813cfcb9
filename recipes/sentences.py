"""Kinds 5 to 7: sentiment, subjectivity, and what kind of text something is."""

import re
from functools import cache
from random import Random

import texts
from render import Task
from wordnet import wordnet

TEXT_NAMES = ("Text", "Sentence", "Review", "Input", "Passage", "Comment", "Snippet", "Message")


class Passes:
    """Goes round a list, each round in a new order, and counts; labelled rows must not be seen too often."""

    def __init__(self, items: list[tuple[str, str]], seed: int) -> None:
        self.items, self.rng, self.at, self.rounds = list(items), Random(seed), 0, 0
        self.rng.shuffle(self.items)

    def next(self) -> tuple[str, str]:
        """The next item."""
        if self.at == len(self.items):
            self.at, self.rounds = 0, self.rounds + 1
            self.rng.shuffle(self.items)
        self.at += 1
        return self.items[self.at - 1]

    @property
    def passes(self) -> float:
        """How often the list has been gone over."""
        return self.rounds + self.at / len(self.items)


@cache
def rows(name: str, validation: bool) -> Passes:
    """The labelled rows of a data set, in rounds."""
    return Passes(texts.labelled(name, validation), seed=11)


@cache
def _passages() -> list[tuple[str, str]]:
    found = []
    for sentences, label in texts.movie_reviews():
        for at in range(0, len(sentences) - 2, 4):
            weight = 3 if at >= len(sentences) - 8 else 1  # verdicts stand near the end
            found += [(" ".join(sentences[at : at + 3])[:500], label)] * weight
    return found


@cache
def _products() -> list[tuple[str, str]]:
    return [(text, "positive" if score > 0 else "negative") for text, score in texts.product_sentences() if score]


@cache
def _opinion_words() -> list[tuple[str, str]]:
    return texts.opinion_words()


@cache
def _weighed() -> list[tuple[str, str]]:
    """Sentences of film reviews whose opinion words lean one way, and the verdict of the whole review with them.

    Two opinion words more on one side are enough alone; one counts where the review as a whole agrees.
    """
    value = {word: 1 if label == "positive" else -1 for word, label in texts.opinion_words()}
    found = []
    for sentences, verdict in texts.movie_reviews():
        for sentence in sentences:
            lean = sum(value.get(word, 0) for word in sentence.split())
            label = "positive" if lean > 0 else "negative"
            if 20 < len(sentence) < 260 and (abs(lean) > 1 or (lean and label == verdict)):
                found.append((sentence, label))
    return found


_SENTIMENT = (  # label words (positive, negative), output names, instructions
    (
        ("positive", "negative"),
        ("Sentiment", "Sentiment", "Polarity", "Label", "Tone", "Attitude"),
        (
            "Is this positive or negative?",
            "What is the sentiment of this text?",
            "Classify the sentiment as positive or negative.",
            "Decide whether the writer's opinion is positive or negative.",
            "Sentiment (positive or negative):",
            "What is the polarity of the sentence?",
            "Classify the following text:",
        ),
    ),
    (
        ("good", "bad"),
        ("Verdict", "Opinion", "Rating", "Judgement"),
        (
            "Is this good or bad?",
            "Does the writer say it is good or bad?",
            "Was it good or bad?",
            "Rate the following as good or bad.",
        ),
    ),
    (
        ("like", "dislike"),
        ("Attitude", "Feeling", "Reaction"),
        ("Does the author like or dislike it?", "Like or dislike?"),
    ),
    (
        ("yes", "no"),
        ("Recommended", "Liked", "Positive", "Is it praise"),
        (
            "Did the writer like it?",
            "Would the writer recommend it?",
            "Is the review favorable?",
            "Does this sound positive?",
        ),
    ),
    (
        ("great", "terrible"),
        ("It was", "Verdict", "Summary", "In a word"),
        ("How was it?", "In one word, how was it?"),
    ),
    (("praise", "criticism"), ("Kind", "This is"), ("Is this praise or criticism?",)),
    (("happy", "unhappy"), ("Mood", "The writer is"), ("Is the writer happy or unhappy with it?",)),
    (("thumbs up", "thumbs down"), ("Verdict", "Vote"), ("Thumbs up or thumbs down?",)),
    (("fresh", "rotten"), ("Tomato", "Score"), ("Is the verdict fresh or rotten?",)),
    (("true", "false"), ("Positive", "The review is positive"), ("True or false: the review is positive.",)),
    (
        ("negative", "positive"),
        ("Opposite", "Opposite sentiment"),
        ("Name the sentiment that is the opposite of this text's.",),
    ),
)
_WEIGHTS = (40, 14, 6, 10, 8, 3, 3, 3, 3, 4, 2)


def sentiment(rng: Random, source: str, validation: bool = False) -> Task:
    """A sentiment task on `rows`, `passages`, `weighed` sentences, `products` or `words`."""
    words, outputs, instructions = rng.choices(_SENTIMENT, _WEIGHTS)[0]
    names = dict(zip(("positive", "negative"), words, strict=True))

    def draw(rng: Random) -> tuple[str, str]:
        if source == "rows":
            text, label = rows("sentence_polarity", validation).next()
        elif source == "passages":
            text, label = rng.choice(_passages())
        elif source == "weighed":
            text, label = rng.choice(_weighed())
        elif source == "products":
            text, label = rng.choice(_products())
            if rng.random() < 0.5 and label == "positive":  # praise is twice as frequent
                text, label = rng.choice(_products())
        else:
            text, label = rng.choice(_opinion_words())
            if rng.random() < 0.3:
                other = rng.choice([w for w, other in rng.choices(_opinion_words(), k=6) if other == label] or [text])
                text = f"{text} {rng.choice(['and', ',', 'but also'])} {other}".replace(" ,", ",")
        return text, names[label]

    inputs = ("Word", "Phrase", "Input") if source == "words" else TEXT_NAMES
    return Task(draw, instructions, inputs, outputs, tuple(words), shots=0.25 if source != "words" else 0.6)


_SUBJECTIVITY = (  # label words (subjective, objective), output names, instructions
    (
        ("subjective", "objective"),
        ("Type", "Kind", "Subjectivity", "Label", "Style", "Class", "Category"),
        (
            "Is this subjective or objective?",
            "Is the sentence subjective or objective?",
            "Subjective or objective?",
            "Classify the sentence as subjective or objective.",
            "Classify the following text:",
        ),
    ),
    (
        ("opinion", "fact"),
        ("Type", "Kind", "Class"),
        ("Is this an opinion or a fact?", "Opinion or fact?", "Does it tell an opinion or a fact?"),
    ),
    (
        ("review", "plot"),
        ("Source", "From", "Kind"),
        ("Is this from a review or from a plot summary?", "Review or plot?"),
    ),
    (
        ("yes", "no"),
        ("Opinion", "Subjective"),
        ("Does this express an opinion?", "Is it a judgement of a film?", "Is this subjective?"),
    ),
    (
        ("no", "yes"),
        ("Objective", "Factual", "Plot"),
        ("Does this tell what happens in a story?", "Is this objective?"),
    ),
    (("comment", "story"), ("Kind", "Type"), ("Is this a comment or a story?",)),
    (("evaluation", "description"), ("Kind", "Purpose"), ("Is this evaluation or description?",)),
    (("critic", "narrator"), ("Speaker", "Voice", "Who speaks"), ("Who speaks, a critic or a narrator?",)),
    (("true", "false"), ("Opinion", "It is an opinion"), ("True or false: this is an opinion.",)),
)
_SUBJECTIVITY_WEIGHTS = (40, 16, 10, 10, 5, 4, 4, 4, 4)


def subjectivity(rng: Random, validation: bool = False) -> Task:
    """Whether a sentence judges or tells."""
    words, outputs, instructions = rng.choices(_SUBJECTIVITY, _SUBJECTIVITY_WEIGHTS)[0]
    names = dict(zip(("subjective", "objective"), words, strict=True))

    def draw(rng: Random) -> tuple[str, str]:
        text, label = rows("subjectivity", validation).next()
        return text, names[label]

    return Task(draw, instructions, TEXT_NAMES, outputs, tuple(words), shots=0.25)


def pieces_of(text: str, size: int) -> list[str]:
    """Running text cut at line or sentence ends into pieces of about `size` characters."""
    pieces, now = [], ""
    for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
        if len(now) + len(part) > size and now:
            pieces.append(now)
            now = ""
        now = f"{now} {part}" if now else part
    return [*pieces, now] if now else pieces


@cache
def _genres() -> dict[str, list[str]]:
    genres: dict[str, list[str]] = {}
    for text, kind in texts.masc():
        genres.setdefault(kind, []).extend(pieces_of(" ".join(text.split()), 300))
    genres["speech"] = [p for text in texts.speeches() for p in pieces_of(" ".join(text.split()), 300)]
    genres["scripture"] = [p for text in texts.scripture() for p in pieces_of(" ".join(text.split()), 250)]
    genres["film review"] = [text for text, _ in _passages()]
    genres["product review"] = [text for text, _ in texts.product_sentences() if len(text) > 60]
    genres["dictionary"] = [f"{s.words[0]}: {s.definition}" for s in wordnet().of("n")[::9]]
    return {kind: found for kind, found in genres.items() if len(found) > 15}


def genre(rng: Random) -> Task:
    """What kind of text a passage is from."""
    genres = _genres()
    kinds = sorted(genres)
    if rng.random() < 0.6:
        kinds = rng.sample(kinds, rng.randint(2, 6))

    def draw(rng: Random) -> tuple[str, str]:
        kind = rng.choice(kinds)
        return rng.choice(genres[kind])[:400], kind

    return Task(
        draw,
        (
            "What kind of text is this?",
            "Where is this passage from?",
            "Name the genre.",
            "Classify the text by its kind.",
            "What sort of writing is it?",
        ),
        ("Text", "Passage", "Excerpt"),
        ("Genre", "Kind of text", "Source", "Kind", "From"),
        tuple(kinds),
        shots=0.3,
    )
