"""A store in Redis, for libraries that many servers read from. Run Redis with `appendonly yes` and `noeviction`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import redis
except ModuleNotFoundError:
    redis = None  # type: ignore[assignment]

from softprompt.errors import NotFound, StoreError
from softprompt.names import check_digest, hide_password, is_digest
from softprompt.prompts.file import digest_of
from softprompt.stores.base import MEND, Store

PREFIX = "softprompt:blob:"
CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
_PAGE = 1000


class RedisStore(Store):
    """Blobs as strings under `softprompt:blob:<digest>` in the URL's database (`redis://host:6379/0`)."""

    remote = True

    def __init__(self, url: str) -> None:
        """Open the store; nothing is asked of the server yet.

        Raises:
            StoreError: the URL cannot be used, or the `redis` package is missing.
        """
        self.shown = hide_password(url)
        if redis is None:
            raise StoreError(f"the store {self.shown} needs the redis package; pip install 'softprompt[redis]'")
        try:
            self._server: Any = redis.Redis.from_url(
                url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
            )
        except ValueError as error:
            raise StoreError(f"cannot open the store {self.shown}: {error}; write redis://host:6379/0") from error

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        with self._explained("write to"):
            self._server.set(PREFIX + digest, bytes(data))
        return digest

    def get(self, digest: str) -> bytes:
        with self._explained("read from"):
            data = self._server.get(PREFIX + check_digest(digest))
        if data is None:
            raise NotFound(f"blob {digest} is not in {self.shown}; {MEND}")
        return bytes(data)

    def has(self, digest: str) -> bool:
        with self._explained("read from"):
            return bool(self._server.exists(PREFIX + check_digest(digest)))

    def list(self) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()  # a scan may give a key twice
        with self._explained("list"):
            cursor = 0
            while True:
                cursor, keys = self._server.scan(cursor, match=PREFIX + "*", count=_PAGE)
                digests = [key.decode("ascii", "replace")[len(PREFIX) :] for key in keys]
                fresh = sorted({digest for digest in digests if is_digest(digest)} - seen)
                seen.update(fresh)
                with self._server.pipeline(transaction=False) as pipe:
                    for digest in fresh:
                        pipe.strlen(PREFIX + digest)
                    sizes = pipe.execute()
                yield from ((digest, size) for digest, size in zip(fresh, sizes, strict=True) if size)
                if not cursor:
                    return

    def delete(self, digest: str) -> None:
        with self._explained("delete from"):
            self._server.delete(PREFIX + check_digest(digest))

    def close(self) -> None:
        self._server.close()

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            text = " ".join(str(error).split())
            raise StoreError(f"cannot {doing} the store {self.shown}: {text}; {_mend(text)}") from error


def _mend(text: str) -> str:
    low = text.lower()
    if "oom" in low or "maxmemory" in low:
        return "its memory is full and nothing was stored: raise maxmemory, or free some"
    if "misconf" in low or "no space" in low:
        return "its disk is full or fails and nothing was stored: mend that, then try again"
    if "noauth" in low or "wrongpass" in low or "noperm" in low or "password" in low or "authentication" in low:
        return "mend the user or password in the URL"
    if "readonly" in low:
        return "this is a replica: give the URL of the primary"
    return "it is away or refuses: start it or mend the URL, then try again"
