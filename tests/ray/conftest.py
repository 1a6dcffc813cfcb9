"""One real deployment on a real Ray for all tests that can share it, and what the engine in this process answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.models import some_prompt

LABELS = ("yes", "no", "the river")
TASKS = 6


def publish_all(library: Library, base: FrozenBase) -> None:
    """Tasks that write, and one with labels."""
    for seed in range(TASKS):
        prompt = some_prompt(base, f"tell{seed}", seed=seed, rows=3 + seed, metric="exact_match", max_new_tokens=12)
        library.publish(prompt.to_bytes(), base=base.address)
    library.publish(some_prompt(base, "kind", seed=99, rows=5, labels=LABELS).to_bytes(), base=base.address)


@dataclass
class Deployment:
    """A deployment in a process of its own."""

    process: subprocess.Popen[str]
    row: dict[str, Any]
    home: Path
    log: Path

    @property
    def url(self) -> str:
        """Its one address."""
        return str(self.row["url"])

    def replicas(self) -> list[dict[str, Any]]:
        """Those that are ready."""
        ready: dict[str, Any] = httpx2.get(f"{self.url}/readyz", timeout=60).json()
        found: list[dict[str, Any]] = ready.get("replicas", [])
        return found

    def until(self, condition: Any, what: str) -> None:
        """Wait for what the replicas are to be."""
        end = time.monotonic() + 180
        while not condition(self.replicas()):
            assert time.monotonic() < end, f"{what}: {self.replicas()}\n{self.log.read_text()}"
            time.sleep(0.2)


@contextmanager
def deployed(home: Path, log: Path, *options: str) -> Iterator[Deployment]:
    """A deployment of the library in `home`, until the block ends."""
    command = [sys.executable, "-m", "softprompt.cli", "deploy", "--ray", "--port", "0", "--json", "--home", str(home)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Deployment(process, json.loads(line), home, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, log.read_text()
            assert process.stdout.read() == "", "one line, and nothing that Ray says"
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="session")
def base() -> FrozenBase:
    return FrozenBase.load("builtin/tiny", attn_implementation="sdpa")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, base: FrozenBase) -> Path:
    folder = tmp_path_factory.mktemp("deployed") / "home"
    with Library.open(folder) as library:
        publish_all(library, base)
    return folder


@pytest.fixture(scope="session")
def deployment(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(home, tmp_path_factory.mktemp("log") / "deploy.log") as found:
        yield found
