"""`softprompt base`: the frozen models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from softprompt.cli.context import Json, emit

app = typer.Typer(help="Frozen base models.", no_args_is_help=True)


@app.command()
def show(
    source: Annotated[str, typer.Argument(metavar="ID", help="builtin/tiny, a hub id or a folder.")] = "builtin/tiny",
    as_json: Json = False,
) -> None:
    """Where a base is, its fingerprint, size, dtype and context."""
    emit([_describe(source)], as_json, source)


@app.command("list")
def list_bases(as_json: Json = False) -> None:
    """The bases that come with softprompt."""
    from softprompt.bases.locate import BUILTIN

    emit(
        [_describe(name) for name in BUILTIN],
        as_json,
        "Built-in bases",
        ("base", "fingerprint", "params", "dtype", "context"),
    )


def _describe(source: str) -> dict[str, Any]:
    from softprompt.bases.base import FrozenBase

    base = FrozenBase.load(source, device="cpu")
    return {
        "base": base.name,
        "path": str(base.path),
        "fingerprint": base.fingerprint,
        "params": base.params,
        "dtype": str(base.dtype).removeprefix("torch."),
        "context": base.context,
        "width": base.width,
        "model_type": base.model.config.model_type,
    }
