"""A real server on a library with a story, and a real Chromium that looks at it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from softprompt.jobs.jobs import Jobs
from softprompt.library.library import Library
from tests.console.story import build

OUT = Path(__file__).parents[2] / "build" / "console"
"""Where screenshots go."""
AXE = OUT / "axe.min.js"


@dataclass
class Seen:
    """What a page asked for, and complained of."""

    server: str
    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        """Listen to a page from its beginning."""
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: self.complaints.append(f"{said.type}: {said.text}") if said.type in ("error", "warning") else None,
        )

    def check(self, *, refusals: int = 0) -> None:
        """Nothing of another server was asked for, and nothing was complained of, but `refusals` that were meant."""
        foreign = [address for address in self.addresses if not address.startswith((f"{self.server}/console", "blob:null"))]
        assert not foreign
        meant = [one for one in self.complaints if "Failed to load resource" in one]
        assert len(meant) == refusals, self.complaints
        assert not [one for one in self.complaints if one not in meant]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "chromium is not installed; install Debian's package `chromium`, or name one with CHROMIUM=PATH"
    assert AXE.is_file(), f"{AXE} is not there; `make test-console` fetches it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `softprompt serve` on the story's library."""
    home = tmp_path_factory.mktemp("console") / "home"
    build(home)
    command = [
        sys.executable,
        "-m",
        "softprompt.cli",
        "serve",
        "--home",
        str(home),
        "--port",
        "0",
        "--json",
        "--device",
        "cpu",
    ]
    with (home.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told, (home.parent / "serve.log").read_text(errors="replace")
            yield str(json.loads(told)["url"])
        finally:
            with Library.open(home) as library:  # a worker outlives its server as long as it has a job
                for job in Jobs(library).page(limit=100, every=False).rows:
                    Jobs(library).cancel(job.name)
            process.terminate()
            process.wait(60)


@pytest.fixture
def seen(server: str) -> Seen:
    return Seen(server)


@pytest.fixture
def page(chromium: Any, server: str, seen: Seen) -> Iterator[Any]:
    """A page of the usual size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, base_url=server)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    seen.watch(opened)
    yield opened
    context.close()
