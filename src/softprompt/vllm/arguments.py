"""What can be said to a vLLM that we start, and what cannot. No torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

from softprompt.bases.options import COMMAND_OPTIONS, BaseOptions
from softprompt.errors import ConfigError

OURS = {"model", "revision", "dtype", "trust_remote_code", "enable_prompt_embeds"}
"""Arguments of vLLM's that are said by options of ours."""


def read_arguments(text: str | None) -> dict[str, Any]:
    """vLLM's own arguments, of `--engine-args`: a JSON object by the names of its `AsyncEngineArgs`.

    Raises:
        ConfigError: it is none, or names what options of ours say.
    """
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--engine-args is no JSON ({error}); give an object such as '{{\"block_size\": 16}}'") from None
    if not isinstance(given, dict):
        raise ConfigError(f"--engine-args is {type(given).__name__}; give an object such as '{{\"block_size\": 16}}'")
    if ours := sorted(OURS & given.keys()):
        raise ConfigError(f"--engine-args names {ours[0]!r}, which is said by an option of this command; leave it out")
    return given


def check_vllm(options: BaseOptions) -> None:
    """Raises `ConfigError` where vLLM is not installed, or options are of the engine in this process alone."""
    if find_spec("vllm") is None:
        raise ConfigError(
            "--engine vllm needs vLLM, which is not installed here; install it in this environment, or leave it out"
        )
    refused = [
        COMMAND_OPTIONS[name].flag
        for name in ("quantization", "adapter", "device", "batch_invariant")
        if getattr(options, name) != getattr(BaseOptions, name)
    ]
    if refused:
        raise ConfigError(
            f"{refused[0]} is for the engine in this process; with --engine vllm say it in --engine-args, as vLLM does"
        )
