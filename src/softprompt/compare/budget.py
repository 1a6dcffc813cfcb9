"""The budget of a comparison: how many steps each method gets, or how long, and how many rates are tried. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from softprompt.compare.names import RATES
from softprompt.errors import ConfigError

APART = 10**0.5
"""One rate that is tried over the next lower one."""


@dataclass(frozen=True)
class Budget:
    """What each method may spend that trains."""

    max_steps: int | None = None
    """Steps; by default as many as the task says."""
    max_seconds: float | None = None
    """Instead of steps, seconds of its training by the clock, the search not counted."""
    rates: int = RATES
    """Learning rates that are tried; 1 for the usual one, without a search."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_seconds is not None:
            raise ConfigError(f"max_steps {self.max_steps} and max_seconds {self.max_seconds:g} are two budgets; give one")
        if self.max_seconds is not None and not 0 < self.max_seconds < 1e9:
            raise ConfigError(f"max_seconds {self.max_seconds} is no time; give a number of seconds above 0")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps {self.max_steps} are none; give one at least")
        if not 1 <= self.rates <= 9:
            raise ConfigError(f"{self.rates} learning rates cannot be tried; give 1 (no search) to 9")

    @property
    def factors(self) -> list[float]:
        """Of a method's usual rate, from the lowest; of an even number one more of the higher ones."""
        below = (self.rates - 1) // 2
        return [float(f"{APART ** (place - below):.3g}") for place in range(self.rates)]
