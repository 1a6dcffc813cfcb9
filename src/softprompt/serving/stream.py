"""Answers that come in pieces, from an engine's thread to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from softprompt.engines.protocol import Deliver, Piece, Result, Ticket, TokenProbability
from softprompt.errors import EngineError
from softprompt.serving.answers import Completion, Head
from softprompt.serving.monitor import Watch


class Stream(AsyncIterator[Piece]):
    """Pieces of an answer as they come. Close it (`async with`, or `aclose`) when done: what still runs is given up then."""

    def __init__(self, head: Head, watch: Watch, *, strip: bool = False) -> None:
        """Wait for pieces; `strip` leaves out white space around the whole text."""
        self.head = head
        self._watch = watch
        self._strip = _Strip() if strip else None
        self._arrived: asyncio.Queue[Result] = asyncio.Queue()
        self._ticket: Ticket | None = None
        self._over = False
        self._said: list[str] = []
        self.echo: Piece | None = None
        """What comes before the answer and is none of it: the prompt, where it was asked back."""
        self.whole_text: Callable[[str], object] | None = None
        """Told the text once all of it has come."""
        self.deliver: Deliver = deliver_to(asyncio.get_running_loop(), self._arrived.put_nowait)
        """Takes pieces from any thread."""

    def runs(self, ticket: Ticket) -> Stream:
        """Pieces come from this job."""
        self._ticket = ticket
        return self

    async def __anext__(self) -> Piece:
        """The next piece; the last has a `finish`.

        Raises:
            EngineError: the engine failed.
        """
        if self._over:
            raise StopAsyncIteration
        if self.echo is not None:
            echo, self.echo = self.echo, None
            return echo
        try:
            result = await self._arrived.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if not isinstance(result, Piece):
            self._over = True
            error = unexpected(result, "a generation")
            self._watch.failed(error)
            raise error
        self._watch.first_token()
        self._watch.wrote(result.text)
        if result.finish is not None:
            self._over = True
            self._watch.done(result.count)
        piece = result if self._strip is None else self._strip(result)
        if self.whole_text is not None:
            self._said.append(piece.text)
            if self._over:
                self.whole_text("".join(self._said))
        return piece

    async def aclose(self) -> None:
        """Give up what still runs. Harmless when all has come."""
        if not self._over:
            self._over = True
            self._watch.failed()
            if self._ticket is not None:
                self._ticket.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def whole(self) -> Completion:
        """All pieces joined. Gives up what runs when it is cancelled.

        Raises:
            EngineError: the engine failed.
        """
        text: list[str] = []
        tokens: list[TokenProbability] = []
        async with self:
            async for piece in self:
                text.append(piece.text)
                tokens += piece.tokens
                if piece.finish is not None:
                    return Completion(self.head, "".join(text), tuple(tokens), piece.finish, piece.count)
        raise EngineError("the answer ended before its last piece; try again")


class _Strip:
    """Leaves out white space at the ends of a text that comes in pieces: what may be its end is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def __call__(self, piece: Piece) -> Piece:
        text = self._held + piece.text
        if not self._begun:
            text = text.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return Piece(kept, piece.tokens, piece.finish, piece.count)


def deliver_to(loop: asyncio.AbstractEventLoop, take: Deliver) -> Deliver:
    """What hands results from any thread to `take` on an event loop; results for a loop that is closed are dropped."""

    def deliver(result: Result) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(take, result)

    return deliver


def unexpected(result: Result, job: str) -> EngineError:
    """The error for a result that ends a job of this kind and is none of its answers: the engine's own, where it is one."""
    if isinstance(result, EngineError):
        return result
    return EngineError(f"the engine answered {job} with {type(result).__name__}; try again")
