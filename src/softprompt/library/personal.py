"""Users' prompts in registry and store together: published for many users at once, and erased with their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from softprompt.errors import StoreError
from softprompt.prompts.file import read_card
from softprompt.registry import personal, tables

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


def publish(library: Library, task: str, files: Sequence[tuple[str, bytes]], *, base: str) -> list[Version]:
    """Give users, each with a prompt file, prompts of a task in the place of those that they had, whose bytes go: all or
    none.

    Raises:
        PromptFileError: not a whole prompt file of ours.
        NameRefused: a user is no name.
        NotFound: no such task.
        StoreError, RegistryError: the library fails. Nothing is published, unless the message says so.
    """
    cards = [read_card(data) for _, data in files]
    digests = [library.store.put(data) for _, data in files]
    stored = {digest: data for digest, (_, data) in zip(digests, files, strict=True)}

    def ensure_blob(digest: str) -> None:
        if not library.store.has(digest):
            library.store.put(stored[digest])

    prompts = [(user, card, digest) for (user, _), card, digest in zip(files, cards, digests, strict=True)]
    made, replaced = library.registry.personal.publish(task, prompts, base=base, ensure_blob=ensure_blob)
    _give_up(library, replaced, "the new prompts are published, and the bytes of those before them")
    return made


def erase(library: Library, task: str, user: str, *, reason: str | None = None) -> Version:
    """Take a user's prompt of a task away for good, with its bytes, unless another version has equal ones. What remains is
    the line of the audit.

    Raises:
        NameRefused: the task or the user is no name.
        NotFound: no such task, or the user has no prompt of it.
        RegistryError: the registry fails; nothing is erased.
        StoreError: it is not answered with any more, but the store fails and may have its bytes.
    """
    gone = library.registry.personal.erase(task, user, reason)
    _give_up(library, [gone.digest], f"{gone.ref} is taken away, and its bytes")
    library.registry.database.forget_deleted()  # or, where another reads for long, whoever empties the log next
    return gone


def _give_up(library: Library, digests: Iterable[str], what: str) -> None:
    """Delete the bytes and the cards of digests that nothing names any more, each excluding whoever publishes it."""
    database, c = library.registry.database, tables.cards.c
    for digest in digests:
        with database.write() as connection:
            database.lock_digest(connection, digest)
            versions = sa.select(tables.versions.c.id).where(tables.versions.c.digest == digest).limit(1)
            if personal.holds(connection, digest) or connection.execute(versions).first() is not None:
                continue
            connection.execute(sa.delete(tables.cards).where(c.digest == digest))
            try:
                library.store.delete(digest)
            except StoreError as error:
                raise StoreError(
                    f"{what} cannot be deleted: {error}; `softprompt library gc --yes` does it later"
                ) from error
