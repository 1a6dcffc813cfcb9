"""Prompts as tokens of a tokenizer, behind all that it has, and the proof that texts with them spell as ours do."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.bases.reading import quiet
from softprompt.errors import ConfigError
from softprompt.exchange.tokens.carried import Carried
from softprompt.exchange.tokens.wording import JOINS, text_of, worded
from softprompt.tasks.wording.template import Template

_PROBES = ("a", "The 2 cats sat.", "yes", "é ü\n\tx", "(b)", "10")
"""What stands in columns to see how a text is spelled behind tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """Where the new tokens lie."""

    first: int
    """Id of the first of them: how many rows the base's table has."""
    names: tuple[str, ...]
    """Of all of them, in order."""
    fillers: tuple[str, ...]
    """Names for rows of the table that had none, so that nothing of the base moves."""

    @property
    def rows(self) -> int:
        """Of the table with them."""
        return self.first + len(self.names)

    @property
    def ids(self) -> range:
        """Of the new tokens."""
        return range(self.first, self.rows)


def vocabulary_of(base: FrozenBase, carried: Sequence[Carried]) -> Vocabulary:
    """Where the tokens of prompts go.

    Raises:
        ConfigError: the tokenizer has more tokens than the base has rows, or one called as a new one.
    """
    known = base.tokenizer.get_vocab()
    held, rows = max(known.values(), default=-1) + 1, len(base.embedding.weight)
    if held > rows:
        raise ConfigError(
            f"the tokenizer of {base.name} has {held - rows} tokens more than its embedding has rows ({rows}), so that new "
            "ones would get the wrong rows; give it a row for each (resize_token_embeddings) and train on that"
        )
    names = tuple(name for one in carried for name in one.tokens)
    fillers = tuple(f"<|unused:{number}|>" for number in range(held, rows))
    if taken := [name for name in (*names, *fillers) if name in known]:
        raise ConfigError(
            f"the vocabulary of {base.name} has a token {taken[0]!r} already, as a base does that prompts were exported "
            "into; export from the base itself, or under another name of the task"
        )
    return Vocabulary(rows, names, fillers)


def extend_tokenizer(base: FrozenBase, vocabulary: Vocabulary) -> Any:
    """A copy of the tokenizer that knows the new tokens as special ones, and puts nothing around texts: a prompt stands
    where a text begins.

    Raises:
        ConfigError: it numbers new tokens in another way, or puts something around texts all the same.
    """
    from tokenizers import AddedToken

    with quiet():
        tokenizer = copy.deepcopy(base.tokenizer)
        added = [AddedToken(name, special=True, normalized=False) for name in (*vocabulary.fillers, *vocabulary.names)]
        tokenizer.add_tokens(added, special_tokens=True)
    found = tokenizer.convert_tokens_to_ids(list(vocabulary.names))
    if found != [*vocabulary.ids]:
        raise ConfigError(
            f"the tokenizer of {base.name} numbers new tokens from {found[0]} on, and its table of embeddings ends at "
            f"{vocabulary.first}; this base cannot carry tokens"
        )
    for end in ("bos", "eos"):
        if getattr(tokenizer, f"add_{end}_token", False):
            setattr(tokenizer, f"add_{end}_token", False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.post_processor = None
    return tokenizer


def check_saved(tokenizer: Any, base: FrozenBase) -> None:
    """Refuse a tokenizer, read again as it was written, that puts something around texts. Raises `ConfigError`."""
    if _ids(tokenizer, "a", add_special_tokens=True) != _ids(tokenizer, "a"):
        raise ConfigError(
            f"the tokenizer of {base.name} ({type(tokenizer).__name__}) puts tokens around each text whatever is said, "
            "which would stand before a prompt; this base cannot carry tokens"
        )


def joins_of(tokenizer: Any, base: FrozenBase, carried: Sequence[Carried]) -> list[str]:
    """What must stand between each prompt's tokens and the text behind them, so that it is spelled as if it stood alone.

    Raises:
        ConfigError: the tokenizer spells it otherwise whatever stands there.
    """
    return [_join_of(tokenizer, base, one) for one in carried]


def _join_of(tokenizer: Any, base: FrozenBase, one: Carried) -> str:
    before, behind = one.form.input.around_prompt or (Template(""), one.form.input)
    rows = [dict.fromkeys(one.form.input.fields, probe) for probe in _PROBES]
    soft = tokenizer.convert_tokens_to_ids(list(one.tokens))
    fronts, texts = (base.encode([part.fill_parts(row) for row in rows]) for part in (before, behind))
    wanted = [[*front, *soft, *text] for front, text in zip(fronts, texts, strict=True)]
    for join in JOINS:
        if [_ids(tokenizer, text_of(worded(one, join), row)) for row in rows] == wanted:
            return join
    raise ConfigError(
        f"the tokenizer of {base.name} spells the input of {one.version.ref} otherwise behind a token than alone, so that "
        "no text places its prompt exactly; serve it with softprompt, or export it with --format peft"
    )


def _ids(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    with quiet():
        ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    return ids


def label_ids(base: FrozenBase, one: Carried) -> dict[str, list[int]] | None:
    """Token ids of each answer that a prompt is asked to score; None where it generates."""
    if one.form.labels is None:
        return None
    return dict(zip(one.form.asked, map(list, one.form.encode_labels(base)), strict=True))


def suppressed(kept: Iterable[int] | None, vocabulary: Vocabulary) -> list[int]:
    """Ids that `generate` of transformers never gives: the base's own, and the new ones."""
    return sorted({*(kept or ()), *vocabulary.ids})
