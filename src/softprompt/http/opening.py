"""What a server needs before it loads anything: its settings, its socket, its log, and who may come in. No torch."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, RegistryError
from softprompt.http.auth import is_loopback
from softprompt.http.limits import Limits
from softprompt.library.passages import Sources

if TYPE_CHECKING:
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.http")


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
