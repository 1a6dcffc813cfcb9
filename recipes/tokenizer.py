"""The byte-level BPE tokenizer of the built-in base.

Spaces stay in front of words, digits are split one by one, nothing is added on encoding, and any UTF-8 comes back.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


def train_tokenizer(
    documents: Iterable[str], path: Path, *, vocabulary: int = VOCABULARY, more: Sequence[AddedToken] = ()
) -> Tokenizer:
    """Trains on documents and writes `tokenizer.json`; `more` special tokens follow the two that every model has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(END_OF_TEXT, special=True), AddedToken(PAD, special=True), *more]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
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


def save_tokenizer(tokenizer: Tokenizer, target: Path, context: int, **names: str) -> None:
    """Writes a tokenizer as transformers reads it, with the names of special tokens beside those that every model has."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        **names,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(target)
    settings = json.loads((target / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # older releases know no other name for it
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets it bring odd text back.

    Raises:
        ValueError: it does not.
    """
    for text in (
        "Question: What is an atom ?\nType: entity",
        " two  spaces\tand\n\nlines ",
        "naïve 日本語 🙂 1984",
        "\x00\x7f <|x|>",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids) != text:
            raise ValueError(f"the tokenizer does not bring {text!r} back but {tokenizer.decode(ids)!r}")
