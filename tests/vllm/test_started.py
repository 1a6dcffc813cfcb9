"""`softprompt serve --engine vllm`: our server on a vLLM that it starts and ends itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from tests.http_server import serving
from tests.vllm.conftest import publish_all
from tests.vllm.same import difference
from tests.vllm.server import BLOCK

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

BODIES = (
    ("/v1/completions", {"model": "tell@2", "prompt": "a story of", "max_tokens": 9, "logprobs": 2}),
    ("/v1/completions", {"model": "builtin/tiny", "prompt": "a story of", "max_tokens": 9}),
    ("/v1/chat/completions", {"model": "say", "messages": [{"role": "user", "content": "who wrote it ?"}]}),
    ("/v1/classify", {"model": "kind", "input": ["the river", "a bad film"]}),
    ("/v1/classify", {"model": "nobody", "input": "x"}),
)  # fmt: skip


def test_it_serves_and_ends(log_file: Path, tmp_path: Path) -> None:
    """The same answers as the engine in this process gives, exit status 0, and no process left behind."""
    home = tmp_path / "home"
    named = FrozenBase.load("builtin/tiny", attn_implementation="sdpa")
    with Library.open(home) as library:
        publish_all(library, named)
        arguments = {"block_size": BLOCK, "enforce_eager": True, "max_model_len": 256}
        command = [
            sys.executable, "-m", "softprompt.cli", "--home", str(home), "serve", "--engine", "vllm",
            "--base", "builtin/tiny", "--dtype", "float32", "--engine-args", json.dumps(arguments), "--port", "0", "--json",
        ]  # fmt: skip
        told = {
            "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **told}, start_new_session=True
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log_file.read_text()[-4000:]
            row = json.loads(line)
            assert (row["base"], row["dtype"]) == ("builtin/tiny", "float32")
            with (
                httpx2.Client(timeout=300) as http,
                serving(library, named, engine=ContinuousEngine(architecture_of(named))) as ours,
            ):
                ours.http.timeout = 300
                for path, body in BODIES:
                    given, wanted = http.post(row["url"] + path, json=body), ours.http.post(ours.url + path, json=body)
                    assert given.status_code == wanted.status_code, given.text
                    assert difference(wanted.json(), given.json()) is None
            assert "vLLM's workers hold prompts, 256 MB of them at most" in log_file.read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, log_file.read_text()[-4000:]
            rest = process.stdout.read()
            assert rest == "", "nothing but the row is on stdout"
            for failure in ("Exception ignored", "output_handler failed"):
                assert failure not in log_file.read_text(), "nor does anything fail on its way out"
            deadline = time.monotonic() + 60
            while _lives(process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not _lives(process.pid), "vLLM's processes go with it"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _lives(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
