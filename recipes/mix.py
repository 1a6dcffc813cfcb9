"""The mixture: which documents in which shares, made into arrays of tokens and loss weights, one pair for each stage.

The first stage is broad; the second, for the decay of the learning rate, has less running text and more of the short
answers that the base is for.

    python recipes/mix.py            # tokenizer.json, train.npz, decay.npz, held_out.npz in recipes/work/
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import questions
import sentences
import strings
import texts
import words
from render import ANSWER, END, INPUT, PLAIN, Document, Task, plain, render
from tokenizer import END_OF_TEXT, train_tokenizer
from tokenizers import Tokenizer
from wordnet import wordnet

WORK = Path(__file__).resolve().parent / "work"
WEIGHT_UNIT = 0.5
"""Weights are stored as small integers in this unit."""
_WEIGHTS = {PLAIN: 2, INPUT: 1, ANSWER: 8, END: 2}
_LONG_ANSWER = 3
"""Weight beyond the sixth token of an answer: definitions must not crowd out the one-word answers."""
CHARACTERS_PER_TOKEN = 4.1

INSTRUCTIONS: dict[str, tuple[Callable[[Random], Task], float, float]] = {  # kind -> maker, millions of tokens by stage
    "question_kind": (questions.kind, 2.4, 0.9),
    "question_answer": (questions.answer, 0.35, 0.1),
    "category": (words.category, 0.6, 0.3),
    "headword": (words.headword, 0.9, 0.55),
    "define": (words.define, 0.3, 0.05),
    "blank": (words.blank, 0.2, 0.05),
    "relation": (words.relation, 0.35, 0.12),
    "pick": (words.pick, 0.2, 0.08),
    "form": (words.form, 0.2, 0.12),
    "review_passage": (partial(sentences.sentiment, source="passages"), 0.5, 0.2),
    "weighed_sentence": (partial(sentences.sentiment, source="weighed"), 0.0, 0.6),
    "product_sentence": (partial(sentences.sentiment, source="products"), 0.4, 0.3),
    "opinion_word": (partial(sentences.sentiment, source="words"), 0.25, 0.25),
    "genre": (sentences.genre, 0.25, 0.08),
    "words_task": (strings.words_task, 0.2, 0.08),
    "word_task": (strings.word_task, 0.1, 0.03),
    "numbers": (strings.numbers, 0.15, 0.05),
}
PLAIN_SHARES = (
    {"film": 1.0, "product": 1.0, "other": 1.0, "dictionary": 0.4},
    {"film": 0.2, "product": 0.2, "other": 0.05, "dictionary": 0.05},
)
"""Share of the passages of each kind of running text, by stage; definitions come back in the instructions."""
LABELLED_PASSES = (4.0, 2.3)
"""Passes over the labelled rows by stage. The first stage is left when less than half of it has been read."""
LABELLED: dict[str, Callable[..., Task]] = {  # data set -> maker of its tasks
    "sentence_polarity": partial(sentences.sentiment, source="rows"),
    "subjectivity": sentences.subjectivity,
}


def passages() -> Iterator[tuple[str, str]]:
    """(kind, passage) of all plain text but WordNet's, once."""
    for lines, _ in texts.movie_reviews():
        for at in range(0, len(lines), 40):
            yield "film", "\n".join(lines[at : at + 40])
    for name in LABELLED:
        rows = [text for text, _ in texts.labelled(name)]
        for at in range(0, len(rows), 5):
            yield "film", "\n".join(rows[at : at + 5])
    for found in ([text for text, _ in texts.product_sentences()], texts.comparative_sentences()):
        for at in range(0, len(found), 12):
            yield "product", "\n".join(found[at : at + 12])
    for text in (*(text for text, _ in texts.masc()), *texts.speeches(), *texts.scripture()):
        for piece in sentences.pieces_of(text, 2500):
            yield "other", piece


def running_text() -> Iterator[tuple[str, str]]:
    """(kind, passage) of all plain text, once."""
    yield from passages()
    entries = []
    for s in wordnet().synsets.values():
        example = f' "{s.examples[0]}"' if s.examples else ""
        entries.append(f"{', '.join(s.words)}: {s.definition}.{example}")
    Random(5).shuffle(entries)
    for at in range(0, len(entries), 4):
        yield "dictionary", "\n".join(entries[at : at + 4])


def documents(rng: Random, stage: int) -> Iterator[Document]:
    """All documents of a stage of the mixture, kind after kind."""
    for kind, text in running_text():
        if rng.random() < PLAIN_SHARES[stage][kind]:
            yield plain(text)
    for maker, *millions in INSTRUCTIONS.values():
        room = millions[stage] * 1e6 * CHARACTERS_PER_TOKEN
        while room > 0:
            document = render(rng, maker(rng))
            room -= sum(len(text) for text, _ in document)
            yield document
    for name, labelled in LABELLED.items():
        rows = sentences.rows(name, False)
        until = rows.passes + LABELLED_PASSES[stage]
        while rows.passes < until:
            yield render(rng, labelled(rng))


def held_out_documents(rng: Random) -> dict[str, list[Document]]:
    """Documents never trained on: generated ones with another seed, and the validation rows."""
    groups = {kind: [render(rng, maker(rng)) for _ in range(150)] for kind, (maker, *_) in INSTRUCTIONS.items()}
    for name, labelled in LABELLED.items():
        groups[name] = [render(rng, labelled(rng, validation=True)) for _ in range(300)]
    return groups


def encode(tokenizer: Tokenizer, many: list[Document]) -> tuple[np.ndarray, np.ndarray]:
    """Documents end to end: token ids and weights."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for at in range(0, len(many), 20_000):
        pieces = [piece for document in many[at : at + 20_000] for piece in document]
        encoded = tokenizer.encode_batch_fast([text for text, _ in pieces], add_special_tokens=False)
        for (_, kind), found in zip(pieces, encoded, strict=True):
            tokens = [end] if kind == END else found.ids
            weight = np.full(len(tokens), _WEIGHTS[kind], dtype=np.uint8)
            if kind == ANSWER:
                weight[6:] = _LONG_ANSWER
            ids.append(np.asarray(tokens, dtype=np.uint16))
            weights.append(weight)
    return np.concatenate(ids), np.concatenate(weights)


def write(path: Path, tokenizer: Tokenizer, many: list[Document]) -> dict[str, float]:
    """Writes the arrays of a stage; its figures."""
    ids, weights = encode(tokenizer, many)
    np.savez(path, ids=ids, weights=weights)
    instructions = [document for document in many if document[0][1] != PLAIN]
    return {
        "documents": len(many),
        "tokens": len(ids),
        "instruction_tokens": len(encode(tokenizer, instructions)[0]),
        "answer_share": round(float((weights == _WEIGHTS[ANSWER]).mean()), 3),
    }


def main() -> None:
    """Makes the tokenizer and the arrays."""
    WORK.mkdir(exist_ok=True)
    figures = {}
    for stage, name in enumerate(("train", "decay")):
        rng = Random(20 + stage)
        many = list(documents(rng, stage))
        rng.shuffle(many)
        if stage == 0:
            texts_of = ("".join(text for text, _ in document) for document in many[::4])
            tokenizer = train_tokenizer(texts_of, WORK / "tokenizer.json")
        figures[name] = write(WORK / f"{name}.npz", tokenizer, many)
        print(name, figures[name], flush=True)
    (WORK / "mix.json").write_text(json.dumps(figures, indent=1))
    arrays = {}
    for kind, group in held_out_documents(Random(77)).items():
        arrays[f"{kind}.ids"], arrays[f"{kind}.weights"] = encode(tokenizer, group)
    np.savez(WORK / "held_out.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
