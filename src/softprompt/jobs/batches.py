"""Batches of a tenant: files of requests, how far their answers are, and what became of them. No torch.

A batch is answered by a server whose home has its files. Answers are appended to a file of the home as they come, so that a
server that is started again goes on behind the last of them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from softprompt.errors import FieldError, NotFound
from softprompt.jobs.records import PLACE, Page, fetch_page, find_row, place_of, record_of
from softprompt.jobs.uploads import BATCH, BATCH_OUTPUT, Uploads
from softprompt.library.tenants import answers_path
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import now
from softprompt.rows.tables import unique_keys
from softprompt.text import lone_surrogate

if TYPE_CHECKING:
    from softprompt.library.library import Library

VALIDATING, IN_PROGRESS, CANCELLING = "validating", "in_progress", "cancelling"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
OPEN = (VALIDATING, IN_PROGRESS, CANCELLING)

MOST_REQUESTS = 50_000
"""Requests of a batch, as OpenAI's."""

_b = tables.batches.c


@dataclass(frozen=True)
class Batch:
    """A batch and how it stands."""

    name: str
    """Its id: `batch_...`."""
    tenant: str
    endpoint: str
    input_file: str
    status: str
    total: int
    completed: int
    failed: int
    output_file: str | None
    error_file: str | None
    error: str | None
    request_metadata: Mapping[str, str] | None
    key_id: int | None
    """Of the key that made it; None where none was needed."""
    created_at: str
    in_progress_at: str | None
    cancelling_at: str | None
    finished_at: str | None


@dataclass(frozen=True)
class Line:
    """A request of a batch."""

    custom_id: str
    body: Mapping[str, Any]


class Ended(Exception):
    """A batch is to be answered no more: it was erased with its tenant, or another server has ended it."""


class Batches:
    """One tenant's batches. Safe to share between threads."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.files = Uploads(library)
        self._database = library.registry.database

    def create(
        self, input_file: str, endpoint: str, metadata: Mapping[str, str] | None = None, *, key_id: int | None = None
    ) -> tuple[Batch, list[Line]]:
        """Check a file's requests and queue them, to be answered as the key with an id may ask.

        Raises:
            FieldError: there is no such file, it is for something else, or a line is no request; nothing is queued.
            StoreError: it cannot be read.
        """
        lines = self.read(input_file, endpoint)
        at = now()
        values = {
            "name": f"batch_{secrets.token_hex(12)}",
            "tenant": self.library.tenant,
            "endpoint": endpoint,
            "input_file": input_file,
            "place": place_of(self.library.home),
            "status": VALIDATING,
            "total": len(lines),
            "request_metadata": None if metadata is None else json.dumps(metadata),
            "actor": self.library.registry.actor,
            "key_id": key_id,
            "created_at": at,
        }
        with self._database.write() as connection:
            queries.add_missing(connection, tables.tenants, name=self.library.tenant, created_at=at)
            row = connection.execute(sa.insert(tables.batches).values(values).returning(tables.batches)).one()
        return _batch(row), lines

    def read(self, input_file: str, endpoint: str) -> list[Line]:
        """The requests of a file.

        Raises:
            FieldError: as `create` does.
        """
        try:
            file = self.files.get(input_file)
            data = self.files.read(file)
        except NotFound as error:
            raise FieldError(str(error), "input_file_id") from None
        if file.purpose != BATCH:
            raise FieldError(
                f"file {input_file!r} was uploaded for {file.purpose!r}; upload requests with purpose {BATCH!r}",
                "input_file_id",
            )
        return read_lines(data, endpoint)

    def get(self, name: str) -> Batch:
        """A batch by its id.

        Raises:
            NotFound: this tenant has none.
        """
        with self._database.read() as connection:
            row = find_row(connection, tables.batches, self.library.tenant, name)
        if row is None:
            raise NotFound(f"there is no batch {name!r}; GET /v1/batches lists those there are")
        return _batch(row)

    def page(self, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        """A page of batches, newest first.

        Raises:
            NotFound: `after` names none.
        """
        statement = sa.select(tables.batches).where(_b.tenant == self.library.tenant)
        with self._database.read() as connection:
            if after is not None:
                row = find_row(connection, tables.batches, self.library.tenant, after)
                if row is None:
                    raise NotFound(f"there is no batch {after!r}; give the id that the last page ended with")
                statement = statement.where(_b.id < row.id)
            return fetch_page(connection, statement.order_by(_b.id.desc()), limit, _batch)

    def cancel(self, name: str) -> Batch:
        """Answer no more of a batch; what is answered stays.

        Raises:
            NotFound: this tenant has none.
            FieldError: it has ended.
        """
        batch = self.get(name)
        if batch.status not in OPEN:
            raise FieldError(f"batch {name!r} is {batch.status}; there is nothing to cancel", "batch_id")
        self.change(name, (VALIDATING, IN_PROGRESS), status=CANCELLING, cancelling_at=now())
        return self.get(name)

    def change(self, name: str, found: Sequence[str], **values: Any) -> Batch | None:
        """Change a batch that is in one of these states: as it is then; None, and nothing changes, where there is none."""
        with self._database.write() as connection:
            row = connection.execute(self._update(name, found).values(values).returning(tables.batches)).first()
        return None if row is None else _batch(row)

    def _update(self, name: str, found: Sequence[str]) -> sa.Update:
        own = sa.and_(_b.name == name, _b.tenant == self.library.tenant, _b.status.in_(found))
        return sa.update(tables.batches).where(own)

    def tell(self, name: str, answers: Answers) -> bool:
        """Keep how many answers there are; whether the batch is to be cancelled.

        Raises:
            Ended: nobody waits for more of them.
        """
        failed = answers.failed
        batch = self.change(name, OPEN, completed=len(answers.rows) - failed, failed=failed)
        if batch is None:
            raise Ended
        return batch.status == CANCELLING

    def finish(self, name: str, status: str, answers: Sequence[Mapping[str, Any]], error: str | None = None) -> None:
        """End a batch: answers in a file, those that are refusals in one of their own; `error` is why no more came.

        Raises:
            Ended: it has ended, or is no more; nothing is kept.
        """
        good = [answer for answer in answers if _went_well(answer)]
        bad = [answer for answer in answers if not _went_well(answer)]
        values: dict[str, Any] = {"status": status, "completed": len(good), "failed": len(bad), "finished_at": now()}
        values |= {"error": error}
        files = [
            (field, f"{name}_{kind}.jsonl", "".join(json.dumps(answer) + "\n" for answer in some).encode())
            for field, kind, some in (("output_file", "output", good), ("error_file", "error", bad))
            if some
        ]
        tenant = sa.select(tables.tenants).where(tables.tenants.c.name == self.library.tenant)
        with self._database.write() as connection:
            # The tenant first, as whoever erases it has it: or the two could wait for each other.
            if connection.execute(tenant.with_for_update(read=True, key_share=True)).first() is None:
                raise Ended
            if not connection.execute(self._update(name, OPEN).values(values)).rowcount:
                raise Ended
            for field, filename, data in files:
                kept = self.files.add_result(connection, data, filename, BATCH_OUTPUT)
                connection.execute(sa.update(tables.batches).where(_b.name == name).values({field: kept.name}))


def next_batch(library: Library, but: Collection[str] = ()) -> Batch | None:
    """The oldest batch, of any tenant, that waits in this home or was begun here, and is none of `but`."""
    if not (library.home / PLACE).exists():  # which the first batch or job makes
        return None
    open_here = sa.and_(_b.status.in_(OPEN), _b.place == place_of(library.home), _b.name.not_in(list(but)))
    with library.registry.database.read() as connection:
        row = connection.execute(sa.select(tables.batches).where(open_here).order_by(_b.id).limit(1)).first()
    return None if row is None else _batch(row)


class Answers:
    """The answers to a batch as they come, in a file that a kill leaves whole but for its last line."""

    def __init__(self, library: Library, name: str) -> None:
        self.path = answers_path(library, name)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        data = self.path.read_bytes() if self.path.exists() else b""
        self.rows: list[dict[str, Any]] = []
        self.failed = 0
        """How many of them are refusals."""
        whole = 0
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                self._take(json.loads(line))
            except ValueError:  # a power cut can leave any bytes: what stands behind them is answered again
                break
            whole += len(line)
        self._file = self.path.open("ab")
        self._file.truncate(whole)

    def _take(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.failed += not _went_well(row)

    def add(self, row: dict[str, Any]) -> None:
        """Keep an answer."""
        self._take(row)
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def delete(self) -> None:
        """They are kept elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)


def partials(library: Library) -> None:
    """Delete answers that nobody will take up any more: of batches that were deleted with their tenant."""
    folder = library.home / "batches"
    if not folder.is_dir():
        return
    with library.registry.database.read() as connection:
        known = set(connection.execute(sa.select(_b.name).where(_b.status.in_(OPEN))).scalars())
    for path in folder.glob("*.jsonl"):
        if path.stem not in known:
            path.unlink(missing_ok=True)


def read_lines(data: bytes, endpoint: str) -> list[Line]:
    """The requests of a file for one route, each with an id of its own.

    Raises:
        FieldError: a line is none; it is named.
    """
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            lines.append(_line(line, number, endpoint))
            if (first := seen.setdefault(lines[-1].custom_id, number)) != number:
                raise _wrong(number, f"its custom_id {lines[-1].custom_id[:60]!r} is that of line {first}; ids must differ")
        if len(lines) > MOST_REQUESTS:
            raise FieldError(f"the file has more than {MOST_REQUESTS} requests; split it", "input_file_id")
    if not lines:
        raise FieldError("the file has no requests; give one on each line", "input_file_id")
    return lines


def _line(line: bytes, number: int, endpoint: str) -> Line:
    try:
        found = json.loads(line.decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise _wrong(number, f"it is no JSON in UTF-8 ({error})") from None
    if not isinstance(found, dict) or lone_surrogate(found):
        raise _wrong(number, "it is no JSON object, or holds half a character")
    known = ("custom_id", "method", "url", "body")
    for name in known:
        if name not in found:
            raise _wrong(number, f"{name} is missing")
    for name in found:
        if name not in known:
            raise _wrong(number, f"unknown field {name!r}")
    if not isinstance(found["custom_id"], str) or not 0 < len(found["custom_id"]) <= 512:
        raise _wrong(number, "custom_id is no text of 1 to 512 characters")
    if found["method"] != "POST":
        raise _wrong(number, f"method is {str(found['method'])[:20]!r}; only POST is supported")
    if found["url"] != endpoint:
        raise _wrong(number, f"url is {str(found['url'])[:60]!r}, and the batch is for {endpoint}")
    if not isinstance(found["body"], dict):
        raise _wrong(number, "body is no object")
    return Line(found["custom_id"], found["body"])


def _wrong(number: int, why: str) -> FieldError:
    return FieldError(f"line {number} of the file is no request: {why}; mend it", "input_file_id")


def _went_well(answer: Mapping[str, Any]) -> bool:
    return bool(answer["response"]["status_code"] == 200)


def _batch(row: AnyRow) -> Batch:
    return record_of(Batch, row, "request_metadata")
