"""`softprompt keys`: API keys of a tenant."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, stderr

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

KEY_COLUMNS = ("id", "name", "scopes", "users", "hint", "created_at", "actor", "revoked")


@app.command()
@library_options
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; unique among the tenant's live keys.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, predict, train or admin; may be repeated.")
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(help="A user whose personal versions it may ask for; may be repeated. By default any."),
    ] = None,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Create a key (default scopes: read, predict). Its secret is shown now and never again."""
    library = where.open(make=True)
    made = library.registry.keys.create(name, scope or ("read", "predict"), user or None)
    emit([{**made.key.row(), "secret": made.secret}], as_json, "Key", ("id", "name", "scopes", "secret"))
    if not as_json:
        stderr().print("Keep the secret now: only its hash is stored.")


@app.command("list")
@library_options
def list_keys(*, where: Location, as_json: Json = False) -> None:
    """List the tenant's keys, revoked ones too; never their secrets."""
    library = where.open()
    rows = (key.row() for key in library.registry.keys.list())
    emit(rows, as_json, f"Keys of tenant {library.tenant}", KEY_COLUMNS)


@app.command()
@library_options
def revoke(
    key: Annotated[str, typer.Argument(help="Name of a live key, or the id of any.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Revoke a key at once and for good."""
    revoked = where.open().registry.keys.revoke(key)
    emit([revoked.row()], as_json, "Revoked", KEY_COLUMNS)
