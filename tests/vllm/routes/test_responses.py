"""Our tests of `/v1/responses`, all that conftest.py does not leave out, on vLLM."""

import pytest

from tests.http.routes.test_responses import *  # noqa: F403

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
