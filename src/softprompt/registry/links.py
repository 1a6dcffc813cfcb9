"""The connections of an engine to a server of PostgreSQL, which can be cut."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


class Links:
    """All that are open. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        """Those that the engine makes from now on."""
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}
        event.listen(engine, "connect", self._made)
        event.listen(engine, "close", self._closed)

    def cut(self) -> None:
        """End them: whoever waits for an answer, whatever holds that up, hears at once that the connection is gone. The
        server undoes what was not committed; the engine connects anew when it is asked again."""
        with self._lock:
            links = list(self._open.values())
        for link in links:
            with contextlib.suppress(Exception), socket.socket(fileno=os.dup(link.fileno())) as own:
                own.shutdown(socket.SHUT_RDWR)

    def _made(self, link: Any, _record: Any) -> None:
        with self._lock:
            self._open[id(link)] = link

    def _closed(self, link: Any, _record: Any) -> None:
        with self._lock:
            self._open.pop(id(link), None)
