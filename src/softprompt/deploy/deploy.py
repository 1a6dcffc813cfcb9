"""A deployment: replicas on a cluster, and what stands before them, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

from softprompt.cluster import Place, cluster
from softprompt.deploy.fleet import Fleet
from softprompt.deploy.front import Front
from softprompt.deploy.on_ray import RayLauncher
from softprompt.deploy.replica import Serving, Where
from softprompt.deploy.scaling import Bounds
from softprompt.errors import SoftPromptError
from softprompt.http.opening import Settings
from softprompt.http.server import Server
from softprompt.progress import Progress, loading
from softprompt.text import plural


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is deployed."""

    where: Where
    settings: Settings
    """Of each replica."""
    bounds: Bounds
    place: Place
    address: str | None = None
    """Of the Ray that there is; None starts one on this machine."""
    log_level: str = "warning"


def deploy(
    plan: Plan,
    bound: socket.socket,
    progress: Progress,
    *,
    next_base: Callable[[], str],
    on_ready: Callable[[Serving], None],
) -> None:
    """Serve on a bound socket until a signal says to end.

    Args:
        next_base: asked at SIGHUP which base is to be served from now on.
        on_ready: called when requests are taken, with one of the replicas.

    Raises:
        ConfigError: there is no Ray, or no room on it.
        SoftPromptError: a replica cannot be started.
    """
    most = plan.bounds.most
    with cluster(plan.address, plan.place, most, spare=most) as here:  # while they are exchanged there are twice as many
        asyncio.run(_serve(plan, bound, progress, here, next_base, on_ready))


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Cancel the work at a signal to end: until the server handles them, Ray would, by a report of a crash."""
    task, loop, got = asyncio.ensure_future(work), asyncio.get_running_loop(), list[int]()

    def end(number: int) -> None:
        got.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        await task
    except asyncio.CancelledError:
        if not got:
            raise
        raise SystemExit(128 + got[0]) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _serve(
    plan: Plan,
    bound: socket.socket,
    progress: Progress,
    here: bool,
    next_base: Callable[[], str],
    on_ready: Callable[[Serving], None],
) -> None:
    launcher = RayLauncher(plan.where, plan.settings, plan.place, here=here, log_level=plan.log_level)
    assert plan.settings.base.source is not None
    fleet = Fleet(launcher, plan.settings.base.source, plan.bounds, progress, grace_s=plan.settings.grace_s)
    front = Front(fleet, body_bytes=plan.settings.limits.body_bytes)
    changes: set[asyncio.Task[None]] = set()

    async def change() -> None:
        try:
            source = await asyncio.to_thread(next_base)
            progress.note(f"{plural(fleet.wanted, 'replica')} of {source} to be started; they take over when all are ready")
            await fleet.exchange(source)
        except SoftPromptError as error:
            progress.note(f"the base stays as it is: {error}")
        else:
            progress.note(f"{source} is served")

    def changed() -> None:
        task = asyncio.create_task(change())
        changes.add(task)
        task.add_done_callback(changes.discard)

    async with AsyncExitStack() as stack:
        with loading(progress, plural(fleet.wanted, "replica")):
            await _until_told(stack.enter_async_context(fleet.open()))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, changed)
        ready = fleet.ready[0].process.serving
        await Server(front, front, grace_s=plan.settings.grace_s, on_ready=lambda: on_ready(ready)).serve([bound])
        for task in changes:
            task.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
