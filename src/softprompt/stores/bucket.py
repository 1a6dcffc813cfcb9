"""A store in a bucket: S3, Google Cloud Storage or Azure, through obstore.

Keys and endpoints come from the environment as the providers define it (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
`GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY` ...), never from the URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from softprompt.errors import NotFound, StoreError
from softprompt.names import check_digest, hide_password, is_digest
from softprompt.prompts.file import digest_of
from softprompt.stores.base import MEND, Store

REQUEST_SECONDS = 30
RETRY_SECONDS = 10
RETRIES = 3


class BucketStore(Store):
    """Blobs as objects named by their digest under the URL's prefix."""

    remote = True

    def __init__(self, url: str) -> None:
        """Open the bucket; nothing is asked of it yet.

        Raises:
            StoreError: the URL or the environment cannot be used.
        """
        self.shown = hide_password(url)
        with self._explained("open"):
            try:
                self._bucket: Any = from_url(
                    url,
                    client_options={"timeout": f"{REQUEST_SECONDS}s", "connect_timeout": "5s", "allow_http": _plain_http()},
                    retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
                )
            except ValueError as error:
                raise StoreError(f"cannot open the store {self.shown}: {error}; mend the URL") from error

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        with self._explained("write to"):
            # One request: an upload in parts that is cut short would leave parts that cost money.
            obstore.put(self._bucket, digest, bytes(data), use_multipart=False)
        return digest

    def get(self, digest: str) -> bytes:
        with self._explained("read from"):
            try:
                return bytes(obstore.get(self._bucket, check_digest(digest)).bytes())
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise NotFound(f"blob {digest} is not in {self.shown}; {MEND}") from None

    def has(self, digest: str) -> bool:
        with self._explained("read from"):
            try:
                obstore.head(self._bucket, check_digest(digest))
            except (NotFoundError, FileNotFoundError):
                return False
            return True

    def list(self) -> Iterator[tuple[str, int]]:
        with self._explained("list"):
            for batch in obstore.list(self._bucket, chunk_size=1000):
                for item in batch:
                    if is_digest(item["path"]):
                        yield item["path"], item["size"]

    def delete(self, digest: str) -> None:
        with self._explained("delete from"):
            try:
                obstore.delete(self._bucket, check_digest(digest))
            except (NotFoundError, FileNotFoundError):
                return

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            text = " ".join(str(error).split())
            raise StoreError(f"cannot {doing} the store {self.shown}: {_first(text)}; {_mend(error, text)}") from error


def _plain_http() -> bool:
    """Whether the environment asks for an endpoint without TLS. obstore no longer looks once it is given options."""
    endpoints = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    asked = any(os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true") for cloud in _CLOUDS)
    return asked or any(endpoint.startswith("http://") for endpoint in endpoints)


_CLOUDS = ("AWS", "AZURE", "GOOGLE")


def _mend(error: Exception, text: str) -> str:
    if isinstance(error, NotFoundError) or "NoSuchBucket" in text:
        return "create the bucket, or mend the URL"
    refused = ("403 Forbidden", "401 Unauthorized", "AccessDenied")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(sign in text for sign in refused):
        return "mend the credentials in the environment or their rights on the bucket"
    if "credential" in text.lower() or "169.254.169.254" in text:
        return "put credentials into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ...)"
    if "must be specified" in text:
        return "put what is missing into the environment (AZURE_STORAGE_ACCOUNT_NAME, ...; see docs/library.md)"
    return "it is away or refuses: check the network and the endpoint (AWS_ENDPOINT_URL), then try again"


def _first(text: str) -> str:
    """The useful beginning of obstore's messages, which go on with the server's page and a debug print."""
    return text.partition(" Debug source:")[0].partition(": <?xml")[0][:400]
