"""What `softprompt serve` and `softprompt deploy` have in common: options, each written once, and which base is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.output import warn
from softprompt.errors import BaseModelError

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.serving.which_base import Wishes

MOST_PROMPTS = 10_000
"""Prompts held in memory where nobody says."""


def limit(text: str, *, endless: bool = False, said: bool = False) -> Any:
    """An option that bounds something."""
    if endless:
        text += " Unlimited unless given."
    return typer.Option(min=1, help=text, show_default=not (endless or said), rich_help_panel="Limits")


Host = Annotated[str, typer.Option(help="Address to serve on. Others than this machine's own need API keys to exist.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base to serve: an id, an id@revision, a folder or a GGUF file; by default the one most tasks are made for.",
        show_default=False,
    ),
]
RequireKeys = Annotated[bool, typer.Option("--require-keys", help="Ask for an API key also while the registry has none.")]
EngineRows = Annotated[int, limit("Rows that generate at the same time in an engine.")]
EngineQueue = Annotated[int, limit("Most rows that wait for an engine, and so in one request.")]
MaxTokens = Annotated[int, limit("Most tokens that one answer may be asked to have.")]
MaxRows = Annotated[int, limit("Most inputs in one request.")]
MaxBodyKb = Annotated[int, limit("Longest request, uploads apart.")]
Grace = Annotated[
    float, typer.Option(min=1, max=86400, help="Seconds that running requests may go on when a server is told to end.")
]
LogLevel = Annotated[str, typer.Option(help="error, warning, info (a line for each request) or debug.")]


def choose(library: Library) -> str:
    """The base that most tasks are made for; warns of what is not served then. Raises `BaseModelError` where it is gone."""
    from softprompt.bases.files.locate import is_gone, kind_of
    from softprompt.library.binding import MOVED
    from softprompt.serving.which_base import choose_base

    base, warning = choose_base(library)
    if is_gone(base):
        raise BaseModelError(
            f"most tasks are made for the base {base!r}, and there is no such {kind_of(base)} any more; {MOVED}"
        )
    if warning is not None:
        warn(warning)
    return base


def wished_device(wishes: Wishes) -> str | None:
    """The device that the task files name, where this machine has it."""
    if wishes.device is None:
        return None
    from softprompt.bases.devices import device_of

    try:
        device_of(wishes.device)
    except BaseModelError as error:
        warn(f"serving.base_model_device: {error}, or choose with --device; the usual one is taken")
        return None
    return wishes.device
