"""The tables of the registry, and the revision of their shape.

Order is always by sequence number (`id`, `number`), never by time: clocks go back. Times are ISO 8601 text in UTC, to be
read by people.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012")
"""Every revision, oldest first. One file each under `migrations/versions`."""

HEAD = REVISIONS[-1]
VERSION_TABLE = "softprompt_schema"
"""Where the revision stands; a name of our own, so that a database shared with others is told apart."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite only numbers rows by itself in a column typed INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("created_at", String(32), nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("tenant", String(128), ForeignKey("tenants.name"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("last_number", Integer, nullable=False, server_default="0"),  # highest ever given; never given again
    Column("newest", Integer),  # highest live version: kept here so that listing needs no search
    Column("live", Integer, nullable=False, server_default="0"),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("tenant", "name"),
    sqlite_autoincrement=True,
)

cards = Table(  # apart, since they are long: a listing of thousands of versions reads none of them
    "cards",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("card", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(64), ForeignKey("cards.digest"), nullable=False),
    Column("base", Text, nullable=False),
    Column("fingerprint", String(128), nullable=False),
    Column("metric", String(128), nullable=False),
    Column("value", Float),
    Column("data_digest", String(128)),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("deleted", Boolean, nullable=False, server_default=false()),
    Column("purged", Boolean, nullable=False, server_default=false()),  # deleted, and its bytes given up
    UniqueConstraint("task_id", "number"),
    Index(None, "digest"),
    # Each filter of a listing is answered from its index alone: most of the rows that pass are not shown.
    Index(None, "fingerprint", "deleted", "task_id", "number"),
    Index(None, "base", "deleted", "task_id", "number"),
    Index(None, "metric", "value", "deleted", "task_id", "number"),
    sqlite_autoincrement=True,
)

aliases = Table(
    "aliases",
    metadata,
    Column("task_id", Sequence, ForeignKey("tasks.id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("number", Integer, nullable=False),
)

promotions = Table(  # the trail of each alias: what a rollback goes back along
    "promotions",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("alias", String(128), nullable=False),
    Column("number", Integer, nullable=False),
    Column("undone", Boolean, nullable=False, server_default=false()),
    Index(None, "task_id", "alias"),
    sqlite_autoincrement=True,
)

tags = Table(
    "tags",
    metadata,
    Column("version_id", Sequence, ForeignKey("versions.id"), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Index(None, "tag", "version_id"),
)

origins = Table(  # what versions were trained from; those that came otherwise, or before this was kept, have none
    "origins",
    metadata,
    Column("version_id", Sequence, ForeignKey("versions.id"), primary_key=True, autoincrement=False),
    Column("run", String(64)),  # of the training; it publishes a task once
    Column("task_file", Text, nullable=False),  # JSON
    Column("data", Text, nullable=False),  # JSON: split, address, digest and rows of each
    Index(None, "run", unique=True),
)

outcomes = Table(  # what suites found of versions; one of each
    "outcomes",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("version_id", Sequence, ForeignKey("versions.id"), nullable=False),
    Column("suite", String(128), nullable=False),
    Column("digest", String(64), nullable=False),  # of its checks and rows
    Column("body", LargeBinary, nullable=False),  # JSON, deflated: the suite, and what each row counts
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("version_id", "suite"),
    sqlite_autoincrement=True,
)

personal = Table(  # apart from `versions`: no name of a task, alias or number can mean one of these
    "personal",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("person", String(128), nullable=False),
    Column("number", Integer, nullable=False),  # how often it was made since there is one
    Column("digest", String(64), ForeignKey("cards.digest"), nullable=False),
    Column("base", Text, nullable=False),
    Column("fingerprint", String(128), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("task_id", "person"),
    Index(None, "digest"),
    Index(None, "fingerprint"),
    sqlite_autoincrement=True,
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("seed", String(32), nullable=False),  # what a user's share is drawn by, and what signs the ids of answers
    Column("control", Integer, nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("weight", Float, nullable=False),  # of the candidate
    Column("lowest_weight", Float),  # that it has had; NULL where it never changed
    Column("highest_weight", Float),
    Column("shadow", Boolean, nullable=False, server_default=false()),
    Column("level", Float, nullable=False),
    Column("auto", Boolean, nullable=False, server_default=false()),
    Column("max_outcomes", Integer),
    Column("state", String(16), nullable=False),
    Column("decision", String(16)),
    Column("reason", Text),  # why it ended
    # Kept here and not counted each time: they are looked at after every outcome.
    Column("control_outcomes", Integer, nullable=False, server_default="0"),
    Column("control_total", Float, nullable=False, server_default="0"),
    Column("candidate_outcomes", Integer, nullable=False, server_default="0"),
    Column("candidate_total", Float, nullable=False, server_default="0"),
    Column("compared", Integer, nullable=False, server_default="0"),
    Column("agreed", Integer, nullable=False, server_default="0"),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("ended_at", String(32)),
    Index(None, "task_id", "id"),
    Index(None, "state"),
    sqlite_autoincrement=True,
)

feedback = Table(  # what clients say of answers: how good they were, and what would have been right
    "feedback",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("name", String(160), nullable=False),  # of the request; what is said of one twice counts once
    Column("number", Integer, nullable=False),  # the version that answered
    Column("person", String(128)),  # the user whose own version that was; NULL where it was one for all
    Column("experiment_id", Sequence, ForeignKey("experiments.id")),
    Column("arm", String(16)),
    Column("outcome", Float),
    Column("comment", Text),
    Column("correction", Text),  # JSON: the row as it should be
    Column("used_by", Integer),  # the version that was made with the correction
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("task_id", "name"),
    Index(None, "experiment_id", "arm"),
    sqlite_autoincrement=True,
)

windows = Table(  # what servers saw lately of the rows that a version serves: sums, and no text
    "windows",
    metadata,
    Column("version_id", Sequence, ForeignKey("versions.id"), primary_key=True, autoincrement=False),
    Column("server", String(64), primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("tally", Text, nullable=False),  # JSON
    Column("began_at", String(32), nullable=False),
    Column("ended_at", String(32), nullable=False),
)

drift_references = Table(  # of versions whose card has none
    "drift_references",
    metadata,
    Column("version_id", Sequence, ForeignKey("versions.id"), primary_key=True, autoincrement=False),
    Column("reference", Text, nullable=False),  # JSON
    Column("source", Text, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
)

reviews = Table(  # rows that were answered with little confidence, where a server was told to keep them
    "reviews",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("task_id", Sequence, ForeignKey("tasks.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("answer", Text),  # the right one, once somebody has said it
    Column("created_at", String(32), nullable=False),
    Index(None, "task_id", "id"),
    sqlite_autoincrement=True,
)

audit = Table(
    "audit",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("task", String(128)),
    Column("action", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("at", String(32), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("reason", Text),
    Index(None, "tenant", "task"),
    sqlite_autoincrement=True,
)

ERASURES = ("erase-tenant", "erased-tenant")
"""Lines of the audit that outlive their tenant: that an erasure of all that was theirs began, and that it is done."""

keys = Table(
    "keys",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("tenant", String(128), ForeignKey("tenants.name"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("hint", String(16), nullable=False),  # the first characters of the secret, to tell keys apart
    Column("scopes", String(128), nullable=False),
    Column("users", Text),  # JSON: those whose personal versions it may ask for; null for any
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("revoked", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("hash"),
    Index(None, "tenant", "name"),
    sqlite_autoincrement=True,
)

files = Table(  # uploads to train from; their bytes lie in the home, by digest
    "files",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("name", String(64), nullable=False),  # `file-...`, as clients know it
    Column("tenant", String(128), ForeignKey("tenants.name"), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("name"),
    Index(None, "tenant", "id"),
    Index(None, "digest"),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("name", String(64), nullable=False),  # `ftjob-...`, as clients know it
    Column("tenant", String(128), ForeignKey("tenants.name"), nullable=False),
    Column("task", String(128), nullable=False),
    Column("base", Text, nullable=False),  # what the worker loads
    Column("request", Text, nullable=False),  # what was asked, as it is told again
    Column("config", Text, nullable=False),  # the task file that it became, without its data
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("place", String(64), nullable=False),  # the home that has the files
    Column("status", String(24), nullable=False),
    Column("worker", Text),  # whose it is: host, home and a name of its own
    Column("bank", String(64)),  # jobs of one bank are trained at once
    Column("beats", Integer, nullable=False, server_default="0"),  # goes up while the worker lives
    Column("attempts", Integer, nullable=False, server_default="0"),  # workers that took it since it last got further
    Column("step", Integer, nullable=False, server_default="0"),
    Column("trained_tokens", BigInteger),
    Column("model", String(256)),  # the version it became
    Column("outcome", Text),  # JSON: what is known of that version
    Column("result_file", String(64)),
    Column("error", Text),  # JSON: code, message, param
    Column("last_event", Integer, nullable=False, server_default="0"),
    Column("actor", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    Column("estimated_finish", String(32)),
    UniqueConstraint("name"),
    Index(None, "tenant", "id"),
    Index(None, "status", "id"),
    sqlite_autoincrement=True,
)

batches = Table(  # files of requests that a server answers
    "batches",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("name", String(64), nullable=False),  # `batch_...`, as clients know it
    Column("tenant", String(128), ForeignKey("tenants.name"), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("place", String(64), nullable=False),  # the home that has the files
    Column("status", String(24), nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("error", Text),  # why all of it failed
    Column("request_metadata", Text),  # JSON
    Column("actor", String(128), nullable=False),
    Column("key_id", Sequence),  # of the key that made it; NULL where none was needed
    Column("created_at", String(32), nullable=False),
    Column("in_progress_at", String(32)),
    Column("cancelling_at", String(32)),
    Column("finished_at", String(32)),
    UniqueConstraint("name"),
    Index(None, "tenant", "id"),
    Index(None, "status", "id"),
    sqlite_autoincrement=True,
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", Sequence, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text),
    Column("created_at", String(32), nullable=False),
)

OF_ONE_HOME = (files, jobs, job_events, batches, windows, reviews)
"""Tables whose rows mean files of a home, or what its servers saw: a copy of the library leaves them behind."""
