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


def most_logprobs(config: Any) -> int:
    """The most log-probabilities that a request may ask for, of a vLLM that prompts can be served by.

    Args:
        config: vLLM's `ModelConfig`.

    Raises:
        ConfigError: it was started in a way in which they cannot.
    """
    if not config.enable_prompt_embeds:
        raise ConfigError("this vLLM takes no vectors; start it with --enable-prompt-embeds")
    if str(config.logprobs_mode) != "raw_logprobs":
        raise ConfigError(
            f"this vLLM gives {config.logprobs_mode} in the place of log-probabilities; start it without --logprobs-mode"
        )
    if config.max_logprobs < 0:
        return int(config.get_vocab_size())
    return int(config.max_logprobs)
