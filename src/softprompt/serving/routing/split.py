"""Who gets which version while an experiment runs: drawn from the user by one hash, without a look-up or a write. No torch.

A key's place between 0 and 1 does not change, and the candidate has those below its weight; so another weight moves no more
users than it must, and every server draws alike. The id of an answer says which version gave it, signed, so that whichever
server gets to hear how good it was needs to know nothing of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import SoftPromptError
from softprompt.names import parse_ref
from softprompt.registry.traffic.experiments import CANDIDATE, CONTROL, Experiment

if TYPE_CHECKING:
    from softprompt.serving.residents.residents import Residents

_LOG = logging.getLogger(__name__)
_MADE = re.compile(
    r"(?:req_|[a-z]+-)(?P<core>[0-9a-f]{24})(?:-e(?P<experiment>[1-9][0-9]{0,17})(?P<arm>[ab])(?P<mark>[0-9a-f]{16}))?"
)
_SIGNS = {CONTROL: "a", CANDIDATE: "b"}


@dataclass(frozen=True)
class Share:
    """A request's part in an experiment."""

    experiment: Experiment
    arm: str

    @property
    def ref(self) -> str:
        """The version that answers."""
        return self.experiment.ref_of(self.arm)

    @property
    def candidate(self) -> str:
        """The version that is tried."""
        return self.experiment.ref_of(CANDIDATE)

    def mark(self, core: str) -> str:
        """What the id of an answer ends with, behind what it is made of: the experiment and the arm, signed."""
        sign = _SIGNS[self.arm]
        return f"-e{self.experiment.id}{sign}{_signature(self.experiment, core, sign)}"


@dataclass(frozen=True)
class MadeId:
    """An id that a server gave to a request or its answer."""

    core: str
    """What the ids of one request have in common."""
    experiment: int | None
    """None where the request was no part of one."""
    arm: str
    signature: str

    @classmethod
    def read(cls, text: str) -> MadeId | None:
        """An id by its parts; None for one that a client has chosen."""
        found = _MADE.fullmatch(text)
        if found is None:
            return None
        number = found["experiment"]
        return cls(
            found["core"],
            int(number) if number else None,
            CANDIDATE if found["arm"] == "b" else CONTROL,
            found["mark"] or "",
        )

    def is_of(self, experiment: Experiment) -> bool:
        """Whether a server that knows the experiment has signed it."""
        return hmac.compare_digest(self.signature, _signature(experiment, self.core, _SIGNS[self.arm]))


def arm_of(experiment: Experiment, key: str) -> str:
    """The arm of a user, or of whatever else a request is told apart by."""
    return _drawn(experiment, key, experiment.weight)


def steady_arm_of(experiment: Experiment, key: str) -> str | None:
    """The arm that a key has had from the beginning; None where a change of the weight has moved it."""
    first, last = (_drawn(experiment, key, weight) for weight in (experiment.lowest_weight, experiment.highest_weight))
    return first if first == last else None


def _drawn(experiment: Experiment, key: str, weight: float) -> str:
    if experiment.shadow:
        return CONTROL
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=experiment.seed.encode()).digest()
    return CANDIDATE if int.from_bytes(digest, "big") < weight * 2**64 else CONTROL


def _signature(experiment: Experiment, core: str, sign: str) -> str:
    said = f"{experiment.id} {core} {sign}".encode()
    return hashlib.blake2b(said, digest_size=8, key=experiment.seed.encode(), person=b"answer").hexdigest()


class Split:
    """The experiments that run on one base, as the registry has them now. For use on one event loop."""

    def __init__(self, residents: Residents) -> None:
        self._residents, self._changes = residents, residents.changes
        self._known: dict[tuple[str, str], Experiment] = {}
        self._number = 0
        self._loading: set[asyncio.Task[None]] = set()

    async def find(self, tenant: str, model: str, key: str | None) -> Share | None:
        """The part of a request in an experiment; None where none runs, `model` names a version or an alias, or there is
        nothing to tell the request by.

        Raises:
            NameRefused: `model` is no reference.
            RegistryError: the registry fails.
        """
        if key is None or parse_ref(model).task != model:
            return None
        await self._refresh()
        experiment = self._known.get((tenant, model))
        return None if experiment is None else Share(experiment, arm_of(experiment, key))

    async def _refresh(self) -> None:
        """Look again which there are, after a change of the registry; both versions of a new one come into memory."""
        if (number := await self._changes.since(self._number)) is None:
            return
        registry, fingerprints = self._residents.library.registry, self._residents.fingerprints
        known = await asyncio.to_thread(registry.experiments.running_on, fingerprints)
        before = {experiment.id for experiment in self._known.values()}
        self._known, self._number = known, number
        for experiment in known.values():
            if experiment.id not in before:
                task = asyncio.create_task(self._load(experiment))
                self._loading.add(task)
                task.add_done_callback(self._loading.discard)

    async def _load(self, experiment: Experiment) -> None:
        for arm in _SIGNS:
            try:
                await self._residents.aget(experiment.ref_of(arm), experiment.tenant)
            except SoftPromptError as error:
                _LOG.warning("experiment %d: %s cannot be served: %s", experiment.id, experiment.ref_of(arm), error)
