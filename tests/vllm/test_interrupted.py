"""Requests that vLLM interrupts and begins anew get the vectors that its workers hold once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]


def test_answers_are_those_of_requests_that_run_alone(log_file: Path) -> None:
    told = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.vllm.interrupted"]
    with log_file.open("w") as log:
        done = subprocess.run(
            command, env={**os.environ, **told}, stdout=subprocess.PIPE, stderr=log, text=True, timeout=900, check=False
        )
    assert done.returncode == 0, log_file.read_text()[-4000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["interrupted"] > 0
    assert (row["same"], row["different"]) == (16, 16)
