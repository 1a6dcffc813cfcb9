"""Our tests of OpenAI's client, all that conftest.py does not leave out, on vLLM."""

import pytest

from tests.http.routes.test_openai import *  # noqa: F403

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
