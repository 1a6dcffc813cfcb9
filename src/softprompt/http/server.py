"""Running the server: what it loads, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp

from softprompt.http.app import create_app
from softprompt.http.auth import Keyring
from softprompt.http.opening import Settings, log
from softprompt.http.state import ServerState, Training
from softprompt.library.passages import Passages
from softprompt.signals import handling

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.engines.protocol import Engine
    from softprompt.library.library import Library
    from softprompt.serving.monitor import Monitor
    from softprompt.serving.service import AsyncService

INTERRUPTED = 130
"""Exit status of what an interrupt ended."""

END_S = 5.0
"""Seconds beyond the grace in which a server that was told to end waits for the registry."""

KEEP_ALIVE_S = 65
"""Seconds that an idle connection is kept: a little longer than clients and proxies do, so that it is they who close it."""


def load(library: Library, settings: Settings, monitor: Monitor | None = None) -> AsyncService:
    """Load the base, start its engine, and open the library on it; `monitor` counts its requests.

    Raises:
        BaseModelError: the base cannot be loaded.
    """
    from softprompt.bases.base import FrozenBase
    from softprompt.engines.continuous import ContinuousEngine
    from softprompt.engines.scheduler import Limits as EngineLimits
    from softprompt.model.architecture import architecture_of

    base = FrozenBase.load(settings.base)
    if not base.batch_invariant:  # or a request would get other bits than the same row from `predict`
        with contextlib.suppress(ValueError):  # some models, Gemma 2 among them, have no fused attention
            base.model.set_attn_implementation("sdpa")  # without a backward pass it is the faster one on CPUs too
    engine_limits = EngineLimits(max_rows=settings.engine_rows, max_waiting=settings.engine_queue)
    engine = ContinuousEngine(architecture_of(base), engine_limits, prefix_bytes=settings.prefix_bytes)
    return service_on(library, base, engine, settings, monitor)


def service_on(
    library: Library, base: FrozenBase, engine: Engine, settings: Settings, monitor: Monitor | None = None
) -> AsyncService:
    """The library on a base that an engine runs."""
    from softprompt.serving.service import AsyncService

    return AsyncService(
        library,
        base,
        engine,
        max_bytes=settings.max_prompt_bytes,
        max_prompts=settings.max_prompts,
        passages=Passages(settings.passages, log.warning),
        monitor=monitor,
    )


def run(
    service: AsyncService,
    library: Library,
    settings: Settings,
    bound: socket.socket,
    *,
    on_ready: Callable[[], None],
) -> None:
    """Serve on a bound socket until a signal says to end, then stop the engine. `on_ready` is called when it begins."""
    server = make_server(service, library, settings, on_ready=on_ready)
    with _ending_in_time(server, library, settings.grace_s + END_S):
        try:
            server.run([bound])
        finally:
            server.should_exit = True
            service.engine.stop(drain=False, timeout=settings.grace_s)
            service.close()


@contextlib.contextmanager
def _ending_in_time(server: Server, library: Library, within_s: float, look_s: float = 0.5) -> Iterator[None]:
    """Cut the connections to a registry that still holds up a server so many seconds after it was told to end: threads wait
    there for an answer, behind a lock or of a machine that is gone, and each of them would be waited for."""
    over = threading.Event()

    def watch() -> None:
        told_at, told = None, False
        while not over.wait(look_s):
            if server.should_exit and told_at is None:
                told_at = time.monotonic()
            if told_at is not None and time.monotonic() - told_at >= within_s:
                if not told:
                    log.warning("the registry does not answer, and the server is to end: its connections are cut")
                told = True
                library.registry.database.cut()  # those too that were made since

    watching = threading.Thread(target=watch, daemon=True, name="end")
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def make_server(service: AsyncService, library: Library, settings: Settings, *, on_ready: Callable[[], None]) -> Server:
    """The server of a library, which is yet to be run. `on_ready` is called when it accepts requests."""
    keyring = Keyring(library.registry, always=settings.always_keys)
    state = ServerState(service=service, keyring=keyring, limits=settings.limits)
    app = create_app(state, _training(state, library, settings))
    return Server(app, state, grace_s=settings.grace_s, on_ready=on_ready)


def _training(state: ServerState, library: Library, settings: Settings) -> list[APIRouter]:
    from softprompt.http.routes.batches import batch_routes
    from softprompt.http.routes.files import file_routes
    from softprompt.http.routes.jobs import job_routes
    from softprompt.jobs.starter import Starter
    from softprompt.tasks.wording.chat import frame_of

    service, options = state.service, settings.base.arguments()
    starter = Starter(library, registry=settings.registry, store=settings.store, options=options)
    bases = {service.base_name: service.base.address}
    state.training = Training(
        bases=bases,
        starter=starter,
        most_trained=settings.limits.trained_rows,
        upload_bytes=settings.limits.upload_bytes,
        context=service.base.context,
        fingerprint=service.fingerprint,
    )
    return [
        file_routes(library, most_bytes=settings.limits.upload_bytes),
        batch_routes(library),
        job_routes(
            library,
            bases,
            starter=starter,
            most_trained=settings.limits.trained_rows,
            context=service.base.context,
            fingerprint=service.fingerprint,
            frame=frame_of(service.base),
        ),
    ]


class Drains(Protocol):
    """What must know that its server ends."""

    draining: bool


class Server(uvicorn.Server):
    """uvicorn, ending in its own way: the first signal lets what runs finish, a second interrupt ends at once, and a server
    that was told to end has not failed."""

    def __init__(self, app: ASGIApp, state: Drains, *, grace_s: float, on_ready: Callable[[], None]) -> None:
        """`grace_s` is how long requests may go on after the first signal; `on_ready` is called when it accepts them."""
        self._state, self._on_ready = state, on_ready
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(grace_s)),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.should_exit and sig == signal.SIGINT:
            os._exit(INTERRUPTED)
        self.end()

    def end(self) -> None:
        """Take no more requests, let those that run finish, and end."""
        self._state.draining = True
        self.should_exit = True

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Unlike uvicorn's own, does not raise the signal once more in the end."""
        return handling(self.handle_exit, signal.SIGINT, signal.SIGTERM)
