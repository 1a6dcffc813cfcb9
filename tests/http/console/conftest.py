"""A server with prompts, and a browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.http.state import Training
from softprompt.library.library import Library
from tests.http.console.pages import Browser
from tests.http_server import Running, fill, serving
from tests.models import some_prompt

HOSTILE = ("<b>yes</b>", "\"no\" & 'maybe'", "{{ 7 * 7 }}")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="session")
def console_base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def running(tmp_path: Path, console_base: FrozenBase, base_folder: Path) -> Iterator[Running]:
    with Library.open(tmp_path / "home", actor="ann") as library:
        fill(library, console_base)
        odd = some_prompt(console_base, "odd", seed=5, labels=HOSTILE, input=f"{{text}} {SCRIPT}")
        library.publish(odd.to_bytes(), base=console_base.address, tags=["language:en"])
        library.promote("kind@1", reason=f"because {SCRIPT}")
        with serving(library, console_base) as found:
            found.state.training = Training(
                bases={console_base.name: str(base_folder)}, most_trained=1 << 40, upload_bytes=50_000,
                context=console_base.context, fingerprint=console_base.fingerprint,
            )  # fmt: skip
            yield found


@pytest.fixture
def browser(running: Running) -> Browser:
    return Browser(running)
