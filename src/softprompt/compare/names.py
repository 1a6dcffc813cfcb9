"""The names of the methods, and what each needs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from softprompt.errors import ConfigError, nearest

NAMES = (
    "zero_shot", "few_shot", "ours", "peft_prompt_tuning", "peft_prompt_tuning_ours", "p_tuning", "ia3", "prefix",
    "peft_prefix_tuning", "lora", "adapters", "full",
)  # fmt: skip
"""In the order of their numbers that are trained, about."""

USUAL = ("zero_shot", "few_shot", "ours", "p_tuning", "ia3", "prefix", "lora", "adapters", "full")
"""Those that are compared where none is named: one of each kind."""

WITH_PEFT = {name for name in NAMES if name.startswith("peft_")} | {"p_tuning", "ia3", "lora"}
"""Those that PEFT does."""

RULE = ("ours", "prefix", "lora")
"""The decision rule: the first of these that is good enough."""

RATES = 3
"""Learning rates that are tried of each method that trains, where nobody says how many."""


def check_methods(names: Sequence[str]) -> None:
    """Refuse methods that cannot be done, before anything is loaded.

    Raises:
        ConfigError: there is no such method, none is named, one is named twice, or a package is missing that one needs.
    """
    if not names:
        raise ConfigError(f"no method is named; known: {', '.join(NAMES)}")
    for place, name in enumerate(names):
        if name not in NAMES:
            raise ConfigError(f"there is no method {name[:60]!r}{nearest(name, NAMES)}")
        if name in names[:place]:
            raise ConfigError(f"the method {name!r} is named twice; name it once")
        if name in WITH_PEFT and find_spec("peft") is None:
            raise ConfigError(f"the method {name!r} needs the package peft; pip install 'softprompt[peft]'")
