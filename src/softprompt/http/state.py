"""What the routes and the middleware share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fastapi import Request

from softprompt.http.limits import Limits, Meter
from softprompt.http.traffic import Traffic

if TYPE_CHECKING:
    from softprompt.http.auth import Keyring
    from softprompt.serving.service import AsyncService


@dataclass(kw_only=True)
class ServerState:
    """One server."""

    service: AsyncService
    keyring: Keyring
    limits: Limits = field(default_factory=Limits)
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
