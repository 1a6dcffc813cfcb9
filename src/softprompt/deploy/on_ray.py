"""Replicas as actors of Ray: the one file of this room that knows Ray."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from softprompt.cluster import Place
from softprompt.deploy.replica import Replica, Serving, Where
from softprompt.errors import EngineError, reason_of
from softprompt.http.opening import Settings

START_S = 600.0
"""Seconds that a replica may take from its request to its first answer."""


class ActorProcess:
    """A replica's actor."""

    def __init__(self, actor: Any, serving: Serving) -> None:
        """`actor` serves."""
        self.serving, self._actor = serving, actor
        self._end = actor.wait.remote()

    async def ended(self) -> None:
        """Return when the process is gone, however it ended."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            await self._end

    async def stop(self, grace_s: float) -> None:
        """Let it finish what it does and end; after so many seconds, end it."""
        import ray
        from ray.exceptions import RayError

        if grace_s:
            with contextlib.suppress(RayError, TimeoutError):
                await asyncio.wait_for(self._actor.stop.remote(), grace_s)
        ray.kill(self._actor)


class RayLauncher:
    """Starts replicas of a library as actors."""

    def __init__(self, where: Where, settings: Settings, place: Place, *, here: bool, log_level: str) -> None:
        """`here`: all replicas are on this machine, and nobody else can reach them."""
        self._where, self._settings, self._place = where, settings, place
        self._here, self._log_level = here, log_level

    async def start(self, source: str) -> ActorProcess:
        """Start a replica on a base, and wait until it can answer.

        Raises:
            EngineError: it cannot.
        """
        import ray
        from ray.exceptions import RayError

        settings = replace(self._settings, base=replace(self._settings.base, source=source))
        kind = ray.remote(Replica)
        actor = kind.options(
            num_cpus=self._place.cpus, num_gpus=self._place.gpus, max_concurrency=4, max_restarts=0
        ).remote()
        try:
            async with asyncio.timeout(START_S):
                host = "127.0.0.1" if self._here else await actor.address.remote()
                serving = await actor.start.remote(self._where, settings, host, self._log_level)
            if isinstance(serving, str):
                raise EngineError(f"no replica could be started: {serving}; mend that and deploy again")
            return ActorProcess(actor, serving)
        except RayError as error:
            ray.kill(actor)
            raise EngineError(
                f"no replica could be started: {reason_of(error)}; Ray's logs say more, see `ray logs`"
            ) from None
        except TimeoutError:
            ray.kill(actor)
            raise EngineError(
                f"a replica could not be started within {START_S:g} s; `ray status` says whether there is room for it"
            ) from None
        except BaseException:
            ray.kill(actor)
            raise
