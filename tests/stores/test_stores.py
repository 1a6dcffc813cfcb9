"""Folder and memory keep the contract; the folder also against disks, permissions and killed writers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from softprompt.errors import NameRefused, NotFound, StoreError
from softprompt.prompts.file import digest_of
from softprompt.stores import FolderStore, MemoryStore, ReadCache, Store, open_store
from tests.store_contract import Damage, StoreContract


class TestFolder(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FolderStore(tmp_path / "blobs")

    @pytest.fixture
    def damage(self, store: FolderStore) -> Damage:
        return lambda digest, data: (store.root / digest).write_bytes(data) and None

    def test_holds_blobs_only(self, store: FolderStore) -> None:
        digests = {store.put(os.urandom(100)) for _ in range(5)}
        assert set(os.listdir(store.root)) == digests
        assert os.listdir(store.temporary) == []

    def test_lists_no_strays(self, store: FolderStore) -> None:
        (store.root / ".DS_Store").write_bytes(b"x")
        assert list(store.list()) == []


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    @pytest.fixture
    def damage(self, store: MemoryStore) -> Damage:
        return lambda digest, data: store._blobs.__setitem__(digest, data)

    def test_is_shared_by_name(self) -> None:
        digest = open_store("memory://shared").put(b"x")
        assert open_store("memory://shared").has(digest)
        assert not open_store("memory://other").has(digest)
        open_store("memory://shared").delete(digest)


class FlakyDisk:
    """Replaces `os.write`: takes some bytes of a file, then fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.real = os.write

    def __call__(self, handle: int, data: bytes) -> int:
        if len(data) > 1000:
            return self.real(handle, data[:1000])
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "check the folder and its disk"),
    ],
)
def test_full_or_failing_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    store = FolderStore(tmp_path / "blobs")
    data = os.urandom(1500)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FlakyDisk(number))
        with pytest.raises(StoreError, match=mend):
            store.put(data)
    assert list(store.list()) == []
    assert os.listdir(store.temporary) == []
    assert store.get(store.put(data)) == data


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="choose a folder"):
            FolderStore(path)


def test_a_folder_that_went_away(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "blobs")
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="the folder is gone"):
        store.put(b"x")
    with pytest.raises(StoreError, match="the folder is gone"):
        list(store.list())


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from softprompt.errors import StoreError
from softprompt.stores import FolderStore
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for attempt in (lambda store: store.put(b"x"), lambda store: store.get(sys.argv[2])):
    try:
        attempt(FolderStore(Path(sys.argv[1])))
    except StoreError as error:
        assert "mend the folder's permissions" in str(error), error
    else:
        raise SystemExit("not refused")
"""


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = FolderStore(Path(folder) / "blobs")
        digest = store.put(b"kept")
        (store.root / digest).chmod(0)
        store.temporary.chmod(0o555)
        command = [sys.executable, "-c", UNPRIVILEGED, str(store.root), digest]
        done = subprocess.run(command, capture_output=True, text=True)
        store.temporary.chmod(0o755)
    assert done.returncode == 0, done.stderr


KILLED = """
import os, sys
from pathlib import Path
from softprompt.stores import FolderStore
store = FolderStore(Path(sys.argv[1]))
real = os.write
def write(handle, data):
    written = real(handle, data[:1000])
    print("half", flush=True)
    import time; time.sleep(60)
os.write = write
store.put(b"x" * 5000)
"""


def test_a_killed_writer_leaves_nothing_visible_and_is_swept(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "blobs")
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(store.root)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    assert list(store.list()) == []
    assert store.sweep() == 0, "a living writer's file was taken"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    assert len(os.listdir(store.temporary)) == 1
    assert store.sweep() == 1
    assert os.listdir(store.temporary) == []
    digest = store.put(b"x" * 5000)
    assert store.get(digest) == b"x" * 5000


def test_sweeping_under_writers_loses_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "blobs")
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            store.sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    blobs = [os.urandom(50) for _ in range(200)]
    for data in blobs:
        store.put(data)
    done.set()
    sweeper.join()
    assert {digest for digest, _ in store.list()} == {digest_of(data) for data in blobs}


@pytest.mark.parametrize("url", ["s3://bucket/a/b", "gs://bucket/a/b", "az://container/a/b"])
def test_buckets_open_by_url_and_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store = open_store(url)
    assert store.shown == url
    assert store.remote
    assert store._bucket.prefix == "a/b"  # type: ignore[attr-defined]


def test_a_bucket_without_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=r"Account must be specified; put what is missing into the environment"):
        open_store("az://container/a")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "s3://",
        "s3:///prefix",
        "redis://",
        "s3://bucket/../other",
        "s3://bucket/%2e%2e/other",
        "s3://bucket/a?endpoint=http://evil",
        "s3://bucket/a#b",
        "file://host/x",
        "http://host/x",
        "s3://bucket:0/x",
        "redis://host:port/0",
        "",
        "a\0b",
    ],
)
def test_wrong_urls_are_refused(url: str) -> None:
    with pytest.raises(NameRefused, match="store URL"):
        open_store(url)


def test_no_password_in_messages() -> None:
    for url in ("redis://user:hunter2@host/0?db=3", "ftp://user:hunter2@host/x", "redis://u:hunter2@[bad/0"):
        with pytest.raises(NameRefused) as caught:
            open_store(url)
        assert "hunter2" not in str(caught.value)


def test_file_urls_and_paths_are_the_same(tmp_path: Path) -> None:
    digest = open_store(f"file://{tmp_path}/my%20blobs").put(b"x")
    assert open_store(str(tmp_path / "my blobs")).has(digest)


def test_cache_reads_without_the_store_and_mends_itself(tmp_path: Path) -> None:
    cache, store = ReadCache(tmp_path / "cache"), MemoryStore()
    digest = store.put(b"blob")
    assert cache.read(store, digest) == b"blob"
    (tmp_path / "cache" / digest).write_bytes(b"blub")
    assert cache.read(store, digest) == b"blob"
    store.delete(digest)
    assert cache.read(store, digest) == b"blob"
    cache.drop(digest)
    with pytest.raises(NotFound):
        cache.read(store, digest)


def test_cache_is_bounded_and_drops_what_was_not_read(tmp_path: Path) -> None:
    cache, store = ReadCache(tmp_path / "cache", max_bytes=10_000), MemoryStore()
    first = store.put(os.urandom(900))
    cache.read(store, first)
    for number in range(40):
        cache.read(store, store.put(os.urandom(900)))
        time.sleep(0.002)  # the order of reads is by the files' times
        cache.read(store, first)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 11_000, number
    store.delete(first)
    assert cache.read(store, first)


def test_cache_is_bounded_beside_another_that_trims_it_too(tmp_path: Path) -> None:
    cache, store = ReadCache(tmp_path / "cache", max_bytes=10_000), MemoryStore()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gone meanwhile").symlink_to("nowhere")  # is listed, and then not there
    for _ in range(40):
        cache.read(store, store.put(os.urandom(900)))
    assert sum(path.lstat().st_size for path in (tmp_path / "cache").iterdir()) <= 11_000


def test_cache_on_a_full_disk_still_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, store = ReadCache(tmp_path / "cache"), MemoryStore()
    digest = store.put(b"blob")
    monkeypatch.setattr(os, "write", FlakyDisk(errno.ENOSPC))
    assert cache.read(store, digest) == b"blob"
