"""The parts of vLLM that prompts are served by, and what is said where a version of it has them not."""

from __future__ import annotations

from typing import Any

from softprompt.errors import ConfigError, reason_of

_VERSIONS = "take one of the versions that docs/vllm.md names"


def version() -> str:
    """Of the vLLM that is here, in words."""
    try:
        from vllm import __version__
    except Exception:
        return "this vLLM"
    return f"vLLM {__version__}"


def part(whole: Any, name: str) -> Any:
    """A part of vLLM by its name.

    Raises:
        ConfigError: this version has none.
    """
    if not hasattr(whole, name):
        kind = whole if isinstance(whole, type) else type(whole)
        raise ConfigError(f"{version()} has no {kind.__name__}.{name}, by which prompts are served; {_VERSIONS}")
    return getattr(whole, name)


def unlike(error: Exception) -> ConfigError:
    """The refusal of a vLLM that is not as it is called here: a part is not there, or takes other arguments."""
    return ConfigError(
        f"{version()} cannot be called as serving prompts asks for ({type(error).__name__}: {reason_of(error)}); {_VERSIONS}"
    )
