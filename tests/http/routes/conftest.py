"""A real server of the routes' tests, and a client of it; tests that need other prompts have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.http_server import Running, serving_for_real


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    """Two tasks, answered by a real engine."""
    with serving_for_real(tmp_path_factory.mktemp("home"), base_folder) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    """OpenAI's own."""
    with running.client() as made:
        yield made
