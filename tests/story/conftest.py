"""The story runs on the servers of the tests of services."""

from __future__ import annotations

from tests.services.conftest import (  # noqa: F401
    postgres,
    postgres_database,
    redis_process,
    redis_url,
    s3_environment,
    s3_process,
    s3_url,
)
