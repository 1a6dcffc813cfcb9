"""A disk that is really full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.errors import RegistryError, StoreError
from softprompt.library.library import Library
from softprompt.stores import FolderStore
from tests.library_data import make_prompt

pytestmark = pytest.mark.services


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"a small disk cannot be mounted ({done.stderr.strip()}); run this as root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_really_full_disk(small_disk: Path) -> None:
    store = FolderStore(small_disk / "blobs")
    kept = store.put(os.urandom(600_000))
    with pytest.raises(StoreError, match=r"disk is full and nothing was stored: free some space"):
        store.put(os.urandom(600_000))
    assert [digest for digest, _ in store.list()] == [kept]
    assert os.listdir(store.temporary) == []
    store.delete(kept)
    store.put(os.urandom(600_000))


def test_registry_on_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    with Library.open(small_disk / "home", store="memory://full-disk") as library:
        published: list[int] = []

        def publish_on() -> None:
            while len(published) < 2000:
                data = make_prompt(seed=len(published), instruction="x" * 2000)
                published.append(library.publish(data, base="builtin/tiny").number)

        with pytest.raises(RegistryError, match=r"full.*nothing was changed"):
            publish_on()
        assert len(published) > 5
        assert [version.number for version in library.registry.versions("trec6")] == published
        assert not library.verify().problems
