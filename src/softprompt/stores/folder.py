"""A store in a folder: `blobs/<digest>`, and nothing else in there, ever.

Bytes are written to `blobs.tmp/` beside it, synced, and renamed: a rename is atomic, so a killed writer leaves at most a
temporary file. A live writer holds a lock on its file, so leftovers are told apart without trusting any clock.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompt.errors import NotFound, StoreError
from softprompt.files import make_folder, sync_folder
from softprompt.locks import lock_file
from softprompt.names import check_digest, is_digest
from softprompt.prompts.file import digest_of
from softprompt.stores.base import MEND, Store


class FolderStore(Store):
    """Blobs as files. The folder and the one for temporary files must be on one filesystem."""

    remote = False

    def __init__(self, root: Path, *, create: bool = True, mode: int = 0o644) -> None:
        """Open the folder; `create` makes it where there is none. Files are made with a mode, less the umask.

        Raises:
            StoreError: it cannot be created, or is not a folder.
        """
        self._mode = mode
        self.root = root.absolute()
        self.temporary = self.root.with_name(self.root.name + ".tmp")
        self.shown = str(self.root)
        if create:
            self.create()

    def create(self) -> None:
        """Make the folder where there is none. Raises `StoreError`."""
        with self._explained("create"):
            make_folder(self.root)

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        with self._explained("write to"):
            self.temporary.mkdir(exist_ok=True)
            while True:
                try:
                    self._put(digest, data)
                    break
                except FileNotFoundError:
                    # A sweep took our file between its creation and its lock. Once more, unless the folder is gone.
                    if not (self.root.is_dir() and self.temporary.is_dir()):
                        raise
        return digest

    def get(self, digest: str) -> bytes:
        with self._explained("read from"):
            try:
                return self._path(digest).read_bytes()
            except FileNotFoundError:
                raise NotFound(f"blob {digest} is not in {self.shown}; {MEND}") from None

    def has(self, digest: str) -> bool:
        with self._explained("read from"):
            return self._path(digest).is_file()

    def list(self) -> Iterator[tuple[str, int]]:
        with self._explained("list"), os.scandir(self.root) as entries:
            for entry in entries:
                if is_digest(entry.name):
                    try:
                        yield entry.name, entry.stat().st_size
                    except FileNotFoundError:
                        continue  # deleted while we list

    def delete(self, digest: str) -> None:
        with self._explained("delete from"):
            self._path(digest).unlink(missing_ok=True)
            sync_folder(self.root)

    def sweep(self) -> int:
        """Remove temporary files whose writer is gone; return how many."""
        removed = 0
        with self._explained("clean"):
            for path in self.temporary.glob("*") if self.temporary.is_dir() else ():
                try:
                    with path.open("rb") as file:
                        if lock_file(file.fileno(), wait=False):  # else its writer lives
                            path.unlink(missing_ok=True)
                            removed += 1
                except FileNotFoundError:
                    continue  # renamed meanwhile
        return removed

    def _path(self, digest: str) -> Path:
        return self.root / check_digest(digest)

    def _put(self, digest: str, data: bytes) -> None:
        path = self.temporary / f"{digest[:16]}-{secrets.token_hex(8)}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        try:
            lock_file(handle)
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
            os.replace(path, self.root / digest)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        sync_folder(self.root)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            mend = _MENDS.get(error.errno or 0, "check the folder and its disk, then try again")
            raise StoreError(f"cannot {doing} the store {self.shown}: {error.strerror or error}; {mend}") from error


_MENDS = {
    errno.ENOSPC: "the disk is full and nothing was stored: free some space and try again",
    errno.EDQUOT: "your quota is used up and nothing was stored: free some space and try again",
    errno.EACCES: "you may not: mend the folder's permissions, or choose another with --store",
    errno.EPERM: "you may not: mend the folder's permissions, or choose another with --store",
    errno.EROFS: "the filesystem is read-only: choose another folder with --store",
    errno.ENOENT: "the folder is gone: put it back, or choose another with --store",
    errno.ENOTDIR: "a part of this path is a file: choose a folder with --store",
    errno.EEXIST: "a file has this name: choose a folder with --store",
    errno.EXDEV: "the folder is a mount point of its own: use a folder inside it, so that FOLDER.tmp is on the same disk",
}
