"""A real vLLM server on a free port of this machine, in processes of its own, with the middleware before its routes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

PATIENCE_S = 900
"""Seconds that a server may take to start: on a busy machine it is minutes."""
BLOCK = 32
"""Tokens of a block of keys and values, the fewest that vLLM takes on a CPU."""


@dataclass
class Vllm:
    """A server that runs."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    http: httpx2.Client

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        """Its answer to a body."""
        return self.http.post(self.url + path, json=body, **options)

    def metric(self, name: str) -> float:
        """The sum of one of vLLM's own counters."""
        text = self.http.get(f"{self.url}/metrics").text
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"vLLM counts no {name}"
        return sum(map(float, found))

    def engine(self) -> int:
        """The process that runs vLLM's engine, a child of the server's."""
        children = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True
        ).stdout
        return next(int(line.split()[0]) for line in children.splitlines() if "EngineCore" in line)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


BY_VECTORS = ("--middleware", "softprompt.vllm.middleware.SoftPrompts", "--enable-prompt-embeds")
"""What a server is given to serve prompts by name, their vectors sent with each request."""
PROMPTS = (*BY_VECTORS, "--worker-extension-cls", "softprompt.vllm.worker.PromptHolder")
"""The same with vectors that its workers hold."""


def start(
    model: Path | str, log: Path, *options: str, environment: Mapping[str, str], prompts: Sequence[str] = PROMPTS
) -> tuple[subprocess.Popen[bytes], int]:
    """A server's process, and its port; it takes a minute or more until it answers."""
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--block-size", str(BLOCK), "--enforce-eager", *prompts, *options,
    ]  # fmt: skip
    told = {
        "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **told, **environment}, start_new_session=True
        )
    return process, port


@contextmanager
def running(
    model: Path | str, log: Path, *options: str, environment: Mapping[str, str], prompts: Sequence[str] = PROMPTS
) -> Iterator[Vllm]:
    """A server that answers, until the block ends."""
    process, port = start(model, log, *options, environment=environment, prompts=prompts)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(timeout=300) as http:
            began = time.monotonic()
            while True:
                assert process.poll() is None, f"the server ended: {log.read_text()[-4000:]}"
                assert time.monotonic() - began < PATIENCE_S, f"the server does not answer: {log.read_text()[-4000:]}"
                with contextlib.suppress(httpx2.TransportError):
                    if http.get(f"{url}/health").status_code == 200:
                        break
                time.sleep(0.5)
            yield Vllm(url, process, log, http)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], grace_s: float = 60) -> None:
    """End a server and its engine: all of its own session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
