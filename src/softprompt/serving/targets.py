"""What the model of a request means to a tenant and a user: the base, a task's version, or a prompt of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.engines.protocol import NO_PROMPT, Vectors
from softprompt.errors import FieldError
from softprompt.names import AUTO
from softprompt.serving.answers import Head
from softprompt.serving.catalogue import Hidden, system_fingerprint
from softprompt.serving.routing.personal import Personal
from softprompt.serving.routing.split import Share, Split

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.serving.monitor import Watch
    from softprompt.serving.residents.resident import Resident
    from softprompt.serving.residents.residents import Residents
    from softprompt.serving.routing.auto import AutoRouter
    from softprompt.serving.routing.router import Route


@dataclass(frozen=True)
class Target:
    """What a request's model means."""

    resident: Resident | None
    """None for the base alone."""
    routed: Route | None
    members: tuple[Vectors, ...] = (NO_PROMPT,)
    """Its prompt, or those of an ensemble, with what stands before them in the input at hand."""
    share: Share | None = None
    """Its part in an experiment."""

    @property
    def vectors(self) -> Vectors:
        """Of a prompt that is no ensemble."""
        return self.members[0]

    def refuse_ensemble(self) -> None:
        """Raises `FieldError` for an ensemble, which chooses a label and continues no text."""
        if self.resident is not None and self.resident.lengths:
            raise FieldError(
                f"{self.resident.ref} is an ensemble of {len(self.resident.lengths)} prompts, which chooses a label and "
                "continues no text; ask /v1/classify or /v1/chat/completions",
                "model",
            )


class Targets:
    """Finds what requests name. For use on one event loop."""

    def __init__(self, base: FrozenBase, residents: Residents, auto: AutoRouter) -> None:
        """Among the residents of one base; `auto` chooses where a request lets the input choose."""
        self._base_name, self._fingerprint = base.name, base.fingerprint
        self._residents, self._auto = residents, auto
        self._personal, self._split = Personal(residents), Split(residents)
        self.hidden = Hidden(residents.library, base.name, residents.changes)

    async def choose(
        self, tenant: str, model: str, raw: Sequence[Sequence[int]], watch: Watch, user: str | None, key: str | None
    ) -> Target:
        """What `model` means to a user; for `auto`, by the raw inputs."""
        routed = None
        if model in self.hidden.names:
            await self.hidden.refuse(tenant, model)
        if model == self._base_name:
            watch.found(None)
            return Target(None, None)
        if model == AUTO:
            routed = await self._auto.choose(tenant, raw)
            model = routed.task
        own = await self._personal.find(tenant, model, user) if user is not None else None
        share = await self._split.find(tenant, model, key if user is None else user) if own is None else None
        resident = own or await self._residents.aget(model if share is None else share.ref, tenant)
        watch.found(resident.task, resident)
        return Target(resident, routed, resident.members, share)

    def head(self, target: Target, input_tokens: int) -> Head:
        """What is known of an answer of a target before its first piece."""
        resident = target.resident
        return Head(
            model=self._base_name if resident is None else resident.ref,
            task=None if resident is None else resident.task,
            version=None if resident is None else resident.version,
            system_fingerprint=system_fingerprint(self._fingerprint, "" if resident is None else resident.digest),
            virtual_tokens=0 if resident is None else resident.virtual_tokens,
            input_tokens=input_tokens,
            routed=target.routed,
            share=target.share,
        )
