"""`softprompt keys`: API keys of a tenant."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library, stderr

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

KEY_COLUMNS = ("id", "name", "scopes", "hint", "created_at", "actor", "revoked")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; unique among the tenant's live keys.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, predict, train or admin; may be repeated.")
    ] = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Create a key (default scopes: read, predict). Its secret is shown now and never again."""
    library = open_library(home, registry, store, tenant)
    made = library.registry.keys.create(name, scope or ("read", "predict"))
    emit([{**made.key.row(), "secret": made.secret}], as_json, "Key", ("id", "name", "scopes", "secret"))
    if not as_json:
        stderr().print("Keep the secret now: only its hash is stored.")


@app.command("list")
def list_keys(
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """List the tenant's keys, revoked ones too; never their secrets."""
    library = open_library(home, registry, store, tenant)
    rows = (key.row() for key in library.registry.keys.list())
    emit(rows, as_json, f"Keys of tenant {library.tenant}", KEY_COLUMNS)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Name of a live key, or the id of any.")],
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Revoke a key at once and for good."""
    revoked = open_library(home, registry, store, tenant).registry.keys.revoke(key)
    emit([revoked.row()], as_json, "Revoked", KEY_COLUMNS)
