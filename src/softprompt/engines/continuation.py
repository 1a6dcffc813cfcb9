"""A continuation as it grows: tokens to text that is certain, stop texts, and where it ends. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Protocol

from softprompt.engines.protocol import Piece, Sampling, TokenProbability

_HALF = "�"
"""What decoders put where bytes are no character, or not yet."""
_LONGEST_HALF = 3
"""Bytes of a character that still lacks one; some decoders mark each of them."""
_WINDOW = 16
"""Tokens that are decoded again with each new one, so that decoders see what came before."""


class Reading(Protocol):
    """How tokens become text; a base's spelling is one."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Text of token ids, control tokens left out."""

    @property
    def byte_ids(self) -> Set[int]:
        """Tokens of single bytes, of which a run is decoded as a whole: a byte that fits nothing spoils all of it."""

    @property
    def names(self) -> Mapping[int, str]:
        """Texts of the control tokens."""


class TextStream:
    """Text of tokens that arrive one by one, as the difference that they make to the text before them. What :meth:`push`
    gave never changes later: a character whose bytes are spread over several tokens comes with the last of them, and a run
    of single bytes with the token behind it. All that was given and :attr:`rest` are what the decoder makes of all tokens.
    """

    def __init__(self, reading: Reading, before: Sequence[int] = ()) -> None:
        """`before` are the tokens that stand before the text."""
        self._decode, self._bytes, self._silent = reading.decode, reading.byte_ids, reading.names
        self._text: str | None = ""
        """The window's text, where it is known."""
        self._window: list[int] = []
        if before:
            self._window, self._text = self._end_of(before)
        self._clean = 0
        """Tokens of the window up to the last end of a character before the newest token."""
        self._given = _without_half(self._text or "")
        """What of the window's text was given away."""

    def push(self, token: int) -> str:
        """The text that has become certain."""
        if token in self._silent:
            return ""
        self._window.append(token)
        if token in self._bytes:
            self._text = None
            return ""
        self._text = text = self._decode(self._window)
        certain = _without_half(text)
        new, self._given = certain[len(self._given) :], max(self._given, certain, key=len)
        if len(certain) == len(text):
            if len(self._window) > _WINDOW and self._clean:
                del self._window[: self._clean]
                self._text = self._given = self._decode(self._window)
            self._clean = len(self._window)
        return new

    @property
    def rest(self) -> str:
        """The text that is not certain yet: it is this if nothing more comes."""
        if self._text is None:
            self._text = self._decode(self._window)
        return self._text[len(self._given) :]

    def rest_with(self, *tokens: int) -> str:
        """What it would be if these tokens came."""
        return self._decode([*self._window, *tokens])[len(self._given) :]

    def _end_of(self, before: Sequence[int]) -> tuple[list[int], str | None]:
        """The end of some tokens, from the beginning of a character on, and its text; without those that are no text."""
        spoken = [token for token in before if token not in self._silent]
        for length in range(_WINDOW, _WINDOW + _LONGEST_HALF + 1):
            window = spoken[-length:]
            text = self._decode(window)
            if _HALF not in text:
                return window, text
        return spoken, self._decode(spoken)


def text_behind(reading: Reading, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens as they stand behind others: what a stream gives of them in all."""
    return TextStream(reading, before).rest_with(*ids)


def _without_half(text: str) -> str:
    end = len(text)
    while end > max(0, len(text) - _LONGEST_HALF) and text[end - 1] == _HALF:
        end -= 1
    return text[:end]


class Continuation:
    """One row's continuation."""

    def __init__(
        self,
        sampling: Sampling,
        reading: Reading,
        end_ids: Set[int],
        room: int | None = None,
        before: Sequence[int] = (),
    ) -> None:
        """
        Args:
            room: tokens that fit the context; None without a limit.
            before: token ids of the input.
        """
        self._stops = tuple(stop for stop in sampling.stop if stop)
        self._names = reading.names
        named = {token for token, text in reading.names.items() if text in self._stops} if self._stops else set()
        self._end_ids = end_ids | named if named else end_ids
        self._most = sampling.max_tokens if room is None else min(sampling.max_tokens, room)
        self._looks_ahead = bool(self._stops) or sampling.logprobs is not None
        self._stream = TextStream(reading, before)
        self._held = ""
        """Text that is certain, and may begin a stop text."""
        self._rest = ""
        """Text behind it that is not certain yet."""
        self._given = 0
        """Characters given away."""
        self._tokens: list[tuple[TokenProbability, int]] = []
        """Those whose text was not all given away yet, and where it begins, in characters from the first."""
        self.count = 0
        """Tokens so far, the end token among them."""

    def push(self, token: int, probability: TokenProbability | None = None, *, over: bool = False) -> Piece | None:
        """Take the next token; the piece that it makes certain, if any. A piece with a `finish` is the last. `over`: nothing
        may stand behind this token."""
        self.count += 1
        if probability is not None and probability.top:  # before the token comes, in whose place they stand
            top = tuple((other, self._name(other), value) for other, _, value in probability.top)
            probability = replace(probability, top=top)
        if token in self._end_ids:
            return self._last("stop", self._held + self._stream.rest, probability)
        certain = len(self._held)
        start = certain + len(self._rest)
        new = self._stream.push(token)
        rest = self._stream.rest if self._looks_ahead else ""
        half = _without_half(rest) != rest
        if half:  # while a character lacks bytes, a decoder may mark the whole run before it, too
            rest = "" if new else self._rest
        if not (new + rest).startswith(self._rest):  # a run of bytes is spoilt: what it was is the text of its last token
            start = certain
            self._tokens = [(other, min(place, self._given + start)) for other, place in self._tokens]
        self._held, self._rest = self._held + new, rest
        if probability is not None:
            self._tokens.append((probability, self._given + start))
        so_far = self._held + rest
        cut = min((at for stop in self._stops if (at := so_far.find(stop)) >= 0), default=-1)
        if cut >= 0:
            return self._last("stop", so_far[:cut])
        if over or self.count >= self._most:
            return self._last("stop" if over else "length", self._held + self._stream.rest)
        length = len(self._held) - self._may_begin_stop()
        tokens = self._take_tokens(so_far + _HALF * half, length)
        if self._tokens:  # a token and its text come together
            length = min(length, self._tokens[0][1] - self._given)
        text, self._held = self._held[:length], self._held[length:]
        self._given += length
        return Piece(text, tokens) if text or tokens else None

    def _last(self, finish: str, text: str, end: TokenProbability | None = None) -> Piece:
        """The last piece: the text that is left, the tokens with as much of it as is theirs, and a token that ends it."""
        cut = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))
        tokens = self._take_tokens(text[:cut], cut, everything=True)
        return Piece(text[:cut], tokens if end is None else (*tokens, replace(end, text="")), finish, self.count)

    def _take_tokens(self, text: str, length: int, *, everything: bool = False) -> tuple[TokenProbability, ...]:
        """Take the tokens that end within so many characters of the text that was not given yet, each with its part."""
        starts = [min(place - self._given, len(text)) for _, place in self._tokens] + [len(text)]
        count = sum(end <= length for end in starts[1:]) if not everything else len(self._tokens)
        taken, self._tokens = self._tokens[:count], self._tokens[count:]
        return tuple(replace(token, text=text[max(0, starts[at]) : starts[at + 1]]) for at, (token, _) in enumerate(taken))

    def _name(self, token: int) -> str:
        """The text that a token would add in this place; a control token's own."""
        if token in self._names:
            return self._names[token]
        text = self._stream.rest_with(token)
        return text[len(self._rest) :] if text.startswith(self._rest) else text

    def _may_begin_stop(self) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        ends = (length for length in range(longest, 0, -1) if any(s.startswith(self._held[-length:]) for s in self._stops))
        return next(ends, 0)
