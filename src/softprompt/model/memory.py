"""Running out of memory: how it is recognised, and a budget of tokens that is halved when it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

R = TypeVar("R")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says that memory ran out."""
    # CUDA has a class for it; the CPU's allocator only has words.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_caches(device: torch.device) -> None:
    """Give back what the allocator of a device keeps for later. To be called once the error is gone, and with it what its
    frames held of the memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def tokens_on(device: torch.device, budgets: Mapping[str, int]) -> int:
    """Of budgets by kind of device the one for a device; any that is no CPU is one that launches, as a GPU does."""
    return budgets.get(device.type, budgets["cuda"])


class TokenBudget:
    """How many tokens run at once, halved for good whenever they turn out to be too many."""

    def __init__(
        self,
        tokens: int,
        device: torch.device,
        warn: Callable[[str], None],
        *,
        refusal: type[Exception],
        advice: str,
        runs: str = "rows",
    ) -> None:
        """
        Args:
            warn: called each time it is halved.
            refusal: the error for a single row that does not fit.
            advice: how its message ends.
            runs: what runs in chunks, for the warning.
        """
        self.tokens = tokens
        self._device = device
        self._warn = warn
        self._refusal, self._advice, self._runs = refusal, advice, runs

    def attempt(self, run: Callable[[], R]) -> R | None:
        """What comes of running something; None where there was no memory for it, which is free again then."""
        try:
            return run()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        free_caches(self._device)
        return None

    def halve(self, size: int, longest: int, *, single: bool) -> None:
        """After a chunk of `size` tokens found no memory: half of that is the budget now, or the `longest` row's length.

        Args:
            single: it was a single row.

        Raises:
            the refusal: it was.
        """
        if single:
            where = f"a single row of {longest} tokens on {self._device}"
            raise self._refusal(f"out of memory with {where}; {self._advice}")
        self.tokens = max(longest, size // 2)
        self._warn(f"out of memory: {self._runs} now run in chunks of {self.tokens} tokens, which is slower")
