"""`softprompt serve` in a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openai import OpenAI

PATIENCE = 240.0
"""Seconds that anything may take; the machine may be busy."""


class Served:
    """A server that runs."""

    def __init__(
        self, home: Path, base: Path | str, *place: str, port: int = 0, dtype: str = "float32", key: str = "any"
    ) -> None:
        command = [sys.executable, "-m", "softprompt.cli", "--home", str(home), *place, "serve", "--port", str(port)]
        command += ["--base", str(base), "--dtype", dtype, "--device", "cpu", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        row = json.loads(self.process.stdout.readline())
        self.url, self.base, self.fingerprint = row["url"], row["base"], row["fingerprint"]
        self.client = OpenAI(base_url=f"{row['url']}/v1", api_key=key, max_retries=0, timeout=60)

    def kill(self) -> None:
        """`kill -9`."""
        self.client.close()
        self.process.kill()
        self.process.communicate()


def wait(what: Callable[[], Any]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(home: Path) -> int:
    """The process id of the worker that was started last: it keeps its home's lock open."""
    for found in Path("/proc").iterdir():
        try:
            command = (found / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "softprompt.jobs.worker" in command and str(home) in command:
            return int(found.name)
    raise AssertionError("no worker runs")
