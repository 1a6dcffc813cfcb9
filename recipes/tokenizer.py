"""The byte-level BPE tokenizer of the built-in base.

Spaces stay in front of words, digits are split one by one, nothing is added on encoding, and any UTF-8 comes back.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY = 8192
_SPLIT = r"'(?:[sdmt]|ll|ve|re)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LABEL_WORDS = [
    "abbreviation",
    "entity",
    "description",
    "person",
    "location",
    "number",
    "subjective",
    "objective",
    "positive",
    "negative",
    "entailed",
    "true",
    "false",
    "yes",
    "no",
    "good",
    "bad",
    "place",
    "thing",
    "human",
    "quantity",
    "opinion",
    "fact",
    "review",
    "plot",
    "spam",
    "question",
    "answer",
    "definition",
    "group",
    "object",
    "animal",
    "date",
    "other",
    "neutral",
]
"""Words that must be single tokens with a space in front."""


def train_tokenizer(documents: Iterable[str], path: Path) -> Tokenizer:
    """Trains on documents and writes `tokenizer.json`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(END_OF_TEXT, special=True), AddedToken(PAD, special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    often = (" " + " ".join(LABEL_WORDS) for _ in range(2000))
    tokenizer.train_from_iterator((text for source in (often, documents) for text in source), trainer=trainer)
    split = [word for word in LABEL_WORDS if len(tokenizer.encode(" " + word).ids) != 1]
    if split:
        raise ValueError(f"label words are not single tokens: {split}")
    tokenizer.save(str(path))
    return tokenizer
