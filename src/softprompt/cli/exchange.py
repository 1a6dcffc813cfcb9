"""`softprompt export` and `softprompt import`: prompts out of the library and into it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library


class Format(StrEnum):
    """Shape of an exported prompt."""

    PEFT = "peft"
    SOFTPROMPT = "softprompt"


def export_prompt(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="The prompt, as TASK, TASK@N or TASK@ALIAS.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    form: Annotated[Format, typer.Option("--format", help="A PEFT folder, or our one file.")] = Format.PEFT,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Write a prompt to a folder, for PEFT or for another library."""


def import_prompt(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT folder, or a softprompt file.")],
    task: Annotated[str | None, typer.Option(help="Name of the task it becomes a version of.")] = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Take a prompt into the library as a new version of a task."""
    emit([], as_json, "Imported")
    open_library(home, registry, store, tenant)
