"""What the live service answers with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from softprompt.engines.protocol import Deliver, Piece, Result, Ticket, TokenProbability
from softprompt.errors import EngineError
from softprompt.serving.monitor import Watch


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: str
    """`system`, `developer`, `user`, `assistant`, ..."""
    content: str


@dataclass(frozen=True)
class Routed:
    """What `auto` chose."""

    task: str
    score: float
    """Nearness of input and task: 0 is as near as the task's own training inputs are on average, less is further away."""

    def row(self) -> dict[str, str | float]:
        """As an answer shows it."""
        return {"task": self.task, "score": round(self.score, 4)}


@dataclass(frozen=True)
class Head:
    """What is known of an answer before its first piece."""

    model: str
    """What answers: `task@3`, or the base's name."""
    task: str | None
    """None for the base alone."""
    version: int | None
    system_fingerprint: str
    virtual_tokens: int
    input_tokens: int
    """Tokens of the input, those of the prompt not counted."""
    routed: Routed | None = None
    """With `auto`."""


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    head: Head
    text: str
    tokens: tuple[TokenProbability, ...]
    """Where they were asked for."""
    finish: str
    """`stop` or `length`."""
    output_tokens: int


@dataclass(frozen=True)
class Choice:
    """The answer to one input of a classification."""

    label: str
    scores: dict[str, float]
    """Probability of each label."""
    truncated: bool
    """Whether the input was cut to fit the context."""


@dataclass(frozen=True)
class Classified:
    """The answers to the inputs of a classification, in order."""

    head: Head
    """Its `input_tokens` are those of all inputs, templates among them."""
    rows: tuple[Choice, ...]

    @property
    def truncated(self) -> int:
        """How many inputs were cut to fit the context."""
        return sum(row.truncated for row in self.rows)


@dataclass(frozen=True)
class ModelRow:
    """A model that clients may name."""

    id: str
    """A task's name, or the base's; for `AsyncService.model` the name that was asked for."""
    task: str | None
    """None for the base."""
    version: int | None
    """The version that `id` means; None for the base, and where it is one of another base, so that `id` alone is refused."""
    versions: tuple[int, ...]
    """Versions on this base, each called `task@N`."""
    aliases: dict[str, int]
    """Aliases of versions on this base, each called `task@alias`."""
    created: int
    """Unix seconds: when the version was published; 0 for the base."""
    system_fingerprint: str


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
        try:
            got = await self._arrived.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if not isinstance(got, Piece):
            self._over = True
            error = got if isinstance(got, EngineError) else EngineError(f"the engine answered with {type(got).__name__}")
            self._watch.failed(error)
            raise error
        self._watch.told()
        if got.finish is not None:
            self._over = True
            self._watch.done(got.count)
        return got if self._strip is None else self._strip(got)

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
        raise EngineError("the answer ended before its last piece")


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
