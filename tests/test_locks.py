"""Locks of files; and a system that has none is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softprompt.locks import lock_file

WITHOUT = """
import sys
sys.modules["fcntl"] = None
sys.argv = ["softprompt", "--home", sys.argv[1], *sys.argv[2:]]
from softprompt.cli import main
main()
"""

DIRECTLY = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from softprompt.errors import SoftPromptError
from softprompt.jobs.lock import WorkerLock
from softprompt.library.library import Library
from softprompt.stores import FolderStore
folder = Path(sys.argv[1])
for attempt in (
    lambda: Library.open(folder / "home"),
    lambda: FolderStore(folder / "blobs").put(b"data"),
    lambda: WorkerLock(folder).acquire(),
):
    try:
        attempt()
    except SoftPromptError as error:
        assert "Linux and macOS" in str(error) and "\\n" not in str(error)
    else:
        raise SystemExit("not refused")
assert not (folder / "home").exists()
assert list((folder / "blobs").iterdir()) == []
"""


def test_one_has_it_and_the_other_waits_or_goes(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as first, (tmp_path / "file").open() as second:
        assert lock_file(first.fileno())
        assert not lock_file(second.fileno(), wait=False)
        first.close()
        assert lock_file(second.fileno(), wait=False)


@pytest.mark.parametrize("command", [["list"], ["library", "verify"]])
def test_a_system_without_locks_is_told_in_one_sentence(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path / "home"), *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "softprompt runs on Linux and macOS, whose file locks a library needs" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_needs_locks_refuses(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIRECTLY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
