"""A server of ours whose vLLM is lost: it says so to what runs and what comes, and ends as it should."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx2
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.library.library import Library
from softprompt.vllm.start import start_vllm
from tests.http_server import fill, serving
from tests.vllm.server import BLOCK

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]


def engines() -> list[int]:
    """Processes of vLLM's engines that this one has started."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "EngineCore" in line]


def test_a_lost_engine_is_told(base_folder: Path, tmp_path: Path) -> None:
    base, before = FrozenBase.load(str(base_folder)), engines()
    told = {"block_size": BLOCK, "enforce_eager": True, "max_num_seqs": 4}
    engine = start_vllm(BaseOptions(source=str(base_folder), dtype="float32"), told)
    (lost,) = set(engines()) - set(before)
    with Library.open(tmp_path / "home") as library:
        fill(library, base)
        with serving(library, base, engine=engine) as found:
            body = {"model": "tell", "prompt": ["red"] * 16, "n": 4, "max_tokens": 80, "temperature": 1.0}
            answers: list[httpx2.Response] = []

            def ask() -> None:
                with httpx2.Client(timeout=120) as http:
                    while not answers or answers[-1].status_code == 200:
                        answers.append(http.post(f"{found.url}/v1/completions", json=body))

            thread = threading.Thread(target=ask)
            thread.start()
            deadline = time.monotonic() + 120
            while not answers and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(lost, signal.SIGKILL)
            thread.join(120)
            assert not thread.is_alive()
            for answer in answers:
                if answer.status_code == 200:
                    assert all(choice["finish_reason"] for choice in answer.json()["choices"]), "a whole answer"
            after = found.http.post(f"{found.url}/v1/classify", json={"model": "kind", "input": "red"})
            for answer in (answers[-1], after):
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_error"), answer.text
                assert "vLLM's engine" in answer.json()["error"]["message"]
            assert found.http.get(f"{found.url}/readyz").status_code == 503
            assert found.http.get(f"{found.url}/v1/models").status_code == 200
    assert engine.loop.is_closed() or not engine.loop.is_running()
