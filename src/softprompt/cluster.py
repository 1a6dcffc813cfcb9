"""A Ray to run on: one that runs already, or one that is started here. Ray is imported when it is used. No torch."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from softprompt.errors import ConfigError, reason_of

OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray that is started here. Little is kept there: requests go by HTTP, and banks are a few megabytes."""
REACHED_S = 10.0
"""Seconds in which the Ray at an address must be reached."""


def check_ray() -> None:
    """Raises `ConfigError` where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("Ray is not installed; install softprompt[ray], on every machine of the cluster")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a process takes of its machine."""

    cpus: float = 1.0
    gpus: float = 0.0


@contextmanager
def cluster(
    address: str | None, place: Place, most: int, *, name: str = "replica", option: str = "--max-replicas", spare: int = 0
) -> Iterator[bool]:
    """A Ray to start processes on, while the block runs: that of an address, else one on this machine, which ends with the
    block. Gives whether it is the latter. What the caller does at signals stays as it is.

    Args:
        most: processes that there may be.
        name: of one of them, for messages.
        option: says how many there are.
        spare: more of them that a Ray which is started here has room for.

    Raises:
        ConfigError: Ray is not installed, there is none at the address, or it has no room for so many.
    """
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        with _signals_kept():
            if address is None:
                ray.init(
                    address="local", num_cpus=max(1, round((most + spare) * place.cpus)), num_gpus=None,
                    object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False,
                    configure_logging=False,
                )  # fmt: skip
            else:
                _check_port(address)
                ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        at = f"at {address!r}" if address else "on this machine"
        raise ConfigError(f"no Ray {at} ({reason_of(error)}); `ray status` says what runs") from None
    try:
        there = ray.cluster_resources()
        for kind, each in (("CPU", place.cpus), ("GPU", place.gpus)):
            if each * most > there.get(kind, 0):
                raise ConfigError(
                    f"{most} {name}{'s' * (most > 1)} of {each:g} {kind}: {each * most:g} in all, and this Ray "
                    f"has {there.get(kind, 0):g}; "
                    f"lower {option} or --{name}-{kind.lower()}s"
                )
        yield address is None
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT, which Ray tries for minutes; other addresses are Ray's to judge."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), REACHED_S).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and answers it by a report of a crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
