"""What a tenant may name on a base: its tasks, with their versions and aliases."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Container
from datetime import datetime
from typing import TYPE_CHECKING

from softprompt.bases.files.locate import two_forms
from softprompt.errors import FieldError, FingerprintMismatch
from softprompt.names import AUTO, parse_ref
from softprompt.registry.listing import Filters
from softprompt.serving.answers import ModelRow
from softprompt.serving.routing.router import default_versions

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.serving.residents.changes import Changes


def system_fingerprint(fingerprint: str, digest: str) -> str:
    """What names base and prompt in an answer: 12 digits of each; the base's alone where there is no prompt."""
    return f"{fingerprint[:12]}-{digest[:12]}" if digest else fingerprint[:12]


def base_row(base: FrozenBase) -> ModelRow:
    """The base without a prompt."""
    return ModelRow(base.name, None, None, (), {}, 0, system_fingerprint(base.fingerprint, ""))


class Hidden:
    """Tasks of a library of before that have the name of the served base, or `auto`: a request that says it could mean
    either, and is refused. New tasks cannot be called so."""

    def __init__(self, library: Library, base: str, changes: Changes) -> None:
        """Look for tasks called like a base, or `auto`, in the library of all tenants."""
        self._library, self._changes = library, changes
        self.names = (AUTO, base)
        self._known: set[tuple[str, str]] = set()
        self._number = 0

    def find(self) -> set[tuple[str, str]]:
        """Tenant and name of each, as the registry has them now.

        Raises:
            RegistryError: the registry fails.
        """
        return self._library.registry.tasks_named(self.names)

    async def refuse(self, tenant: str, model: str) -> None:
        """Raises `FieldError` where a tenant has a task that a request cannot name. Waits for no registry that is away."""
        if "/" in model:  # which no task has in its name
            return
        if (number := await self._changes.since(self._number)) is not None:
            self._known, self._number = await asyncio.to_thread(self.find), number
        if (tenant, model) in self._known:
            other = "lets the input choose the task" if model == AUTO else "is the base's name"
            raise FieldError(
                f"{model!r} {other}, and a task has that name, too; say {model}@N, with the number of a version, to name it",
                "model",
            )


def list_models(library: Library, base: FrozenBase, hidden: Container[str] = ()) -> list[ModelRow]:
    """The tasks that have versions on a base, by name; those that their bare names do not mean as `task@N`.

    Raises:
        RegistryError: the registry fails.
    """
    entries = library.registry.tasks(Filters(every=True))
    defaults = default_versions(entries)
    on_base = defaultdict(list)
    for entry in entries:
        if entry.fingerprint in base.fingerprints:
            on_base[entry.task].append(entry)
    rows = []
    for task, found in sorted(on_base.items()):
        default = defaults[task]
        served = default.fingerprint in base.fingerprints
        last = default if served else found[-1]
        rows.append(
            ModelRow(
                id=f"{task}@{last.version}" if task in hidden else task,
                task=task,
                version=default.version if served else None,
                versions=tuple(entry.version for entry in found),
                aliases={alias: entry.version for entry in found for alias in entry.aliases if "@" not in alias},
                created=_unix(last.created_at),
                system_fingerprint=system_fingerprint(base.fingerprint, last.digest),
            )
        )
    return rows


def find_model(library: Library, base: FrozenBase, name: str) -> ModelRow:
    """A model by any name that requests may use.

    Raises:
        NotFound, NameRefused: there is none.
        FingerprintMismatch: it is one of another base.
        RegistryError: the registry fails.
    """
    version = library.registry.resolve(name)
    if version.fingerprint not in base.fingerprints:
        raise FingerprintMismatch(
            f"{version.ref} was made for base {version.card.exact_base} with fingerprint {version.fingerprint}, and "
            f"{base.shown} with fingerprint {base.fingerprint} is served{two_forms(version.card.base, base.name)}; ask for "
            f"a version on this base, or serve the other one{version.card.adapter_hint}"
        )
    task = parse_ref(name).task
    numbers = [v.number for v in library.registry.versions(task, deleted=False) if v.fingerprint in base.fingerprints]
    return ModelRow(
        id=name,
        task=task,
        version=version.number,
        versions=tuple(numbers),
        aliases={alias: number for alias, number in library.registry.aliases.of(task).items() if number in numbers},
        created=_unix(version.created_at),
        system_fingerprint=system_fingerprint(base.fingerprint, version.digest),
    )


def _unix(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp())
