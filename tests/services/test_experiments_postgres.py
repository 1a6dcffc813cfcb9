"""Many servers on one PostgreSQL: they draw alike, and no outcome is lost or counted twice; one of them alone decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.lifecycle import experiments
from softprompt.registry.traffic.experiments import CANDIDATE
from softprompt.serving.routing.split import arm_of
from tests.http_server import Running, fill, serving

pytestmark = pytest.mark.services

USERS = [f"user-{number}" for number in range(60)]


@pytest.fixture
def url(postgres_database: Callable[[], str]) -> str:
    return postgres_database()


@pytest.fixture
def servers(url: str, tmp_path: Path, base_folder: Path) -> Iterator[list[Running]]:
    base, store = FrozenBase.load(str(base_folder)), str(tmp_path / "blobs")
    with ExitStack() as stack:
        libraries = [stack.enter_context(Library.open(tmp_path / f"home{at}", registry=url, store=store)) for at in range(3)]
        fill(libraries[0], base)
        libraries[0].promote("kind@1")
        yield [stack.enter_context(serving(library, base)) for library in libraries]


def post(server: Running, path: str, body: dict[str, Any]) -> Any:
    return server.http.post(f"{server.url}{path}", json=body).raise_for_status().json()


def test_servers_draw_alike_and_lose_no_outcome(servers: list[Running], url: str) -> None:
    made = experiments.start(servers[0].library, "kind", weight=0.3)
    time.sleep(0.2)
    ask = {"model": "kind", "input": "red"}
    answers = {}
    for number, user in enumerate(USERS):
        got = [post(server, "/v1/classify", ask | {"user": user}) for server in servers]
        assert {one["model"] for one in got} == {made.ref_of(arm_of(made, user))}
        answers[user] = got[number % 3]["id"]

    def tell(job: tuple[int, str]) -> bool:  # each outcome to every server at once
        at, user = job
        return bool(post(servers[at], "/v1/feedback", {"id": answers[user], "outcome": len(user) % 2 == 0})["counted"])

    with ThreadPoolExecutor(12) as pool:
        counted = list(pool.map(tell, [(at, user) for user in USERS for at in range(3)]))
    assert sum(counted) == len(USERS)
    rows = {row["arm"]: row for row in experiments.status(servers[1].library, "kind")}
    assert rows["candidate"]["outcomes"] == sum(arm_of(made, user) == CANDIDATE for user in USERS)
    assert rows["control"]["outcomes"] + rows["candidate"]["outcomes"] == len(USERS)
    with psycopg.connect(url) as link:
        kept = link.execute("SELECT arm, count(*), sum(outcome) FROM feedback GROUP BY arm").fetchall()
    assert {arm: (count, total) for arm, count, total in kept} == {
        arm: (row["outcomes"], row["successes"]) for arm, row in rows.items()
    }


def test_one_server_decides_and_all_serve_what_won(servers: list[Running]) -> None:
    made = experiments.start(servers[0].library, "kind", auto=True)

    def tell(number: int) -> bool:
        user = f"u{number}"
        said = {"model": "kind", "user": user, "outcome": arm_of(made, user) == CANDIDATE}
        return bool(post(servers[number % 3], "/v1/feedback", said)["counted"])

    with ThreadPoolExecutor(12) as pool:
        counted = list(pool.map(tell, range(150)))
    there = servers[2].library.registry.experiments.latest("kind")
    assert there is not None
    assert (there.state, there.decision) == ("stopped", "candidate")
    assert there.control_outcomes + there.candidate_outcomes == sum(counted)
    actions = [line.action for line in servers[0].library.registry.audit("kind")]
    assert (actions.count("experiment-stop"), actions.count("promote")) == (1, 2)
    time.sleep(0.2)
    for server in servers:
        models = {
            post(server, "/v1/classify", {"model": "kind", "input": "red", "user": user})["model"] for user in USERS[:9]
        }
        assert models == {"kind@2"}
