"""Replicas as actors of Ray: the one file that knows Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from softprompt.deploy.replica import Replica, Serving, Where
from softprompt.errors import ConfigError, EngineError, reason_of
from softprompt.http.server import Settings

OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray that is started here. Nothing is kept there: requests go to replicas by HTTP."""
START_S = 600.0
"""Seconds that a replica may take from its request to its first answer."""


def check_ray() -> None:
    """Raises `ConfigError` where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("Ray is not installed; install softprompt[ray], on every machine of the cluster")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a replica takes of its machine."""

    cpus: float = 1.0
    gpus: float = 0.0


@contextmanager
def cluster(address: str | None, place: Place, most: int) -> Iterator[bool]:
    """A Ray to start replicas on, while the block runs: that of an address, else one on this machine, which ends with the
    block. Gives whether it is the latter.

    Args:
        most: replicas that there may be; while they are exchanged there are twice as many.

    Raises:
        ConfigError: there is no Ray at the address, or it has no room for so many.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        if address is None:
            ray.init(
                address="local", num_cpus=max(1, round(2 * most * place.cpus)), num_gpus=None,
                object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False,
                configure_logging=False,
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        at = f"at {address!r}" if address else "on this machine"
        raise ConfigError(f"no Ray {at} ({reason_of(error)}); `ray status` says what runs") from None
    try:
        there = ray.cluster_resources()
        for name, each in (("CPU", place.cpus), ("GPU", place.gpus)):
            if each * most > there.get(name, 0):
                raise ConfigError(
                    f"{most} replicas of {each:g} {name} need {each * most:g}, and this Ray has {there.get(name, 0):g}; "
                    f"lower --max-replicas or --replica-{name.lower()}s"
                )
        yield address is None
    finally:
        ray.shutdown()


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
