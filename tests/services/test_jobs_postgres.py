"""The queue of jobs on PostgreSQL: what the tests of SQLite's hold, and claims that do not wait for each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from softprompt.errors import FieldError, NotFound
from softprompt.jobs.batches import Batches, Ended
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.queue import Queue
from softprompt.jobs.records import Page
from softprompt.jobs.uploads import Uploads
from softprompt.library import tenants
from softprompt.library.library import Library
from tests.jobs.test_jobs import (  # noqa: F401  those that ask something of the database
    test_a_bank_of_several_tenants_jobs_ends_as_each_alone_would,
    test_a_job_that_kills_its_workers_fails_and_takes_no_other_along,
    test_a_running_job_is_cancelled_and_its_neighbour_goes_on,
    test_a_waiting_job_is_cancelled_at_once_and_only_once,
    test_a_worker_elsewhere_is_dead_only_when_its_beats_stand_still,
    test_another_tenants_job_is_as_unknown_as_none,
    test_jobs_of_one_base_are_claimed_at_once_in_order,
    test_pages_of_jobs_and_events_hold_each_once,
    test_progress_gives_a_job_new_attempts,
    test_publishing_and_success_are_one_transaction,
    test_two_claims_at_once_share_no_job,
)
from tests.jobs.test_uploads import (  # noqa: F401
    test_another_tenants_file_is_as_unknown_as_none,
    test_equal_bytes_are_kept_once_and_go_with_their_last_file,
    test_pages_in_both_orders_hold_each_file_once,
    test_uploads_and_deletions_of_equal_bytes_at_once_never_lose_them,
    test_what_is_kept_comes_back,
)
from tests.jobs_data import do_all, queue_job

pytestmark = pytest.mark.services


@pytest.fixture
def library(postgres_database: Callable[[], str], tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home", registry=postgres_database()) as library:
        yield library


@pytest.fixture
def files(library: Library) -> Uploads:
    return Uploads(library, most_bytes=10_000)


def test_many_claimers_cancellers_and_tellers_lose_nothing(library: Library, base_folder: Path) -> None:
    names = [queue_job(library, base_folder, f"t{number}").name for number in range(12)]
    queues = [Queue(library, bank_size=1) for _ in range(4)]
    for place, queue in enumerate(queues):
        queue._where = f"elsewhere {place}"
    jobs = Jobs(library)
    cancelled = set()

    def cancel() -> None:
        for name in names[::3]:
            with contextlib.suppress(FieldError):  # it has failed by then
                jobs.cancel(name)
                cancelled.add(name)

    def work(queue: Queue) -> list[str]:
        mine = []
        while claims := queue.claim():
            for claim in claims:
                queue.record(claim.id, "on", step=1)
                queue.beat([claim.id])
                queue.fail(claim.id, "code", "message")
                mine.append(claim.name)
        return mine

    with ThreadPoolExecutor(5) as pool:
        cancelling = pool.submit(cancel)
        claimed = [name for found in pool.map(work, queues) for name in found]
        cancelling.result()
    assert len(claimed) == len(set(claimed))
    assert set(claimed) | cancelled == set(names)
    for name in names:
        assert jobs.get(name).status == ("cancelled" if name in cancelled else "failed")
        numbers = [event.number for event in jobs.events(name, limit=100).rows]
        assert numbers == list(range(len(numbers), 0, -1))


def test_two_homes_of_one_registry_do_their_own_jobs(
    postgres_database: Callable[[], str], base_folder: Path, tmp_path: Path
) -> None:
    url, store = postgres_database(), str(tmp_path / "blobs")
    with (
        Library.open(tmp_path / "here", registry=url, store=store) as here,
        Library.open(tmp_path / "there", registry=url, store=store) as there,
    ):
        mine, theirs = queue_job(here, base_folder, "mine"), queue_job(there, base_folder, "theirs")
        do_all(here)
        assert [Jobs(here).get(job.name).status for job in (mine, theirs)] == ["succeeded", "queued"]
        do_all(there)
        assert Jobs(here).get(theirs.name).status == "succeeded"


def test_ids_that_no_database_can_hold_name_nothing(library: Library) -> None:
    for verb in (Uploads(library).get, Uploads(library).delete, Jobs(library).get, Jobs(library).cancel):
        with pytest.raises(NotFound, match="there is no"):
            verb("x\0y")
    assert Uploads(library).page(purpose="\0") == Page([], False)


def test_a_batch_ends_once_and_leaves_nothing_of_an_erased_tenant(library: Library) -> None:
    asked = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}'
    answer = {"custom_id": "a", "response": {"status_code": 200}}
    leaves = library.for_tenant("leaves")
    names = []
    for batches in (Batches(library), Batches(leaves)):
        names.append(batches.create(batches.files.add(asked, "asked.jsonl", "batch").name, "/v1/embeddings")[0].name)
    tenants.erase(library, "leaves")
    with pytest.raises(Ended):
        Batches(leaves).finish(names[1], "completed", [answer])
    with pytest.raises(NotFound):
        tenants.plan_erase(library, "leaves")
    Batches(library).finish(names[0], "completed", [answer])
    assert (batch := Batches(library).get(names[0])).status == "completed"
    assert Uploads(library).get(batch.output_file or "").purpose == "batch_output"
    with pytest.raises(Ended):
        Batches(library).finish(names[0], "completed", [answer])
