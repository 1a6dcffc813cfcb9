"""API keys: secrets shown once and stored as hashes, each with a tenant and scopes.

A secret holds 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess, and a slow hash would only
slow down every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from softprompt.errors import Denied, NameRefused, NotFound, nearest
from softprompt.names import LONGEST_NUMBER, check_key_name
from softprompt.registry.tables import keys as table

SCOPES = ("read", "predict", "train", "admin")
"""What a key may be allowed: see the library, use prompts, make versions, everything."""

PREFIX = "sp-"
"""Begins every secret, so that scanners of leaked secrets can know one."""


@dataclass(frozen=True)
class Key:
    """An API key, without its secret."""

    id: int
    tenant: str
    name: str
    scopes: frozenset[str]
    hint: str
    created_at: str
    actor: str
    revoked: bool

    def allows(self, scope: str) -> bool:
        """Whether the key has the scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """Do nothing if the key has the scope.

        Raises:
            Denied: it lacks it.
        """
        if not self.allows(scope):
            raise Denied(f"key {self.name!r} lacks the scope {scope!r} (it has {', '.join(sorted(self.scopes))})")

    def row(self) -> dict[str, Any]:
        """The key as a row for people and machines."""
        return {
            "id": self.id,
            "name": self.name,
            "tenant": self.tenant,
            "scopes": sorted(self.scopes, key=SCOPES.index),
            "hint": self.hint,
            "created_at": self.created_at,
            "actor": self.actor,
            "revoked": self.revoked,
        }


def create(
    connection: Connection, *, tenant: str, name: str, scopes: Iterable[str], actor: str, now: str
) -> tuple[str, Key]:
    """Add a key; return its secret, which is known to nobody from now on, and the key.

    Raises:
        NameRefused: not a name, an unknown scope, or a live key has this name.
    """
    check_key_name(name)
    wanted = set(scopes)
    for scope in sorted(wanted - set(SCOPES)):
        raise NameRefused(f"scope {scope!r} is refused{nearest(scope, SCOPES)}")
    if not wanted:
        raise NameRefused(f"a key needs a scope; known: {', '.join(SCOPES)}")
    same = sa.select(table.c.id).where(table.c.tenant == tenant, table.c.name == name, ~table.c.revoked)
    if connection.execute(same).first():
        raise NameRefused(f"tenant {tenant!r} has a live key {name!r}; revoke it first or take another name")
    secret = PREFIX + secrets.token_urlsafe(32)
    values = {
        "tenant": tenant,
        "name": name,
        "hash": _hash(secret),
        "hint": secret[: len(PREFIX) + 4],
        "scopes": ",".join(scope for scope in SCOPES if scope in wanted),
        "actor": actor,
        "created_at": now,
    }
    row = connection.execute(sa.insert(table).values(values).returning(*table.c)).mappings().one()
    return secret, _key(row)


def every(connection: Connection, tenant: str) -> list[Key]:
    """All keys of a tenant, oldest first, revoked ones too."""
    rows = connection.execute(sa.select(table).where(table.c.tenant == tenant).order_by(table.c.id)).mappings()
    return [_key(row) for row in rows]


def revoke(connection: Connection, *, tenant: str, name_or_id: str) -> Key:
    """Revoke a live key by name, or any key of the tenant by id; a revoked one stays revoked.

    Raises:
        NotFound: the tenant has no such key.
    """
    which = sa.and_(table.c.name == name_or_id, ~table.c.revoked)
    if name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) <= LONGEST_NUMBER:
        which = table.c.id == int(name_or_id)
    statement = sa.update(table).where(table.c.tenant == tenant, which).values(revoked=True).returning(*table.c)
    row = connection.execute(statement).mappings().first()
    if row is None:
        live = [key.name for key in every(connection, tenant) if not key.revoked]
        raise NotFound(f"tenant {tenant!r} has no live key {name_or_id!r}{nearest(name_or_id, live)}")
    return _key(row)


def any_live(connection: Connection) -> bool:
    """Whether any tenant has a key that is not revoked."""
    return connection.execute(sa.select(table.c.id).where(~table.c.revoked).limit(1)).first() is not None


def authenticate(connection: Connection, secret: str) -> Key:
    """The live key whose secret this is, of whatever tenant.

    Raises:
        Denied: there is none, or it is revoked.
    """
    hashed = _hash(secret)
    row = connection.execute(sa.select(table).where(table.c.hash == hashed)).mappings().first()
    if row is None or not hmac.compare_digest(row["hash"], hashed):
        raise Denied("this API key is not known; ask for one (`softprompt keys create NAME`)")
    if row["revoked"]:
        raise Denied(f"API key {row['name']!r} is revoked; ask for a new one (`softprompt keys create NAME`)")
    return _key(row)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: RowMapping) -> Key:
    return Key(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        scopes=frozenset(row["scopes"].split(",")),
        hint=row["hint"],
        created_at=row["created_at"],
        actor=row["actor"],
        revoked=row["revoked"],
    )
