"""Threads that wait for each other give way to other work soon."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux alone")
@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_torch_hears_of_it_unless_the_user_says_otherwise(given: dict[str, str], expected: str) -> None:
    own = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = subprocess.run(
        [sys.executable, "-c", "import softprompt; import torch"],
        env=own | {"OMP_DISPLAY_ENV": "VERBOSE"} | given, capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert re.search(rf"GOMP_SPINCOUNT = '{expected}'", told), told
