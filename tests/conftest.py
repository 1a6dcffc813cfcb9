"""Fixtures for all tests."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Fingerprints are remembered in the user's cache; tests keep to a cache of their own.
_CACHE = tempfile.TemporaryDirectory(prefix="softprompt-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.commands import Done, Run  # noqa: E402

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


@pytest.fixture(autouse=True)
def _no_home_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no library is named, that of the current home is meant: never one in the folder that the tests run in."""
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "softprompt-home"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a command's library, without anything in it."""
    for name in ("REGISTRY", "STORE", "TENANT", "DEBUG"):
        monkeypatch.delenv(f"SOFTPROMPT_{name}", raising=False)
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOFTPROMPT_ACTOR", "tester")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process, on that home."""
    from softprompt.cli import main

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["softprompt", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        return Done(code, output.out, output.err)

    loggers = [logging.getLogger(name) for name in ("softprompt", "uvicorn")]
    kept = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield call
    for logger, handlers, propagate, level in kept:  # a server writes its log to the stderr of then
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
