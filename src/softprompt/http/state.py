"""What the routes and the middleware share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fastapi import Request

from softprompt.http.limits import Limits, Meter
from softprompt.http.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt.http.auth import Keyring
    from softprompt.jobs.starter import Starter
    from softprompt.serving.service import AsyncService


@dataclass(frozen=True, kw_only=True)
class Training:
    """What jobs of this server may train, and who does them."""

    bases: Mapping[str, str]
    """Names of bases that clients may train on, and what the worker loads for each."""
    starter: Starter | None = None
    """Starts workers for jobs; without one somebody else must."""
    most_trained: int
    """Rows that a job may train on, each counted as often as it is seen."""
    upload_bytes: int
    """Size of the largest upload."""
    context: int | None = None
    """Tokens that the base takes, where that has a bound."""
    fingerprint: str | None = None
    """Of the base that is served, on which alone jobs train."""


@dataclass(kw_only=True)
class ServerState:
    """One server."""

    service: AsyncService
    keyring: Keyring
    limits: Limits = field(default_factory=Limits)
    training: Training | None = None
    """None where this server takes no jobs."""
    meter: Meter = field(init=False)
    traffic: Traffic = field(init=False)
    draining: bool = False
    """Whether the server is ending: what runs is finished, nothing new is begun."""

    def __post_init__(self) -> None:
        # More rows than the engine's queue holds could never be taken, however often they came again.
        self.limits = replace(self.limits, max_rows=min(self.limits.max_rows, self.service.engine.max_waiting))
        self.meter = Meter(self.limits)
        self.traffic = Traffic(self.service.monitor.registry)


def state_of(request: Request) -> ServerState:
    """The server that a request came to."""
    state: ServerState = request.app.state.server
    return state
