"""A webhook: events as signed JSON to one URL, from a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import queue
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from softprompt.errors import ConfigError
from softprompt.names import hide_password

TIMESTAMP, SIGNATURE, DELIVERY = "X-Softprompt-Timestamp", "X-Softprompt-Signature", "X-Softprompt-Delivery"
"""Headers: Unix seconds; `sha256=` and the hex HMAC of timestamp, a dot and the body; a name that all tries share."""
SECRET = "SOFTPROMPT_WEBHOOK_SECRET"
"""The variable that holds the secret: an argument would be seen by all users of the machine."""
MOST_WAITING, LEAST_SECRET = 100, 16

_LOG = logging.getLogger(__name__)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a body that is sent at a time; whoever gets it makes the same, and compares."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def check_webhook(url: str, secret: str) -> None:
    """Raises `ConfigError` where a URL is none, or a secret is too short to be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--webhook {hide_password(url)!r} is no address; write https://host/path")
    if len(secret) < LEAST_SECRET:
        raise ConfigError(
            f"a webhook is signed with the secret in {SECRET}, which has {len(secret)} characters; set one of "
            f"{LEAST_SECRET} or more"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is signed for one address goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook:
    """Sends events, each until it is taken or has been tried often enough. Safe from any thread."""

    def __init__(self, url: str, secret: str, *, tries: int = 6, wait_s: float = 1.0, timeout_s: float = 5.0) -> None:
        """Send to a URL.

        Args:
            url: http or https.
            secret: what events are signed with.
            tries: how often an event is sent at most.
            wait_s: seconds before the second try; twice as many before each further one.
            timeout_s: seconds that a try may take.

        Raises:
            ConfigError: the URL is none, or the secret is too short.
        """
        check_webhook(url, secret)
        self._url, self._secret = url, secret
        self._tries, self._wait_s, self._timeout_s = tries, wait_s, timeout_s
        self._events: queue.Queue[Mapping[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._closed, self._over = threading.Event(), threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect())
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def send(self, event: Mapping[str, Any]) -> None:
        """Queue an event; where too many wait it is dropped, which the log says."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            _LOG.warning("the webhook %s is behind: an event is dropped", hide_password(self._url))

    def close(self, patience_s: float = 3.0) -> None:
        """End; what waits is tried once more, for so many seconds at most, and then dropped."""
        self._closed.set()
        try:
            self._events.put_nowait(None)
        except queue.Full:
            _LOG.warning("the webhook %s ends with events that were not sent", hide_password(self._url))
            self._over.set()
            return
        self._thread.join(patience_s)
        self._over.set()

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._over.is_set():
            self._deliver(json.dumps(event, separators=(",", ":")).encode())

    def _deliver(self, body: bytes) -> None:
        name, error = secrets.token_hex(8), ""
        for attempt in range(self._tries):
            if attempt and self._closed.wait(self._wait_s * 2 ** (attempt - 1)):
                break
            timestamp = str(int(time.time()))
            headers = {"Content-Type": "application/json", DELIVERY: name, TIMESTAMP: timestamp}
            headers[SIGNATURE] = sign(self._secret, timestamp, body)
            request = urllib.request.Request(self._url, body, headers, method="POST")
            try:
                with self._opener.open(request, timeout=self._timeout_s):
                    return
            except urllib.error.HTTPError as refused:
                error = f"HTTP {refused.code}"
                refused.close()
                if refused.code < 500 and refused.code not in (408, 425, 429):  # it will say so again
                    break
            except (OSError, http.client.HTTPException) as failed:
                error = str(failed) or type(failed).__name__
        _LOG.warning("the webhook %s did not take an event: %s", hide_password(self._url), error)
