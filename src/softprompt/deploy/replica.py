"""One replica: the library on a base, served from a thread of a process that is its own."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import EngineError, SoftPromptError

if TYPE_CHECKING:
    from softprompt.http.opening import Settings
    from softprompt.http.server import Server
    from softprompt.library.library import Library
    from softprompt.serving.service import AsyncService


@dataclass(frozen=True, kw_only=True)
class Where:
    """A library, as any machine of the cluster opens it."""

    home: str
    registry: str | None = None
    store: str | None = None
    tenant: str = "default"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A replica that can answer."""

    url: str
    base: str
    fingerprint: str
    dtype: str
    pid: int


class Replica:
    """What runs in a replica's process."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def address(self) -> str:
        """The address of this machine in its cluster."""
        from ray.util import get_node_ip_address

        return str(get_node_ip_address())

    def start(self, where: Where, settings: Settings, host: str, log_level: str) -> Serving | str:
        """Load the base, serve the library on a free port of `host`, and say where; or say what is wrong."""
        from softprompt.http.opening import log_to_stderr

        log_to_stderr(log_level)
        try:
            return self._start(where, settings, host)
        except SoftPromptError as error:
            return str(error)

    def _start(self, where: Where, settings: Settings, host: str) -> Serving:
        from softprompt.http.opening import bind, refuse_open_doors, url_of
        from softprompt.http.server import load, make_server
        from softprompt.library.library import Library
        from softprompt.lifecycle.drift.watch import Watcher
        from softprompt.serving.monitor import Monitor

        library = Library.open(where.home, registry=where.registry, store=where.store, tenant=where.tenant, create=False)
        bound = bind(host, 0)
        refuse_open_doors(library, bound.getsockname()[0])
        service = load(library, settings, Monitor(observer=Watcher(library)))
        ready = threading.Event()
        self._server = make_server(service, library, settings, on_ready=ready.set)

        def run() -> None:
            try:
                assert self._server is not None
                self._server.run([bound])
            finally:
                self._close(service, library, settings.grace_s)

        self._thread = threading.Thread(target=run, name="replica")
        self._thread.start()
        while not ready.wait(0.1):
            if not self._thread.is_alive():
                raise EngineError("the server of a replica ended before it began; its log says why")
        return Serving(
            url=url_of(bound),
            base=service.base_name,
            fingerprint=service.fingerprint,
            dtype=str(service.base.dtype).removeprefix("torch."),
            pid=os.getpid(),
        )

    def _close(self, service: AsyncService, library: Library, grace_s: float) -> None:
        try:
            service.engine.stop(drain=False, timeout=grace_s)
            service.close()
            library.close()
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Return when the server has ended."""
        self._ended.wait()

    def stop(self) -> None:
        """Take no more requests, finish those there are, and end."""
        if self._server is not None:
            self._server.end()
            self._ended.wait()
