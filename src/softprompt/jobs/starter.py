"""Starting a home's worker when there is work and none is running. No torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.errors import LibraryError
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.records import unfinished

if TYPE_CHECKING:
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.jobs")

LOOK_SECONDS = 3.0
"""How often a server looks whether a worker is missing."""

PAUSE_SECONDS, LONGEST_PAUSE = 5.0, 300.0
LARGEST_LOG = 2**20


class Starter:
    """Sees to it that a worker runs while jobs wait; the worker outlives the process that started it."""

    def __init__(
        self,
        library: Library,
        *,
        registry: str | None = None,
        store: str | None = None,
        options: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "softprompt.jobs.worker"),
        pause_seconds: float = PAUSE_SECONDS,
        largest_log: int = LARGEST_LOG,
    ) -> None:
        """`registry` and `store` are the URLs that the library was opened with; `options` go to the worker, which `command`
        runs, as they are. Between two starts are `pause_seconds`, doubled each time a worker ends badly, up to five minutes.
        From `largest_log` bytes on, `worker.log` becomes `worker.log.1`."""
        self._library = library
        self._lock = WorkerLock(library.home)
        self._command = [*command, "--home", str(library.home), *options]
        self._least_pause = self._pause = pause_seconds
        self._largest_log = largest_log
        urls = {"SOFTPROMPT_REGISTRY": registry, "SOFTPROMPT_STORE": store}
        self._environment = {name: url for name, url in urls.items() if url is not None}
        self._child: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def ensure(self) -> bool:
        """Start a worker if jobs wait and none is running; whether one was started."""
        with self._one_at_a_time:
            self._reap()
            if time.monotonic() < self._not_before or self._child is not None:
                return False
            if not unfinished(self._library) or not self._lock.is_free():
                return False
            self._start()
            return True

    def watch(self) -> None:
        """Look again and again, in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._look, daemon=True, name="starter")
        self._thread.start()

    def close(self) -> None:
        """Look no more; the worker goes on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # it outlives us, and Popen is not to complain of that

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                self.ensure()
            except (LibraryError, OSError) as error:
                log.warning("no worker can be started: %s", error)
            self._ended.wait(LOOK_SECONDS)

    def _start(self) -> None:
        path = self._library.home / "worker.log"
        if path.exists() and path.stat().st_size > self._largest_log:
            path.replace(path.with_name("worker.log.1"))
        with path.open("ab") as file:
            env = os.environ | self._environment
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=env
            )
        self._not_before = time.monotonic() + self._least_pause
        log.info("started worker %d", self._child.pid)

    def _reap(self) -> None:
        if self._child is None or (status := self._child.poll()) is None:
            return
        self._child = None
        self._pause = self._least_pause if status <= 0 else min(LONGEST_PAUSE, 2 * self._pause)
        if status > 0:
            log.warning("the worker ended with status %d; see worker.log in the home", status)
            self._not_before = time.monotonic() + self._pause
