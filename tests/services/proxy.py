"""A wire that can be cut: a TCP proxy in front of a server, which goes away, comes back, or breaks off an upload."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Forwards 127.0.0.1:port to a server's port. Cut at once by `away()`, or after so many bytes of a request."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.cut_after: int | None = None
        """Bytes that a client may send on one connection before it is cut; None for all."""
        self._gone = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def away(self) -> None:
        """Cut all connections and refuse new ones."""
        self._gone = True
        with self._lock:
            for link in self._open:
                _close(link)

    def back(self) -> None:
        """Forward again, without any cut."""
        self._gone = False
        self.cut_after = None

    def close(self) -> None:
        """Stop for good."""
        self.away()
        _close(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._gone:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                limit = self.cut_after
                if counted and limit is not None and passed + len(data) > limit:
                    sink.sendall(data[: limit - passed])
                    break
                passed += len(data)
                sink.sendall(data)
        _close(source)
        _close(sink)
        if not counted:
            with self._lock:
                self._open -= {source, sink}
            source.close()
            sink.close()


def _close(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
