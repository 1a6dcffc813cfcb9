"""A real server on a free port, in a thread of the test's process, with an engine without a model or a real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from fastapi import APIRouter
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.http.app import create_app
from softprompt.http.auth import Keyring
from softprompt.http.limits import Limits, Meter
from softprompt.http.opening import bind, url_of
from softprompt.http.server import Server
from softprompt.http.state import ServerState
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.serving.service import AsyncService
from tests.fake_engine import FakeEngine
from tests.models import some_prompt

LABELS = ("yes", "no", "the river")
EngineOn = Callable[[FrozenBase], Any]
"""An engine for a base. Fixtures give them, so that tests of routes can be run on engines of another kind, too."""


def fill(library: Library, base: FrozenBase) -> None:
    """Two tasks: `kind` with labels and two versions, `tell` that generates."""
    for prompt in (
        some_prompt(base, "kind", seed=1, rows=3, labels=LABELS),
        some_prompt(base, "kind", seed=2, rows=7, labels=LABELS),
        some_prompt(base, "tell", seed=3, rows=5, metric="exact_match", max_new_tokens=5),
    ):
        library.publish(prompt.to_bytes(), base=base.address)


@dataclass
class Running:
    """A server that runs."""

    url: str
    library: Library
    base: FrozenBase
    service: AsyncService
    engine: Any
    state: ServerState
    server: Server
    http: httpx2.Client

    def client(self, key: str = "any", **options: Any) -> OpenAI:
        """OpenAI's own client, which never tries again."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20, **options)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving_for_real(
    home: Path,
    folder: Path,
    filled: Callable[[Library, FrozenBase], None] = fill,
    engine: EngineOn = lambda base: ContinuousEngine(architecture_of(base)),
) -> Iterator[Running]:
    """A server with a real engine on the base of a folder, of a new library that is filled so."""
    base = FrozenBase.load(str(folder))
    with Library.open(home) as library:
        filled(library, base)
        with serving(library, base, engine=engine(base)) as found:
            yield found


@contextmanager
def serving(
    library: Library,
    base: FrozenBase,
    *,
    engine: Any = None,
    limits: Limits | None = None,
    keyring: Keyring | None = None,
    grace_s: float = 5,
    routers: Sequence[APIRouter] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Running]:
    """A server of a library, until the block ends; rates go by `clock`."""
    engine = engine or FakeEngine(context=base.context)
    service = AsyncService(library, base, engine, fresh_s=0.05)
    state = ServerState(service=service, keyring=keyring or Keyring(library.registry), limits=limits or Limits())
    state.meter = Meter(state.limits, clock)
    ready = threading.Event()
    bound = bind("127.0.0.1", 0)
    server = Server(create_app(state, routers), state, grace_s=grace_s, on_ready=ready.set)
    thread = threading.Thread(target=server.run, args=([bound],), name="http-server")
    thread.start()
    try:
        assert ready.wait(20)
        with httpx2.Client(timeout=20) as http:
            yield Running(url_of(bound), library, base, service, engine, state, server, http)
    finally:
        state.draining = True
        server.should_exit = True
        thread.join(30)
        engine.going.set() if isinstance(engine, FakeEngine) else None
        engine.stop(drain=False, timeout=5)
        service.close()
        assert not thread.is_alive()
