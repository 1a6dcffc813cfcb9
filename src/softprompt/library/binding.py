"""What binds versions to their base: its address and its fingerprint. Where the base has moved, the fingerprint decides. No
torch."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from softprompt.bases.files.adapter import find_adapter
from softprompt.bases.files.fingerprint import fingerprint_of_folder, former_fingerprint
from softprompt.bases.files.locate import is_gone, is_local, kind_of, locate, two_forms
from softprompt.bases.files.weights import find_weights
from softprompt.bases.folder import check_folder, check_options
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, FingerprintMismatch, LibraryError
from softprompt.registry import queries, tables
from softprompt.registry.records import Record
from softprompt.registry.scope import Scope

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

MOVED = "give the place it has moved to with --base, or have that remembered with `softprompt library rebind PLACE --yes`"
"""What to do about a base that is not where the library knows it."""

_t, _v = tables.tasks.c, tables.versions.c


def options_for(version: Version, options: BaseOptions, named: BaseOptions | None = None) -> BaseOptions:
    """How the base of a version is loaded: where the options name none, as `named`, or at the address that the version
    names.

    Raises:
        BaseModelError: it is not there, or no base lies there, as far as that shows without loading it.
    """
    chosen = options.over(named or BaseOptions(source=version.base))
    try:
        check_options(chosen)
    except BaseModelError:
        if options.source is not None or not is_gone(version.base):
            raise
        raise BaseModelError(
            f"{version.ref} was tuned on {version.base!r}, and there is no such {kind_of(version.base)} any more; {MOVED}"
        ) from None
    return chosen


def check_before_loading(version: Version, base: object, named: BaseOptions | None = None) -> None:
    """Refuse a base of a version that is not there, before torch is loaded; what is loaded already is not looked at.

    Raises:
        BaseModelError: as :func:`options_for`.
        FingerprintMismatch: `base` names another one.
    """
    if base is None or isinstance(base, str | BaseOptions):
        options = BaseOptions.of(base)
        if options.source is None:
            options_for(version, options, named)
        else:
            check_base(version, options)


def check_base(version: Version, options: BaseOptions) -> str | None:
    """Whether the base that the options name, if they name one, is that of a version; and what to say where the library
    knows it by another address.

    Raises:
        FingerprintMismatch: it is another base.
        BaseModelError: it is not there, or no base lies there.
    """
    chosen = options_for(version, options)
    if options.source is None or not is_local(options.source):
        return None
    proof = prove(chosen)
    if version.fingerprint not in proof.names:
        raise FingerprintMismatch(
            f"{version.ref} was made for base {version.base} with fingerprint {version.fingerprint}, and {chosen.shown} has "
            f"{proof.fingerprint}: it is another one"
            f"{two_forms(version.base, chosen.address)}; give the base that it was made for{version.card.adapter_hint}"
        )
    if version.base == proof.address:
        return None
    return (
        f"{proof.address} is the base of {version.ref}, which the library knows as {version.base}; "
        f"`softprompt library rebind {shlex.quote(proof.address)} --yes` has the new place remembered"
    )


@dataclass(frozen=True)
class Rebound(Record):
    """A version whose base the library knows by another address, or by the fingerprint of the rule of before."""

    tenant: str
    version: str
    old_base: str
    base: str
    old_fingerprint: str
    fingerprint: str


@dataclass(frozen=True)
class Proof:
    """What the bytes of a base say of it."""

    address: str
    """What loads it again: a built-in name, an id, or the absolute path."""
    folder: Path
    fingerprint: str
    names: frozenset[str]
    """The fingerprint, and the one by the rule of versions before."""
    bytes: int
    """Of its weights."""


def plan_rebind(library: Library, options: BaseOptions, *, known_as: str | None = None) -> list[Rebound]:
    """The versions, of all tenants and deleted ones too, that are of a base by its fingerprint and not bound to it as it is
    named here. Every byte of the base is read for that.

    Args:
        library: where they are.
        options: the base, and its adapter if it has one.
        known_as: only those whose base the library knows by this address.

    Raises:
        BaseModelError: the base is not there, or is none.
        LibraryError: no version is of this base.
        RegistryError: the registry fails.
    """
    proof = prove(options, again=True)
    statement = sa.select(_t.tenant, _t.name, _v.number, _v.base, _v.fingerprint).select_from(
        tables.versions.join(tables.tasks, _t.id == _v.task_id)
    )
    with library.registry.database.read() as connection:
        rows = connection.execute(
            statement.where(_v.fingerprint.in_(proof.names)).order_by(_t.tenant, _t.name, _v.number)
        ).fetchall()
    if not rows:
        raise LibraryError(
            f"no version is of {options.shown}, whose fingerprint is {proof.fingerprint}; `softprompt list --json` shows "
            "those that versions are bound to"
        )
    return [
        Rebound(row.tenant, f"{row.name}@{row.number}", row.base, proof.address, row.fingerprint, proof.fingerprint)
        for row in rows
        if (row.base, row.fingerprint) != (proof.address, proof.fingerprint) and known_as in (None, row.base)
    ]


def rebind(library: Library, plan: list[Rebound]) -> None:
    """Do what a plan says, all or none, with a line in the audit for each version.

    Raises:
        LibraryError: a version is not what it was when the plan was made.
        RegistryError: the registry fails; nothing is changed.
    """
    database = library.registry.database
    with database.write() as connection:
        for item in plan:
            task, _, number = item.version.rpartition("@")
            row = queries.task_row(connection, item.tenant, task, lock=True)
            this = sa.and_(_v.task_id == row.id, _v.number == int(number), _v.fingerprint == item.old_fingerprint)
            values = {"base": item.base, "fingerprint": item.fingerprint}
            if connection.execute(sa.update(tables.versions).where(this).values(values)).rowcount != 1:
                raise LibraryError(f"{item.version} was changed meanwhile; run the same command again")
            states = [
                {"version": int(number), "base": base, "fingerprint": fingerprint}
                for base, fingerprint in ((item.old_base, item.old_fingerprint), (item.base, item.fingerprint))
            ]
            scope = Scope(database, item.tenant, library.registry.actor)
            scope.record(connection, "rebind", task, before=states[0], after=states[1], reason="equal fingerprints")


def prove(options: BaseOptions, *, again: bool = False) -> Proof:
    """What the files of a base say; with `again` every byte is read, whatever is remembered.

    Raises:
        BaseModelError: it is not there, or is none.
    """
    source = options.address
    folder = locate(source, code=options.trust_remote_code)
    config = check_folder(folder, source, code=options.trust_remote_code)
    adapter = find_adapter(options.adapter) if options.adapter is not None else None
    own = fingerprint_of_folder(folder, adapter, code=options.trust_remote_code, again=again)
    local = not source.startswith("builtin/") and Path(os.path.expanduser(source)).exists()
    names = frozenset({own, *former_fingerprint(folder, adapter)})
    size = sum(file.stat().st_size for file in find_weights(folder, config))
    return Proof(str(folder) if local else source, folder, own, names, size)
