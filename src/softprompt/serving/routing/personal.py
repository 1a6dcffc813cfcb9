"""Who has a prompt of their own: known without a look-up for each request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from softprompt.errors import NotFound
from softprompt.names import is_user, parse_ref

if TYPE_CHECKING:
    from softprompt.serving.residents.resident import Resident
    from softprompt.serving.residents.residents import Residents


class Personal:
    """Users' prompts of one base, for a user who asks for a task by its bare name. For use on one event loop."""

    def __init__(self, residents: Residents) -> None:
        self._residents, self._changes = residents, residents.changes
        self._known: set[tuple[str, str, str]] = set()
        self._number = 0

    async def find(self, tenant: str, model: str, user: str) -> Resident | None:
        """A user's own prompt of a task; None where there is none on this base, or `model` names a version or an alias.

        Raises:
            NameRefused: `model` is no reference.
            RegistryError, StoreError, PromptFileError: it cannot be had.
        """
        if parse_ref(model).task != model or not is_user(user):
            return None
        await self._refresh()
        if (tenant, model, user) not in self._known:
            return None
        try:
            return await self._residents.aget(model, tenant, user)
        except NotFound:  # erased a moment ago
            return None

    async def _refresh(self) -> None:
        """Look again who has one, after a change of the registry; what is erased leaves the memory."""
        if (number := await self._changes.since(self._number)) is None:
            return
        registry, fingerprints = self._residents.library.registry, self._residents.fingerprints
        known = await asyncio.to_thread(registry.personal.users_on, fingerprints)
        for tenant, task, user in self._known - known:
            self._residents.forget(task, user, tenant)
        self._known, self._number = known, number
