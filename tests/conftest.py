"""Fixtures for all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Fingerprints are remembered in the user's cache; tests keep to a cache of their own.
_CACHE = tempfile.TemporaryDirectory(prefix="softprompt-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A machine that is busy with other things is no reason for a property to fail.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With SOFTPROMPT_NO_SKIPS, a skipped test is a failure: nobody reads the list of skips in a green run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("SOFTPROMPT_NO_SKIPS") and skipped and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} tests were skipped and must not be:")
        for report in skipped:
            reporter.write_line(f"  {report.nodeid}: {report.longrepr}")
        session.exitstatus = 1


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama saved as a folder, called `tiny-llama`. To be read, never written to."""
    from tests.models import save_base

    return save_base(tmp_path_factory.mktemp("bases") / "tiny-llama")


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights, called `other-llama`."""
    from tests.models import save_base

    return save_base(tmp_path_factory.mktemp("bases") / "other-llama", seed=1)
