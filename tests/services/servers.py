"""Real servers for tests: PostgreSQL, Redis and a local S3, each on a free port, ended by their process ids."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str, package: str, *folders: str) -> str:
    """The path of a server's program. Where there is none the test fails: a skipped one would look like a passed one."""
    found = shutil.which(name) or next(
        (str(path) for folder in folders for path in sorted(Path("/").glob(f"{folder.lstrip('/')}/{name}"), reverse=True)),
        None,
    )
    if found is None:
        pytest.fail(f"these tests need {name}; apt-get install {package}")
    return found


class Server:
    """A process that can be stopped and started again on the same port and data."""

    stop_signal = signal.SIGTERM

    def __init__(self, command: list[str], port: int, log: Path, ready: Callable[[], bool]) -> None:
        self.command, self.port, self.log, self.ready = command, port, log, ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{self.command[0]} does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else self.stop_signal)
        self.process.wait(30)
        self.process = None


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def redis_server() -> Iterator[Server]:
    """Redis that keeps what it has acknowledged: `appendonly yes`, synced on every write."""
    program = find_program("redis-server", "redis-server")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
        server = Server(command, port, Path(folder) / "log", lambda: _redis_answers(port))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _redis_answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as link:
        link.sendall(b"PING\r\n")
        return link.recv(16).startswith(b"+PONG")
    return False


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """An S3 that keeps everything in its memory."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = Server(command, port, Path(folder) / "log", lambda: listens(port))
        server.start()
        try:
            yield server
        finally:
            server.stop(kill=True)


@contextlib.contextmanager
def postgres_server(*options: str) -> Iterator[Server]:
    """PostgreSQL with an empty cluster of its own. It refuses to run as root, so root runs it as `postgres`."""
    folders = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin")
    initdb, postgres = (find_program(name, "postgresql", *folders) for name in ("initdb", "postgres"))
    folder = tempfile.mkdtemp()
    prefix: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        # setpriv becomes the server itself, so that its process id is the server's; runuser would stand between.
        prefix = [
            find_program("setpriv", "util-linux"),
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
        ]
    try:
        data = f"{folder}/data"
        make = [*prefix, initdb, "-D", data, "-U", "softprompt", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        made = subprocess.run(make, capture_output=True, text=True, cwd="/")
        if made.returncode:
            pytest.fail(f"initdb fails: {made.stderr}")
        port = free_port()
        command = [*prefix, postgres, "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        command += options
        server = Server(command, port, Path(folder) / "log", lambda: _postgres_answers(port))
        server.stop_signal = signal.SIGINT  # at SIGTERM it would wait for its clients to go
        server.start()
        try:
            yield server
        finally:
            server.stop_signal = signal.SIGQUIT  # at once: nobody needs its data any more
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_url(port: int, database: str = "postgres") -> str:
    return f"postgresql://softprompt@127.0.0.1:{port}/{database}"


def _postgres_answers(port: int) -> bool:
    import psycopg

    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(postgres_url(port), connect_timeout=2):
        return True
    return False
