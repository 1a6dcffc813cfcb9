"""Running the server: where it binds, what it loads, how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, RegistryError
from softprompt.http.app import create_app
from softprompt.http.auth import Keyring, is_loopback
from softprompt.http.limits import Limits
from softprompt.http.state import ServerState, Training
from softprompt.library.passages import Passages, Sources
from softprompt.signals import handling

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.engines.protocol import Engine
    from softprompt.library.library import Library
    from softprompt.serving.monitor import Monitor
    from softprompt.serving.service import AsyncService

log = logging.getLogger("softprompt.http")

INTERRUPTED = 130
"""Exit status of what an interrupt ended."""

KEEP_ALIVE_S = 65
"""Seconds that an idle connection is kept: a little longer than clients and proxies do, so that it is they who close it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a library is served."""

    base: BaseOptions
    """The base, and how it is loaded."""
    always_keys: bool = False
    """Whether a key is needed also while there are none."""
    max_prompts: int = 10_000
    """Prompts held in memory."""
    max_prompt_bytes: int = 1 << 28
    """Bytes of their vectors."""
    registry: str | None = None
    """URL of the registry, where one was given: for the worker that trains, a process of its own."""
    store: str | None = None
    """URL of the store, likewise."""
    grace_s: float = 30.0
    """Seconds that running requests may go on when the server is told to end."""
    prefix_bytes: int = 1 << 30
    """Bound on the keys and values kept of prompts."""
    engine_rows: int = 64
    """Rows that generate at the same time."""
    engine_queue: int = 1024
    """Jobs that may wait for the engine; a request has one for each of its rows."""
    limits: Limits = field(default_factory=Limits)
    passages: Sources = None
    """What finds passages for inputs."""


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
    try:
        make_server(service, library, settings, on_ready=on_ready).run([bound])
    finally:
        service.engine.stop(drain=False, timeout=settings.grace_s)
        service.close()


def make_server(service: AsyncService, library: Library, settings: Settings, *, on_ready: Callable[[], None]) -> Server:
    """The server of a library, which is yet to be run. `on_ready` is called when it accepts requests."""
    keyring = Keyring(library.registry, always=settings.always_keys)
    state = ServerState(service=service, keyring=keyring, limits=settings.limits)
    app = create_app(state, _training(state, library, settings))
    return Server(app, state, grace_s=settings.grace_s, on_ready=on_ready)


def bind(host: str, port: int) -> socket.socket:
    """A socket on the first address that a host's name means; port 0 for any that is free. It does not listen yet, so that
    nobody is kept waiting while the base is loaded.

    Raises:
        ConfigError: no such host, or the port is taken or forbidden.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"--host {host!r} --port {port}: no address ({error}); give one of this machine's") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot serve on {host} port {port}: {error.strerror}; choose another with --port") from None
    return bound


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


def refuse_open_doors(library: Library, host: str) -> None:
    """Close a library that has keys to other users of the system; raises `ConfigError` where others than this machine could
    come in at the address that is served on, and need no key for it."""
    has_keys = library.registry.keys.any_live()
    if has_keys:
        try:
            library.registry.database.make_private()
        except RegistryError as error:
            log.warning("%s", error)
    if not is_loopback(host) and not has_keys:
        raise ConfigError(
            f"serving on {host} lets others in, and no API key exists; make one first (`softprompt keys create NAME`), or "
            "serve on 127.0.0.1"
        )


def url_of(bound: socket.socket) -> str:
    """Where clients find a bound socket."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


def log_to_stderr(level: str) -> None:
    """Lines of the server, and uvicorn's warnings, on stderr.

    Raises:
        ConfigError: no such level.
    """
    levels = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
    if level not in levels:
        raise ConfigError(f"--log-level {level!r} is unknown; use {', '.join(levels)}")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("softprompt", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(levels[level] if name == "softprompt" else max(levels[level], logging.WARNING))
