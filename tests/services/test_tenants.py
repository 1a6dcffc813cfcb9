"""A tenant leaves a library on servers: PostgreSQL and Redis, PostgreSQL and S3."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from softprompt.errors import LibraryError, NotFound
from softprompt.library import personal, takeout, tenants
from softprompt.library.library import Library
from tests.library.test_tenants import fill
from tests.library_data import make_prompt

pytestmark = pytest.mark.services


@pytest.mark.parametrize("store", ["redis_url", "s3_url"])
def test_exported_killed_while_erased_and_erased(
    store: str, postgres_database: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = {"registry": postgres_database(), "store": request.getfixturevalue(store)}
    with Library.open(tmp_path / "home", **place) as library:
        stays, leaves = library.for_tenant("stays"), library.for_tenant("leaves")
        stays.publish(make_prompt("both"), base="builtin/tiny")
        personal.publish(stays, "both", [("ann", make_prompt("both", 9))], base="builtin/tiny")
        fill(leaves)
        mine = [leaves.registry.resolve("fish"), leaves.registry.personal.resolve("fish", "ann")]
        leaves.read(mine[0])
        assert (library.home / "cache" / mine[0].digest).exists()
        plan = tenants.plan_erase(library, "leaves")
        assert (plan.blobs, plan.shared, plan.uploads) == (3, 1, 4)
        takeout.export(library, "leaves", tmp_path / "out")
    with Library.open(tmp_path / "out", tenant="leaves", create=False) as out:
        assert out.verify().problems == []
        assert out.registry.resolve("fish").number == 2
    child = os.fork()
    if child == 0:
        tenants._erase_blobs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        with Library.open(tmp_path / "home", **place) as again:
            tenants.erase(again, "leaves")
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with Library.open(tmp_path / "home", **place) as library:
        assert library.plan_gc(), "the bytes are there still"
        tenants.erase(library, "leaves")
        assert (library.plan_gc(), library.verify().problems) == ([], [])
        assert not any(library.store.has(version.digest) for version in mine)
        assert not (library.home / "cache" / mine[0].digest).exists()
        stays = library.for_tenant("stays")
        assert stays.read("both") == make_prompt("both")
        assert stays.read(stays.registry.personal.resolve("both", "ann")) == make_prompt("both", 9)
        with pytest.raises(NotFound, match="erased it"):
            tenants.erase(library, "leaves")


def test_writers_of_the_same_tenant_and_of_another_go_on(
    postgres_database: Callable[[], str], redis_url: str, tmp_path: Path
) -> None:
    """Rows are locked in one order, so nobody waits in a ring; and another tenant loses nothing."""
    place = {"registry": postgres_database(), "store": redis_url}
    ended, faults, kept = threading.Event(), list[str](), dict[str, int]()

    def write(tenant: str, seed: int) -> None:
        with Library.open(tmp_path / "home", **place, tenant=tenant) as library:
            number = 0
            while not ended.is_set():
                number += 1
                try:
                    version = library.publish(make_prompt("fish", number % 5 + seed), base="builtin/tiny", tags=["t"])
                    kept[tenant] = version.number
                    library.promote(version.ref)
                    library.registry.tag(version.ref, add=["u"])
                except LibraryError as error:
                    faults.extend([str(error)] * ("deadlock" in str(error) or tenant == "stays"))

    writers = [threading.Thread(target=write, args=(tenant, 0)) for tenant in ("leaves", "leaves", "stays")]
    with Library.open(tmp_path / "home", **place) as library:
        library.for_tenant("leaves").publish(make_prompt("fish"), base="builtin/tiny")
        for writer in writers:
            writer.start()
        for _ in range(12):
            with contextlib.suppress(LibraryError):  # nothing of it just now, or it is written again and again
                tenants.erase(library, "leaves")
        ended.set()
        for writer in writers:
            writer.join()
        with contextlib.suppress(NotFound):
            tenants.erase(library, "leaves")
        assert faults == []
        stays = library.for_tenant("stays")
        assert [version.number for version in stays.registry.versions("fish")] == [*range(1, kept["stays"] + 1)]
        assert library.verify().problems == []
