"""How a base spells text: token ids of text, of text that stands behind other text, and back.

Text is text: what a user writes never becomes a control token, such as the end of a sequence; what the author of a template
writes may. For all other text the ids are those that the tokenizer gives, no special tokens added.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from softprompt.bases.reading import quiet
from softprompt.errors import DataError
from softprompt.text import Parts, plain

ANCHORS = ("\n", ":", ".", "=", "a", "1")
"""What a text is put behind to see how it is spelled there; the first that the text leaves alone."""
_PROBES = ("a", "the", "yes", "No", " the", " yes", "1")


class Spelling:
    """Encoding and decoding with the tokenizer of a base."""

    def __init__(self, tokenizer: Any, name: str, embedding: Any) -> None:
        """`name` is the base's, for messages; `embedding` its input embedding, V x D."""
        self._tokenizer, self._name, self._embedding = tokenizer, name, embedding
        self._mark = secrets.token_hex(16)
        """What no user can have written."""

    @cached_property
    def controls(self) -> dict[str, int]:
        """Text and id of each control token. A single character that is also a word of the vocabulary is none."""
        tokenizer = self._tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        found = {str(token): number for number, token in added.items() if token.special}
        found |= {str(text): tokenizer.convert_tokens_to_ids(text) for text in tokenizer.all_special_tokens}
        model = self._backend.model if self._backend is not None else None
        return {
            text: number
            for text, number in found.items()
            if text and number is not None and (len(text) > 1 or model is None or model.token_to_id(text) is None)
        }

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset(self.controls.values())

    @cached_property
    def names(self) -> dict[int, str]:
        """Texts of the control tokens, by id: they decode to nothing."""
        return {number: text for text, number in self.controls.items()}

    @cached_property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts in front of each text by itself, and behind it."""
        with quiet():
            alone, framed = (self._tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
        places = (at for at in range(len(framed)) if framed[at : at + len(alone)] == alone)
        start = next(places, 0)
        return tuple(framed[:start]), tuple(framed[start + len(alone) :])

    @property
    def begins_with(self) -> str | None:
        """The former as text, None for nothing; nobody here puts it before the inputs of a causal model."""
        return "".join(self.names.get(token, str(token)) for token in self.frame[0]) or None

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens of single bytes, of which a run is decoded as a whole: what follows can change all of it."""
        backend = self._backend
        if backend is None or b"ByteFallback" not in (backend.decoder.__getstate__() if backend.decoder else b""):
            return frozenset()
        ids = (backend.token_to_id(name % byte) for byte in range(256) for name in ("<0x%02X>", "<0x%02x>"))
        return frozenset(number for number in ids if number is not None)

    @cached_property
    def unusable(self) -> frozenset[int]:
        """Tokens whose row of the embedding holds NaN or infinity."""
        weight_VD = self._embedding.weight.detach()
        if not weight_VD.is_floating_point():
            return frozenset()
        # In parts, since a sum in another dtype takes a copy of all that is summed.
        sums_V = torch.cat([rows.sum(-1, dtype=torch.float32) for rows in weight_VD.split(1 << 14)])
        return frozenset((~sums_V.isfinite()).nonzero()[:, 0].tolist())

    @cached_property
    def beyond(self) -> int:
        """How many of the tokenizer's tokens the embedding has no row for."""
        size = self._embedding.weight.shape[0]
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        highest = max(max(added, default=-1) + 1, len(self._tokenizer))
        if highest <= size:
            return 0
        return sum(number >= size for number in self._tokenizer.get_vocab().values())

    def encode(
        self, texts: Sequence[str | Parts], *, behind: bool = False, name: Callable[[int], str] | None = None
    ) -> list[list[int]]:
        """Token ids of each text, without special tokens but those of its author.

        Args:
            texts: a string is a user's.
            behind: spell each as it stands behind other text: where the tokenizer puts a word mark before every text, a text
                begins with one only where it begins with a space.
            name: what to call a text in messages, by its number.

        Raises:
            DataError: a text takes a token for which the base has no embedding.
        """
        parts = [plain(text) if isinstance(text, str) else text for text in texts]
        ids = self._encode_behind(parts) if behind and self.marks_words else self._encode(parts)
        if self.beyond or self.unusable:
            for number, row in enumerate(ids):
                self.check_ids(row, functools.partial(name, number) if name else "the text")
        return ids

    def check_ids(self, ids: Sequence[int], name: str | Callable[[], str]) -> None:
        """Refuse a token for which the base has no embedding, or one that is no number.

        Raises:
            DataError: it is named.
        """
        size = self._embedding.weight.shape[0]
        wrong = next((token for token in ids if token >= size or token in self.unusable), None)
        if wrong is None:
            return
        text = self.names.get(wrong) or self._tokenizer.convert_ids_to_tokens(wrong)
        why = f"no embedding (it has {size})" if wrong >= size else "an embedding that holds NaN or infinity"
        called = name if isinstance(name, str) else name()
        raise DataError(f"{called} holds the token {text!r} (id {wrong}), for which {self._name} has {why}; take it out")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""
        text: str = self._decoder(list(ids))
        return text

    def shorten(self, text: str, fewer: int) -> str:
        """The beginning of a text that takes about so many tokens fewer, letter by letter as it is. Where the tokenizer does
        not tell which letters a token stands for, what its tokens say, which leaves out what the vocabulary lacks."""
        (ids,) = self.encode([text])
        count = max(0, len(ids) - fewer)
        found = self._backend.encode(text, add_special_tokens=False) if self._backend is not None else None
        if found is not None and found.ids == ids:
            return text[: found.offsets[count - 1][1]] if count else ""
        said = self.decode(ids[:count]).rstrip("\ufffd")  # which stands for a character that is cut
        return f" {said}" if not text.startswith(said) and text.startswith(f" {said}") else said  # a word mark is no text

    @cached_property
    def marks_words(self) -> bool:
        """Whether the tokenizer puts a word mark before every text, so that texts encoded apart and joined are no longer
        the joined text."""
        for anchor, before in self._anchors:
            for probe in _PROBES:
                alone, joined = self._ids([probe, anchor + probe])
                if joined[: len(before)] == before and joined[len(before) :] != alone:
                    text = self.decode(before) + probe
                    if self.decode([*before, *alone]) != text and self.decode(joined) == text:
                        return True
        return False

    def takes_long(self, text: str) -> bool:
        """Whether a text may be the first to name a control token, for which the tokenizer is copied: up to seconds."""
        return "_marked" not in self.__dict__ and self._may_name(text)

    def break_controls(self, text: str) -> str:
        """A text without control tokens, for what words it further, as chat templates do; :meth:`parts_of` mends it."""
        return (
            self._pattern.sub(lambda found: found[0][:1] + self._mark + found[0][1:], text) if self._may_name(text) else text
        )

    def without_controls(self, text: str) -> str:
        """A text without its control tokens."""
        return self._pattern.sub("", text)

    def before_controls(self, text: str) -> str:
        """A text up to its first control token."""
        return self._pattern.split(text, maxsplit=1)[0]

    def parts_of(self, text: str) -> Parts:
        """A text in which users' texts are broken: control tokens that are left are its author's."""
        parts: list[tuple[str, str]] = []
        if self._mark not in text:
            return ((text, ""),)
        author, start = "", 0
        for found in self._pattern.finditer(text):
            parts.append((author, text[start : found.start()].replace(self._mark, "")))
            author, start = found[0], found.end()
        return [*parts, (author, text[start:].replace(self._mark, ""))]

    @cached_property
    def _backend(self) -> Any:
        """The tokenizer of the tokenizers library; None where it is none of those."""
        return getattr(self._tokenizer, "backend_tokenizer", None)

    @cached_property
    def _decoder(self) -> Callable[[list[int]], str]:
        from functools import partial

        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        kind = type(self._tokenizer)
        if getattr(kind, "decode", None) is TokenizersBackend.decode and kind._decode is TokenizersBackend._decode:
            # The tokenizer's own decoder is all that runs then, in a fourth of the time.
            return partial(self._tokenizer.backend_tokenizer.decode, skip_special_tokens=True)
        return partial(self._tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _may_name(self, text: str) -> bool:
        return any(start in text for start in self._starts)

    @cached_property
    def _starts(self) -> frozenset[str]:
        """What control tokens begin with: few texts hold any of it, and looking for it is quick."""
        return frozenset(text[:2] for text in self.controls)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(text) for text in sorted(self.controls, key=len, reverse=True)) or r"(?!)")

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As the tokenizer gives them; control tokens may come out of anything."""
        if not texts:
            return []
        with quiet():
            ids: list[list[int]] = self._tokenizer(
                list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        return ids

    def _encode(self, texts: Sequence[Parts]) -> list[list[int]]:
        joined = ["".join(author + user for author, user in parts) for parts in texts]
        ids = self._ids(joined)
        for number, row in enumerate(ids):
            if not self.control_ids.isdisjoint(row) and not self._as_written(row, texts[number], joined[number]):
                ids[number] = self._spell_controls(texts[number])
        return ids

    def _as_written(self, ids: Sequence[int], parts: Parts, joined: str) -> bool:
        """Whether the control tokens in ids are those that the author wrote, and no others."""
        if not any(user for _, user in parts):
            return True
        written = [text for author, _ in parts for text in self._pattern.findall(author)]
        if any(self._pattern.search(user) for _, user in parts) or self._pattern.findall(joined) != written:
            return False
        return self._known_controls(ids) == self._known_controls([self.controls[text] for text in written])

    def _known_controls(self, ids: Sequence[int]) -> list[int]:
        """The control tokens in ids, without the one that stands for what the vocabulary lacks."""
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        return [token for token in ids if token in self.control_ids and token != unknown]

    def _spell_controls(self, parts: Parts) -> list[int]:
        """Ids of a text in which a user names control tokens."""
        if self._marked is not None:
            text = "".join(self._pattern.sub(lambda found: self._mark + found[0], author) + user for author, user in parts)
            ids: list[int] = self._marked.encode(text, add_special_tokens=False).ids
            written = [self.controls[found] for author, _ in parts for found in self._pattern.findall(author)]
            if self._known_controls(ids) == self._known_controls(written):
                return ids
        return self._spell_cut(parts)

    @cached_property
    def _marked(self) -> Any:
        """The tokenizer with a mark before the text of each control token, so that it is met only where the mark is put.
        None where it cannot be made. Made when it is first needed, which takes about a second for a large vocabulary."""
        from tokenizers import Tokenizer

        if self._backend is None:
            return None
        try:
            marked = Tokenizer.from_str(
                json.dumps(mark_controls(json.loads(self._backend.to_str()), self.controls, self._mark))
            )
        except Exception:  # the library raises its bare Exception for what it cannot build
            return None
        right = all(marked.token_to_id(self._mark + text) == number for text, number in self.controls.items())
        return marked if right else None

    def _spell_cut(self, parts: Parts) -> list[int]:
        """The same with any tokenizer: each control token that a user names is cut behind its first character, and the
        pieces are spelled one behind the other."""
        pieces: list[str | int] = [""]
        for author, user in parts:
            start = 0
            for found in self._pattern.finditer(author):
                pieces[-1:] = [f"{pieces[-1]}{author[start : found.start()]}", self.controls[found[0]], ""]
                start = found.end()
            pieces[-1] = f"{pieces[-1]}{author[start:]}{user}"
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, int):
                ids.append(piece)
                continue
            while piece:
                named = self._pattern.search(piece)
                end = named.start() + 1 if named else len(piece)
                (row,) = self._ids([piece[:end]]) if not ids else self._behind([plain(piece[:end])], self._ids_of)
                ids += row
                piece = piece[end:]
        return ids

    def _ids_of(self, texts: Sequence[Parts]) -> list[list[int]]:
        return self._ids(["".join(author + user for author, user in parts) for parts in texts])

    @cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        """Anchors with their ids, those that the vocabulary lacks or folds away left out."""
        rows = zip(ANCHORS, self._ids(ANCHORS), strict=True)
        return [(anchor, ids) for anchor, ids in rows if ids and self.decode(ids).endswith(anchor)]

    def _encode_behind(self, texts: Sequence[Parts]) -> list[list[int]]:
        return self._behind(texts, self._encode)

    def _behind(self, texts: Sequence[Parts], encode: Callable[[Sequence[Parts]], list[list[int]]]) -> list[list[int]]:
        """Ids of texts as they stand behind others: the difference that they make there."""
        if not self.marks_words:
            return encode(texts)
        rows: dict[int, list[int]] = {}
        for anchor, before in self._anchors:
            left = [number for number in range(len(texts)) if number not in rows]
            for number, ids in zip(left, encode([((anchor, ""), *texts[number]) for number in left]), strict=True):
                if ids[: len(before)] == before:
                    rows[number] = ids[len(before) :]
        left = [number for number in range(len(texts)) if number not in rows]
        rows |= zip(left, encode([texts[number] for number in left]), strict=True)
        return [rows[number] for number in range(len(texts))]


def mark_controls(tokenizer: dict[str, Any], controls: dict[str, int], mark: str) -> dict[str, Any]:
    """A tokenizer of the tokenizers library, as JSON, in which the control tokens have a mark before their texts. So its
    model cannot spell them either, as some do that have them among their words."""

    def marked(text: Any) -> Any:
        return mark + text if text in controls else text

    for token in tokenizer["added_tokens"]:
        if token["content"] in controls:
            token |= {"content": mark + token["content"], "normalized": False, "single_word": False}
    model = tokenizer["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {marked(text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[marked(text), score] for text, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = marked(model["unk_token"])
    if "merges" in model:
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if not {left, right, left + right, left + right.removeprefix(prefix)} & controls.keys()
        ]
    return tokenizer | {"post_processor": None, "truncation": None, "padding": None}
