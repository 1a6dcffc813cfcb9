"""A continuation as it grows: tokens to text that is certain, stop texts, and where it ends. No torch."""

from __future__ import annotations

from collections.abc import Callable, Set

from softprompt.engines.protocol import Piece, Sampling, TokenProbability

_HALF = "�"
"""What decoders put where bytes are no character, or not yet."""
_LONGEST_HALF = 3
"""Bytes of a character that still lacks one; some decoders mark each of them."""
_WINDOW = 16
"""Tokens that are decoded again with each new one, so that decoders see what came before."""


class TextStream:
    """Text of tokens that arrive one by one. What :meth:`push` gave never changes later: a character whose bytes are spread
    over several tokens comes with the last of them."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._clean = 0
        """Tokens of the window up to the last end of a character before the newest token."""
        self._given = ""
        """What of the window's text was given away."""

    def push(self, token: int) -> str:
        """The text that has become certain."""
        self._window.append(token)
        text = self._decode(self._window)
        certain = _without_half(text)
        whole = len(certain) == len(text)
        if not whole and not certain.startswith(self._given):
            return ""  # decoders of single bytes mark all bytes of a run for as long as its last character lacks one
        new, self._given = certain[len(self._given) :], max(self._given, certain, key=len)
        if whole:
            if len(self._window) > _WINDOW and self._clean:
                del self._window[: self._clean]
                self._given = self._decode(self._window)
            self._clean = len(self._window)
        return new


def _without_half(text: str) -> str:
    end = len(text)
    while end > max(0, len(text) - _LONGEST_HALF) and text[end - 1] == _HALF:
        end -= 1
    return text[:end]


class Continuation:
    """One row's continuation."""

    def __init__(
        self, sampling: Sampling, decode: Callable[[list[int]], str], end_ids: Set[int], room: int | None = None
    ) -> None:
        """
        Args:
            room: tokens that fit the context; None without a limit.
        """
        self._stops = tuple(stop for stop in sampling.stop if stop)
        self._end_ids = end_ids
        self._most = sampling.max_tokens if room is None else min(sampling.max_tokens, room)
        self._stream = TextStream(decode)
        self._held = ""
        self.count = 0
        """Tokens so far, the end token among them."""

    def push(self, token: int, probability: TokenProbability | None = None) -> Piece | None:
        """Take the next token; the piece that it makes certain, if any. A piece with a `finish` is the last."""
        self.count += 1
        finish = None
        if token in self._end_ids:
            finish = "stop"
        else:
            self._held += self._stream.push(token)
            cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=-1)
            if cut >= 0:
                self._held, finish = self._held[:cut], "stop"
            elif self.count >= self._most:
                finish = "length"
        keep = 0 if finish else self._may_begin_stop()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        tokens = (probability,) if probability else ()
        if finish:
            return Piece(text, tokens, finish, self.count)
        return Piece(text, tokens) if text or tokens else None

    def _may_begin_stop(self) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        ends = (length for length in range(longest, 0, -1) if any(s.startswith(self._held[-length:]) for s in self._stops))
        return next(ends, 0)
