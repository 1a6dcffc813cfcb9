"""API keys: secrets shown once and stored as hashes, each with a tenant and scopes.

A secret holds 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess, and a slow hash would only
slow down every request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from softprompt.errors import Denied, NameRefused, NotFound, nearest
from softprompt.names import LONGEST_NUMBER, check_key_name, check_user
from softprompt.registry import queries
from softprompt.registry.records import now
from softprompt.registry.scope import Scope
from softprompt.registry.tables import keys as table
from softprompt.registry.tables import tenants

SCOPES = ("read", "predict", "train", "admin")
"""What a key may be allowed: see the library, use prompts, make versions, everything."""

LOOK_S = 4.0
"""Seconds for which a server of PostgreSQL may look for a key: requests wait for it."""

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
    users: tuple[str, ...] | None = None
    """Those whose personal versions it may ask for; None for any."""

    def allows(self, scope: str) -> bool:
        """Whether the key has the scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """Do nothing if the key has the scope.

        Raises:
            Denied: it lacks it.
        """
        if not self.allows(scope):
            raise Denied(
                f"key {self.name!r} lacks the scope {scope!r} (it has {', '.join(sorted(self.scopes))}); use one that has it"
            )

    def require_user(self, user: str) -> None:
        """Do nothing if the key may ask for a user.

        Raises:
            Denied: it may not.
        """
        if self.users is not None and user not in self.users:
            shown = ascii(user) if len(user) <= 60 else f"{user[:57]!a}..."
            raise Denied(
                f"key {self.name!r} may not ask for user {shown} (it may for {_listed(self.users)}); use one that may, or "
                "leave `user` out for the shared prompt"
            )

    def row(self) -> dict[str, Any]:
        """The key as a row for people and machines."""
        users = None if self.users is None else list(self.users)
        return {**self.__dict__, "scopes": sorted(self.scopes, key=SCOPES.index), "users": users}


@dataclass(frozen=True)
class NewKey:
    """A key that was just made."""

    secret: str
    """What its holder sends; it is known to nobody else from now on."""
    key: Key


class Keys:
    """One tenant's keys; only `authenticate` and `any_live` look at all tenants. Safe to share between threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def create(self, name: str, scopes: Iterable[str], users: Iterable[str] | None = None) -> NewKey:
        """Add a key of this tenant, and close the library to other users of the system. `users` are those whose personal
        versions it may ask for; by default any.

        Raises:
            RegistryError: the library cannot be closed, or the database fails; no key is made.
            NameRefused: not a name, an unknown scope, or a live key has this name.
        """
        check_key_name(name)
        own = None if users is None else sorted({check_user(user) for user in users})
        requested = set(scopes)
        for scope in sorted(requested - set(SCOPES)):
            raise NameRefused(f"scope {scope!r} is refused{nearest(scope, SCOPES)}")
        if not requested:
            raise NameRefused(f"a key needs a scope; known: {', '.join(SCOPES)}")
        tenant, at = self._scope.tenant, now()
        secret = PREFIX + secrets.token_urlsafe(32)
        values = {
            "tenant": tenant,
            "name": name,
            "hash": _hash(secret),
            "hint": secret[: len(PREFIX) + 4],
            "scopes": ",".join(scope for scope in SCOPES if scope in requested),
            "users": None if own is None else json.dumps(own),
            "actor": self._scope.actor,
            "created_at": at,
        }
        self._scope.database.check_writable()
        self._scope.database.make_private()
        with self._scope.database.write() as connection:
            queries.add_missing(connection, tenants, name=tenant, created_at=at)
            # Locked, so that two creators of one name queue up.
            connection.execute(sa.select(tenants.c.name).where(tenants.c.name == tenant).with_for_update())
            same = sa.select(table.c.id).where(table.c.tenant == tenant, table.c.name == name, ~table.c.revoked)
            if connection.execute(same).first():
                raise NameRefused(f"tenant {tenant!r} has a live key {name!r}; revoke it first or take another name")
            key = _key(connection.execute(sa.insert(table).values(values).returning(*table.c)).mappings().one())
            self._scope.record(
                connection,
                "key-create",
                None,
                after={"key": name, "scopes": key.row()["scopes"]} | ({} if own is None else {"users": own}),
            )
            return NewKey(secret, key)

    def list(self) -> Sequence[Key]:
        """The tenant's keys, revoked ones too, oldest first."""
        with self._scope.database.read() as connection:
            return _every(connection, self._scope.tenant)

    def get(self, number: int) -> Key | None:
        """A key of the tenant by its id, revoked or not."""
        with self._scope.database.read(LOOK_S) as connection:
            this = sa.and_(table.c.id == number, table.c.tenant == self._scope.tenant)
            row = connection.execute(sa.select(table).where(this)).mappings().first()
        return None if row is None else _key(row)

    def revoke(self, name_or_id: str) -> Key:
        """Revoke a live key by name, or any key of the tenant by id, at once and for good.

        Raises:
            NotFound: the tenant has no such key.
        """
        tenant = self._scope.tenant
        which = sa.and_(table.c.name == name_or_id, ~table.c.revoked)
        if name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) <= LONGEST_NUMBER:
            which = table.c.id == int(name_or_id)
        statement = sa.update(table).where(table.c.tenant == tenant, which).values(revoked=True).returning(*table.c)
        with self._scope.database.write() as connection:
            row = connection.execute(statement).mappings().first()
            if row is None:
                live = [key.name for key in _every(connection, tenant) if not key.revoked]
                raise NotFound(f"tenant {tenant!r} has no live key {name_or_id!r}{nearest(name_or_id, live)}")
            key = _key(row)
            self._scope.record(connection, "key-revoke", None, before={"key": key.name, "id": key.id})
            return key

    def any_live(self) -> bool:
        """Whether any tenant has a key that is not revoked."""
        with self._scope.database.read(LOOK_S) as connection:
            return connection.execute(sa.select(table.c.id).where(~table.c.revoked).limit(1)).first() is not None

    def authenticate(self, secret: str) -> Key:
        """The live key whose secret this is, of whatever tenant.

        Raises:
            Denied: there is none, or it is revoked.
        """
        hashed = _hash(secret)
        with self._scope.database.read(LOOK_S) as connection:
            row = connection.execute(sa.select(table).where(table.c.hash == hashed)).mappings().first()
        if row is None or not hmac.compare_digest(row["hash"], hashed):
            raise Denied("this API key is not known; ask for one (`softprompt keys create NAME`)")
        if row["revoked"]:
            raise Denied(f"API key {row['name']!r} is revoked; ask for a new one (`softprompt keys create NAME`)")
        return _key(row)


def _every(connection: Connection, tenant: str) -> Sequence[Key]:
    rows = connection.execute(sa.select(table).where(table.c.tenant == tenant).order_by(table.c.id)).mappings()
    return [_key(row) for row in rows]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: RowMapping) -> Key:
    values = {field.name: row[field.name] for field in fields(Key)}
    users = None if row["users"] is None else tuple(json.loads(row["users"]))
    return Key(**{**values, "scopes": frozenset(row["scopes"].split(",")), "users": users})


def _listed(users: Sequence[str]) -> str:
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    return f"{', '.join(users[:5])}{more}" if users else "none"
