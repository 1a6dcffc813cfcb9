"""How long the library takes at 10,000 tasks of 20 versions: list, resolve, publish and the like, on SQLite and PostgreSQL.

    python benchmarks/library.py --json                          # both; starts a PostgreSQL of its own
    python benchmarks/library.py --database sqlite --tasks 1000  # a quick look
    python benchmarks/library.py --postgres postgresql://user@host/empty

A row for each operation: `database, operation, n, rows, p50_ms, p99_ms`. Blobs go to a folder, so `publish` counts two
synced files as well as the transaction. Everything is made in a temporary folder (`--folder` to choose the disk).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy as sa

from benchmarks.row import Row, print_row
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.file import Stored, write_file
from softprompt.registry import tables
from softprompt.registry.listing import Filters

BASES = 5
PRODUCTION_SHARE = 0.5
TAG_EVERY = 1000
"""One version in so many has the rare tag."""


def card_of(task: str, base: int, value: float) -> Card:
    """A card of usual size, about 1 KB."""
    return Card(
        task=task,
        base=f"org/base-{base}",
        fingerprint=f"{base:032x}",
        num_virtual_tokens=20,
        token_dim=256,
        input="Question: {text}\nType:",
        labels=("abbreviation", "entity", "description", "person", "location", "number"),
        recipe={"learning_rate": 0.03, "num_train_epochs": 5, "optimizer": "adamw", "seed": 0, "warmup_ratio": 0.06},
        data_digest="d" * 64,
        metrics={"value": value, "rows": 500, "majority": 0.276, "zero_shot": 0.3, "untrained": 0.25, "validation": 0.7},
    )


def fill(library: Library, tasks: int, versions: int) -> None:
    """Write the rows at once, as so many publishes would have left them."""
    choose = random.Random(0)
    at = "2026-01-01T00:00:00Z"
    names = [f"task-{number:05}" for number in range(tasks)]
    with library.registry.database.write() as connection:
        connection.execute(sa.insert(tables.tenants), [{"name": library.tenant, "created_at": at}])
        for start in range(0, tasks, 500):
            chunk = range(start, min(start + 500, tasks))
            common = {"tenant": library.tenant, "last_number": versions, "newest": versions, "live": versions}
            rows = [{**common, "id": place + 1, "name": names[place], "created_at": at} for place in chunk]
            connection.execute(sa.insert(tables.tasks), rows)
            numbers = [(place, number) for place in chunk for number in range(1, versions + 1)]
            made = [_version(names, choose, at, versions, *at_) for at_ in numbers]
            connection.execute(sa.insert(tables.cards), [{"digest": row["digest"], "card": row["card"]} for row in made])
            connection.execute(sa.insert(tables.versions), [_without_card(row) for row in made])
        ids = range(1, tasks * versions + 1)
        connection.execute(sa.insert(tables.tags), [{"version_id": id_, "tag": "rare"} for id_ in ids[::TAG_EVERY]])
        promoted = choose.sample(range(1, tasks + 1), int(tasks * PRODUCTION_SHARE))
        to = [{"task_id": task, "number": choose.randint(1, versions)} for task in promoted]
        connection.execute(sa.insert(tables.aliases), [{**row, "name": "production"} for row in to])
        connection.execute(sa.insert(tables.promotions), [{**row, "alias": "production"} for row in to])
        if not library.registry.database.sqlite:
            for table in (tables.tasks, tables.versions):
                counter = sa.func.pg_get_serial_sequence(table.name, "id")
                highest = sa.select(sa.func.max(table.c.id)).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(counter, highest)))
    if not library.registry.database.sqlite:  # what autovacuum does by itself after a while
        with library.registry.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


def _version(names: list[str], choose: random.Random, at: str, versions: int, place: int, number: int) -> dict[str, Any]:
    base = place % BASES
    card = card_of(names[place], base, round(choose.random(), 4))
    return {
        "id": place * versions + number,
        "task_id": place + 1,
        "number": number,
        "digest": f"{choose.getrandbits(256):064x}",
        "base": card.base,
        "fingerprint": card.fingerprint,
        "card": card.canonical(),
        "metric": card.metric,
        "value": card.metrics["value"],
        "data_digest": card.data_digest,
        "actor": "benchmark",
        "created_at": at,
    }


def _without_card(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "card"}


def measure(library: Library, tasks: int, versions: int, home: Path) -> Iterator[dict[str, Any]]:
    """Time each operation on a filled library."""
    choose = random.Random(1)

    def any_task() -> str:
        return f"task-{choose.randrange(tasks):05}"

    def publish() -> int:
        task = any_task()
        data = choose.randbytes(20 * 256 * 4)
        file = write_file(card_of(task, 0, 0.5), {"prompt_embeddings": Stored("F32", (20, 256), data)})
        refs.append(library.publish(file, base="org/base-0", tags=["fresh"]).ref)
        return 1

    def reopen() -> int:
        Library.open(home, registry=registry_url(library)).close()
        return 1

    def count(**filters: Any) -> Callable[[], int]:
        return lambda: len(library.registry.tasks(Filters(**filters)))

    refs: list[str] = []
    operations: list[tuple[str, int, Callable[[], int]]] = [
        ("open", 30, reopen),
        ("resolve task", 2000, lambda: library.registry.resolve(any_task()).number and 1),
        (
            "resolve task@N",
            2000,
            lambda: library.registry.resolve(f"{any_task()}@{choose.randint(1, versions)}").number and 1,
        ),
        ("show", 300, lambda: len(library.registry.versions(any_task()))),
        ("list", 15, count()),
        ("list --task NAME", 300, lambda: len(library.registry.tasks(Filters(task=any_task())))),
        ("list --task GLOB", 50, count(task="task-012*")),
        ("list --tag", 50, count(tag="rare")),
        ("list --base", 15, count(base="org/base-3")),
        ("list --metric", 15, count(metric="accuracy>=0.999")),
        ("list --base --tag --metric", 50, count(base="org/base-3", tag="rare", metric="accuracy>=0.5")),
        ("publish", 300, publish),
        ("promote", 200, lambda: library.promote(refs[choose.randrange(len(refs))], "staging").after and 1),
        ("audit", 100, lambda: len(library.registry.audit(refs[0].partition("@")[0]))),
    ]
    for name, times, operation in operations:
        operation()
        seconds, rows = [], 0
        for _ in range(times):
            started = time.perf_counter()
            rows = operation()
            seconds.append(time.perf_counter() - started)
        seconds.sort()
        yield {
            "database": library.registry.database.engine.dialect.name,
            "operation": name,
            "tasks": tasks,
            "versions": tasks * versions,
            "n": times,
            "rows": rows,
            "p50_ms": round(seconds[len(seconds) // 2] * 1000, 3),
            "p99_ms": round(seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1000, 3),
        }


def registry_url(library: Library) -> str:
    """The URL that opens this library's registry again."""
    return library.registry.database.engine.url.render_as_string(hide_password=False)


@contextlib.contextmanager
def a_postgres(url: str | None) -> Iterator[str]:
    """The given database, or one of a server started for this."""
    if url is not None:
        yield url
        return
    from tests.services.servers import postgres_server, postgres_url

    with postgres_server() as server:
        yield postgres_url(server.port)


def main() -> None:
    """Fill and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON Lines instead of a table")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--postgres", help="URL of an empty database (default: a server of its own)")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--folder", help="where the temporary folder is made")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        urls: list[str | None] = [None] if given.database in ("sqlite", "both") else []
        if given.database in ("postgresql", "both"):
            urls.append(stack.enter_context(a_postgres(given.postgres)))
        for place, url in enumerate(urls):
            home = folder / f"home{place}"
            with Library.open(home, registry=url or f"sqlite:///{home}.db", store=str(home / "blobs")) as library:
                started = time.perf_counter()
                fill(library, given.tasks, given.versions)
                print(f"filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
                for row in measure(library, given.tasks, given.versions, home):
                    show(row, given.json)


def show(row: Row, as_json: bool) -> None:
    """Print a row for machines or people."""
    if as_json:
        print_row(row, as_json)
        return
    print(
        f"{row['database']:<11} {row['operation']:<27} {row['rows']:>6} rows"
        f"  p50 {row['p50_ms']:>9.2f} ms  p99 {row['p99_ms']:>9.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
