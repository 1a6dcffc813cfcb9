"""Our tests of `/v1/decisions`, all that conftest.py does not leave out, on vLLM."""

import pytest

from tests.http.routes.test_decisions import *  # noqa: F403

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
