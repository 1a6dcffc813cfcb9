"""Which prompts' vectors vLLM's workers hold: given to them once, before the first request that wants them, and let go when
others need the room. All of it is called on the event loop that vLLM's client runs on.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import Vectors
from softprompt.errors import ConfigError

EXTENSION = "softprompt.vllm.worker.PromptHolder"
"""What `--worker-extension-cls` is to be."""
ROOM = "SOFTPROMPT_HELD_MB"
"""Of the environment: megabytes of vectors in each worker; 0 holds none."""
USUAL_MB = 256


@dataclass
class _Held:
    """A prompt in the workers, or on its way there."""

    size: int
    """Bytes."""
    given: asyncio.Task[Any]
    users: int = 0
    """Requests under way."""


class HeldPrompts:
    """What the workers of one vLLM hold for one server. A prompt is let go only when no request under way wants it, and vLLM
    takes what one client sends in order: a worker that has not what it is asked for there is none."""

    def __init__(self, client: Any, base: FrozenBase, room: int) -> None:
        """
        Args:
            client: vLLM's `EngineClient`.
            base: of what it runs.
            room: bytes of vectors that workers may hold.
        """
        self._client, self._base, self._room = client, base, room
        self._server = f"softprompt-{secrets.token_hex(16)}"
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def __len__(self) -> int:
        """Prompts that are held."""
        return len(self._held)

    async def begin(self) -> None:
        """Have the workers look for requests of ours; raises what vLLM raises where they cannot."""
        await self._client.collective_rpc("softprompt_begin", args=(self._server,))

    @asynccontextmanager
    async def holding(self, prompt: Vectors) -> AsyncGenerator[dict[str, str] | None]:
        """Until the block ends, workers hold a prompt.

        Yields:
            What a request says to get its vectors (`extra_args`); None where there is no room for them now.
        """
        entry = self._held.get(prompt.digest) or self._enter(prompt)
        if entry is None:
            yield None
            return
        entry.users += 1
        self._held.move_to_end(prompt.digest)
        try:
            await asyncio.shield(entry.given)
            yield {self._server: prompt.digest}
        finally:
            entry.users -= 1

    def _enter(self, prompt: Vectors) -> _Held | None:
        """Give the workers a prompt, in the place of those not wanted for longest; None where that makes no room."""
        rows_PD = prompt.on(self._base).contiguous()
        size = rows_PD.numel() * rows_PD.element_size()
        left = self._room - sum(entry.size for entry in self._held.values())
        drop = []
        for digest, entry in self._held.items():
            if left >= size:
                break
            if not entry.users and entry.given.done():
                drop.append(digest)
                left += entry.size
        if left < size:
            return None
        for digest in drop:
            del self._held[digest]
        numbers = rows_PD.view(torch.uint8).numpy().tobytes()
        dtype = str(rows_PD.dtype).removeprefix("torch.")
        given = asyncio.ensure_future(
            self._client.collective_rpc(
                "softprompt_hold", args=(self._server, prompt.digest, numbers, len(rows_PD), dtype, drop)
            )
        )
        given.add_done_callback(lambda done: self._forget_failed(prompt.digest, done))
        self._held[prompt.digest] = entry = _Held(size, given)
        return entry

    def _forget_failed(self, digest: str, done: asyncio.Future[Any]) -> None:
        """A prompt that workers did not take is given to them anew by the next request."""
        if (done.cancelled() or done.exception() is not None) and digest in self._held and self._held[digest].given is done:
            del self._held[digest]


def room_for_prompts() -> int:
    """Bytes that the environment allows workers to hold.

    Raises:
        ConfigError: it says no number of megabytes.
    """
    text = os.environ.get(ROOM) or str(USUAL_MB)
    try:
        found = float(text)
        if not 0 <= found < 1e9:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{ROOM} is {text!r}; give megabytes of vectors that each worker may hold, or 0 for none"
        ) from None
    return int(found * 1e6)
