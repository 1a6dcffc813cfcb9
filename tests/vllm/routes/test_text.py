"""Our tests of text of all kinds, all that conftest.py does not leave out, on vLLM."""

import pytest

from tests.http.routes.test_text import *  # noqa: F403

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
