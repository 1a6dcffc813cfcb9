"""What every command shares: where the library is, and how rows come out.

The options `--home --registry --store --tenant` stand before or after the name of a command; after wins. The environment
(`SOFTPROMPT_HOME` ...) is read once, at the front, so that an option anywhere wins over it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from softprompt.library.library import Library

_HOME = "Folder of the library (env SOFTPROMPT_HOME; default ./softprompt-home)."
_REGISTRY = "URL of the registry's database (env SOFTPROMPT_REGISTRY; default SQLite in the home)."
_STORE = "URL of the blob store (env SOFTPROMPT_STORE; default a folder in the home)."
_TENANT = "Whose prompts (env SOFTPROMPT_TENANT; default 'default')."

Home = Annotated[Path | None, typer.Option("--home", help=_HOME, show_default=False)]
RegistryUrl = Annotated[str | None, typer.Option("--registry", help=_REGISTRY, show_default=False)]
StoreUrl = Annotated[str | None, typer.Option("--store", help=_STORE, show_default=False)]
Tenant = Annotated[str | None, typer.Option("--tenant", help=_TENANT, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines for machines.")]

FrontHome = Annotated[
    Path | None,
    typer.Option("--home", envvar="SOFTPROMPT_HOME", show_envvar=False, help=_HOME, show_default=False),
]
FrontRegistry = Annotated[
    str | None,
    typer.Option("--registry", envvar="SOFTPROMPT_REGISTRY", show_envvar=False, help=_REGISTRY, show_default=False),
]
FrontStore = Annotated[
    str | None,
    typer.Option("--store", envvar="SOFTPROMPT_STORE", show_envvar=False, help=_STORE, show_default=False),
]
FrontTenant = Annotated[
    str | None,
    typer.Option("--tenant", envvar="SOFTPROMPT_TENANT", show_envvar=False, help=_TENANT, show_default=False),
]


@dataclass(frozen=True, kw_only=True)
class Front:
    """The options given before the command's name, or in the environment."""

    home: Path | None = None
    registry: str | None = None
    store: str | None = None
    tenant: str | None = None


_front: ContextVar[Front] = ContextVar("_front")


def set_front(front: Front) -> None:
    """Keep the options that stood before the command."""
    _front.set(front)


def locate(home: Path | None, registry: str | None, store: str | None, tenant: str | None) -> Front:
    """Options of the command over those before it."""
    front = _front.get(Front())
    return Front(
        home=home or front.home,
        registry=registry or front.registry,
        store=store or front.store,
        tenant=tenant or front.tenant,
    )


def open_library(
    home: Path | None = None, registry: str | None = None, store: str | None = None, tenant: str | None = None
) -> Library:
    """The library that this command works on.

    Raises:
        LibraryError: it cannot be opened.
    """
    from softprompt.library.library import Library

    at = locate(home, registry, store, tenant)
    return Library.open(at.home, registry=at.registry, store=at.store, tenant=at.tenant or "default")


def stderr() -> Console:
    """Console for progress and warnings; stdout is for rows alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def warn(message: str) -> None:
    """One line of warning on stderr."""
    sys.stderr.write(f"warning: {printable(message)}\n")


def emit(
    rows: Iterable[Mapping[str, Any]],
    as_json: bool,
    title: str,
    columns: Sequence[str] | None = None,
) -> None:
    """Print rows: compact JSON Lines for machines, each as soon as it is known, or a table for people.

    The table shows `columns` (default: those of the first row) and shortens digests; JSON always has the whole row.
    """
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(_plain(row), separators=(",", ":"), default=str, allow_nan=False) + "\n")
            sys.stdout.flush()
        return
    _emit_table(list(rows), title, columns)


def printable(text: str) -> str:
    """Text without control characters: a name or an error from elsewhere must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _emit_table(rows: Sequence[Mapping[str, Any]], title: str, columns: Sequence[str] | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not rows:
        console.print(Text(f"{title}: nothing here"))
        return
    console.print(Text(title, style="italic"))  # not the table's own title, which wraps at the width of the table
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in columns or rows[0] if any(_cell(name, row.get(name)) for row in rows)]
    width = sum(1 + max(len(name), len(_cell(name, rows[0].get(name)))) for name in names)
    if len(rows) == 1 and (len(names) > _WIDEST or width > console.width):  # one long row reads better downwards
        table.show_header = False
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name in names:
            table.add_row(Text(name), Text(printable(str(_cell(name, rows[0][name], whole=True)))))
        console.print(table)
        return
    for name in names:
        number = all(isinstance(row.get(name), int | float | None) for row in rows)
        whole = number or name in (*_SHORT, *_TIMES, *_COPIED)
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(printable(_cell(name, row.get(name)))) for name in names))
    console.print(table)


_SHORT = ("digest", "fingerprint")
_TIMES = ("at", "created_at")
_COPIED = ("secret", "job")
"""What people copy from the screen; over two lines they could not."""
_WIDEST = 7
"""Columns that a table of one row may have."""


def _cell(name: str, value: Any, *, whole: bool = False) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(key, item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_cell(name, item) for item in value)
    text = str(value)
    if name in _TIMES:
        return text[:16].replace("T", " ")  # to the minute; JSON has it all
    return text[:12] if name in _SHORT and len(text) > 16 and not whole else text


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
