"""The database under the registry: connecting, transactions, schema, and errors that name the mend.

SQLite runs in WAL mode, so readers never wait, and a writer takes the write lock at its beginning (`BEGIN IMMEDIATE`):
a transaction that reads first and then writes can then never fail half-way because another wrote in between.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from softprompt.errors import NameRefused, NotFound, ReadOnly, RegistryError
from softprompt.files import make_private
from softprompt.registry import tables
from softprompt.registry.links import Links
from softprompt.registry.sqlite_file import BUSY_SECONDS, SqliteFile

CONNECT_SECONDS = 10
SILENT_SECONDS = 30
"""After which a server of whose machine nothing comes any more is given up."""
PROBE_SECONDS = 10
"""After which a machine that is waited for is asked whether it is there; systems do so after two hours by themselves."""
LOG_SECONDS = 3.0
"""How long a log that shall be emptied is waited for."""

_SCHEMA_LOCK = 0x736F667470726F6D  # "softprom": one session at a time makes or upgrades the schema on PostgreSQL


class Database:
    """An engine with two kinds of transaction. Safe to share between threads."""

    def __init__(self, engine: Engine, shown: str, file: SqliteFile | None = None, home: Path | None = None) -> None:
        self.engine = engine
        self.shown = shown
        self.file = file
        self.home = home
        """Folder of the library, which is closed to others once there is a secret in it."""
        self.sqlite = engine.dialect.name == "sqlite"
        # PostgreSQL would show each statement another state; SQLite keeps to one by itself.
        self._reader = engine if self.sqlite else engine.execution_options(isolation_level="REPEATABLE READ")
        self._links = None if self.sqlite else Links(engine)

    @classmethod
    def open(cls, url: str | URL, *, create: bool = True, home: Path | None = None) -> Database:
        """Connect to `sqlite:///path` or `postgresql://...`, make the schema or upgrade it when it is not the present one.

        A SQLite file that may not be written is read all the same.

        Args:
            url: of the database.
            create: whether an empty registry is made where there is none.
            home: folder of the library that it belongs to.

        Raises:
            NameRefused: not such a URL.
            NotFound: there is no registry, and none is to be made.
            RegistryError: unreachable, no permission, someone else's database, or a newer schema; or it has to be made or
                upgraded, and may not be written.
        """
        parsed = _parse(url)
        shown = parsed.set(query={}).render_as_string(hide_password=True)
        file = _file_of(parsed)
        if file is not None and not file.path.exists() and not create:
            raise NotFound(f"there is no registry {shown}; mend the URL")
        database = cls(_engine(parsed, shown), shown, file, home)
        try:
            database._ensure_schema(create)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def read(self, at_most_s: float | None = None) -> Iterator[Connection]:
        """A transaction that only reads; all its reads see one state. With `at_most_s` a server gives up each statement
        that takes longer, as behind a lock; in SQLite none waits for a lock.

        Raises:
            RegistryError: the database fails.
        """
        # A file without a log is read as one that does not change; with one, SQLite itself keeps to one state.
        before = self.file.stamp() if self.file is not None and self.file.read_only and not self.file.has_log() else None
        with _translated(self.shown), self._reader.begin() as connection:
            if at_most_s is not None and not self.sqlite:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(at_most_s * 1000))}")
            yield connection
        if before is not None and self.file is not None and before != self.file.stamp():
            raise RegistryError(f"the registry {self.shown} was written while it was read, by another; try again")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; it commits at the end of the block, or leaves nothing.

        Raises:
            RegistryError: the database fails, is full, stays locked, or may not be written.
        """
        self.check_writable()
        with _translated(self.shown), self.engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def check_writable(self) -> None:
        """Refuse where the file may only be read: before work whose result could not be kept.

        Raises:
            ReadOnly: so it is.
        """
        if self.file is not None and self.file.read_only:
            raise ReadOnly(f"the registry {self.shown} can only be read here, and nothing was changed: {_READ_ONLY}")

    def lock_digest(self, connection: Connection, digest: str) -> None:
        """Hold a blob's fate until the transaction ends: publishing and collecting one digest exclude each other.

        On SQLite the write lock does that already.
        """
        if not self.sqlite:
            _lock(connection, int(digest[:16], 16) - (1 << 63))

    def check(self) -> list[str]:
        """What the database itself finds wrong with its file; nothing on a server."""
        if not self.sqlite:
            return []
        with self.read() as connection:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            broken = [
                f"{row[0]} row {row[1]} names a missing row of {row[2]}"
                for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
            ]
        return [line for line in found if line != "ok"] + broken

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def cut(self) -> None:
        """Give up whatever a server is asked just now, for one that must not be waited for any longer: it fails as where the
        server is gone. SQLite waits for nothing for ever."""
        if self._links is not None:
            self._links.cut()

    def forget_deleted(self) -> bool:
        """Let nothing that was deleted stay in the file of SQLite, nor in its log; False where another reads that for longer
        than this waits, and its log has it until that ends."""
        if not self.sqlite:
            return True
        with _translated(self.shown), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout={LOG_SECONDS * 1000:.0f}")  # writers wait meanwhile
            try:
                (busy, *_) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        return not busy

    def make_private(self) -> None:
        """Close the library's home, and the files of SQLite, to everyone but their owner: there is a secret in them.

        Raises:
            RegistryError: that cannot be done.
        """
        try:
            if self.home is not None and self.home.is_dir():
                make_private(self.home)
            for path in self.file.paths() if self.file is not None else ():
                if path.exists():
                    make_private(path)
        except OSError as error:
            raise RegistryError(
                f"{error.filename} cannot be closed to other users: {error.strerror}; close it with chmod, or choose "
                "another home"
            ) from error

    def _ensure_schema(self, create: bool) -> None:
        with self.read() as connection:
            revision = self._revision(connection)
        if revision == tables.HEAD:
            return
        if revision is None and not create:
            raise NotFound(f"there is no library in the registry {self.shown}: it has no tables; mend the URL")
        if self.file is not None and self.file.read_only:
            raise RegistryError(
                f"the registry {self.shown} must be {'made' if revision is None else 'upgraded'}, and can only be read "
                f"here: {_READ_ONLY}"
            )
        if revision is not None and revision not in tables.REVISIONS:
            raise RegistryError(
                f"the registry {self.shown} has schema {revision!r}, and this softprompt reads up to {tables.HEAD!r}; "
                "upgrade softprompt"
            )
        with _translated(self.shown), self.engine.connect() as connection:
            if self.sqlite:
                # Batch migrations drop and rename tables: references must not be enforced meanwhile, and this
                # switch does nothing inside a transaction.
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
            try:
                with connection.execution_options(write=True).begin():
                    self._make_schema(connection)
            finally:
                if self.sqlite:
                    connection.invalidate()  # a fresh connection enforces references again

    def _revision(self, connection: Connection) -> str | None:
        """The schema's revision; None in a database without tables."""
        found = set(sa.inspect(connection).get_table_names())
        if tables.VERSION_TABLE in found:
            revision = connection.execute(sa.text(f"SELECT version_num FROM {tables.VERSION_TABLE}")).scalar()
            if revision is None:
                raise RegistryError(f"the registry {self.shown} has lost its schema's revision: {_DAMAGED}")
            return str(revision)
        ours = found & set(tables.metadata.tables)
        if ours or (self.sqlite and found):
            raise RegistryError(
                f"{self.shown} holds tables that are not softprompt's ({', '.join(sorted(ours or found)[:5])}); "
                "give the registry a database of its own"
            )
        return None

    def _make_schema(self, connection: Connection) -> None:
        """Create or upgrade, inside the caller's write transaction; another process may have been quicker."""
        if not self.sqlite:
            _lock(connection, _SCHEMA_LOCK)
        revision = self._revision(connection)
        if revision == tables.HEAD:
            return
        if revision is None:
            tables.metadata.create_all(connection)
            connection.execute(
                sa.text(f"CREATE TABLE {tables.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            )
            connection.execute(
                sa.text(f"INSERT INTO {tables.VERSION_TABLE} (version_num) VALUES (:head)"), {"head": tables.HEAD}
            )
            return
        upgrade(connection)
        if self.sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
            raise RegistryError(f"upgrading {self.shown} would break references {broken[:3]}; nothing was changed")


def _lock(connection: Connection, number: int) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(number, sa.BigInteger))))


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the migrations up to a revision in the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        text = str(url)
        shown = text.partition("://")[0] + "://..." if "://" in text else repr(text)
        raise NameRefused(
            f"registry URL {shown} cannot be read; write sqlite:////folder/registry.db or postgresql://user@host/database"
        ) from None
    name = parsed.get_backend_name()
    if name == "postgres":
        parsed, name = parsed.set(drivername="postgresql"), "postgresql"
    if name == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if name not in ("sqlite", "postgresql"):
        raise NameRefused(
            f"registry URL {parsed.set(query={}).render_as_string(hide_password=True)!r} has the unknown scheme {name!r}; "
            "known: sqlite:///, postgresql://"
        )
    if name == "sqlite" and (not parsed.database or parsed.database.startswith((":memory:", "file:"))):
        raise NameRefused(f"registry URL {str(url)!r} names no file; write sqlite:////folder/registry.db")
    return parsed


def _file_of(url: URL) -> SqliteFile | None:
    return SqliteFile(Path(url.database or "").absolute()) if url.get_backend_name() == "sqlite" else None


def _engine(url: URL, shown: str) -> Engine:
    file = _file_of(url)
    if file is not None:
        if not file.path.parent.is_dir():
            raise RegistryError(
                f"the folder {file.path.parent} of the registry {shown} does not exist; create it or mend the URL"
            )
        if file.read_only:
            engine = sa.create_engine(url, creator=file.connect_to_read, poolclass=sa.NullPool)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        file.create()
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "before_cursor_execute", _refuse_zeros)
        return engine
    try:
        waits = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": SILENT_SECONDS * 1000}
        waits |= {"keepalives_idle": PROBE_SECONDS, "keepalives_interval": PROBE_SECONDS // 2}
        waits = {name: value for name, value in waits.items() if name not in url.query}
        engine = sa.create_engine(url, connect_args=waits, pool_pre_ping=True)
        event.listen(engine, "before_cursor_execute", _refuse_zeros)
        return engine
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise RegistryError(f"PostgreSQL needs its driver ({error}); pip install 'softprompt[postgres]'") from None
    except SQLAlchemyError as error:
        raise RegistryError(f"registry {shown}: {error}; mend the URL") from None


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")  # an acknowledged write survives a power cut
    connection.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # This switch does not wait for a lock by itself.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _refuse_zeros(_link: Connection, _cursor: Any, _statement: str, given: Any, _context: Any, many: bool) -> None:
    """Refuse texts with the character NUL, which PostgreSQL takes for a fault of its own: a client's would be told as a
    registry that is away, and one that SQLite has could never be copied there."""
    for row in given if many else [given]:
        for value in row.values() if isinstance(row, dict) else row:
            if isinstance(value, str) and "\0" in value:
                raise NameRefused(f"{_shown(value)} holds the character NUL, and no registry keeps that; leave it out")


def _shown(text: str) -> str:
    start = max(0, text.index("\0") - 20)
    return ascii(text[start : start + 40])


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise RegistryError(f"registry {shown}: {_explain(error)}") from error
    except UnicodeEncodeError as error:
        raise NameRefused(f"{error.object!a} is no valid Unicode and cannot be kept; write it anew") from None
    except SQLAlchemyError as error:
        raise RegistryError(f"registry {shown}: {error}; try again") from error


def _explain(error: DBAPIError) -> str:
    text = " ".join(str(error.orig).split())
    low = text.lower()
    away = isinstance(error, OperationalError)
    other = "check that the database is there and can be reached" if away else "nothing was changed"
    return f"{text}; {next((mend for sign, mend in _MENDS if sign in low), other)}"


_READ_ONLY = (
    "you may not write to its file or its folder; mend their permissions, or give a copy (`softprompt library copy`)"
)
_DAMAGED = "the file is damaged; put back a copy of it (see docs/library.md on backups)"
_MENDS = (
    ("database is locked", f"another process has been writing for {BUSY_SECONDS} s; wait for it or end it, then try again"),
    ("unable to open", "check that the folder exists and that you may write to it"),
    ("readonly", "you may not write to it; mend its permissions (the -wal and -shm files beside it too)"),
    ("disk is full", "the disk is full: nothing was changed; free some space and try again"),
    ("no space left", "the disk is full: nothing was changed; free some space and try again"),
    ("disk i/o error", "the disk fails or is full: nothing was changed; check it and try again"),
    ("not a database", "the file is damaged or is something else; put back a copy of it, or mend the URL"),
    ("malformed", _DAMAGED),
    ("password authentication failed", "mend the user or password in the URL"),
    ("no password supplied", "put the password in the URL or in ~/.pgpass"),
    ("does not exist", "create it first, or mend the URL"),
    ("statement timeout", "the server is slow, or another holds a lock; end that one (pg_stat_activity), or try again"),
    ("connection refused", "no server answers there; start PostgreSQL or mend the URL"),
    ("permission denied", "grant the user the right, or use another"),
)
