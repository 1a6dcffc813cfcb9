"""`softprompt bundle` and `softprompt unbundle`: prompts of several tasks in one signed archive, for devices at the edge."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, adapter_options, library_options
from softprompt.cli.output import emit, warn


class Stored(StrEnum):
    """How vectors are stored."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


@library_options
def bundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    refs: Annotated[list[str], typer.Argument(metavar="TASK", help="Prompts, as TASK, TASK@N or TASK@ALIAS.")],
    key: Annotated[Path | None, typer.Option(help="PEM file of the private key (Ed25519) that signs it.")] = None,
    since: Annotated[Path | None, typer.Option(help="An older bundle: only what changed since is written.")] = None,
    dtype: Annotated[
        Stored | None,
        typer.Option(help="How vectors are stored: float32, bfloat16, float16, int8 (default: as they are)."),
    ] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Write prompts of several tasks on one base to one archive, which is read without torch."""
    from softprompt.exchange.bundle import bundle as write

    done = write(where.open(), refs, file, key=key, since=since, dtype=dtype.value if dtype is not None else None)
    emit([done.row()], as_json, "Bundled")
    if done.signer is None:
        warn("the bundle is not signed; sign it with --key FILE")


@library_options
@adapter_options
def unbundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="PEM file of the public key (Ed25519) that must have signed it.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--base", help="The base of its prompts (default: as the library knows it, or it says).")
    ] = None,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Take the prompts of a bundle into the library, each as a new version of its task: all or none."""
    from dataclasses import replace

    from softprompt.exchange.bundle import unbundle as take

    rows = take(where.to_fill(), file, key=key, base=replace(base, source=named), tags=tags or (), warn=warn)
    emit([row.row() for row in rows], as_json, f"Unbundled from {file.name}")
