"""A tenant leaves: whose a row is follows from the tables, an export is a library, an erasure leaves nothing of theirs."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import Denied, LibraryError, NotFound, RegistryError, StoreError
from softprompt.jobs.batches import Answers, Batches
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.queue import Lost, Queue
from softprompt.jobs.uploads import Uploads
from softprompt.library import personal, takeout, tenants
from softprompt.library.library import Library
from softprompt.lifecycle import experiments, feedback
from softprompt.registry import database, tables
from softprompt.registry.records import Origin, Outcome, Version
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window
from softprompt.stores import FolderStore
from tests.commands import Run
from tests.jobs_data import lines, queue_job
from tests.library_data import make_prompt, scored, state_of
from tests.outcome_data import check

SECRET = "zebrafish"
"""A word of the tenant that leaves, and of nobody else."""


def fill(library: Library) -> str:
    """Give a tenant some of everything; the secret of its key."""
    prompts = [make_prompt("fish", seed, input=f"{SECRET} {{text}}") for seed in (1, 2)]
    prompts.append(make_prompt("both"))  # which the other tenant has, too
    origin = Origin("a" * 32 + library.tenant[:1], {"task": "fish", "input": SECRET}, [])
    for data in prompts:
        library.publish_all([data], base="builtin/tiny", tags=[SECRET], origins=[origin if data == prompts[0] else None])
    library.promote("fish@1", reason=SECRET)
    experiments.start(library, "fish")
    feedback.take(library, name="chatcmpl-1", model="fish", user=SECRET, outcome=1.0, comment=SECRET)
    library.promote("fish@2")
    library.registry.delete("fish@1")
    mine = make_prompt("fish", 5, input=f"{SECRET} of ann {{text}}")
    personal.publish(library, "fish", [("ann", mine)], base="builtin/tiny")
    found = Outcome("fish", 2, "polite", "d" * 64, {"file": SECRET}, ("0",), (SECRET,), (SECRET,), (check([1.0]),))
    library.registry.outcomes.put(found)
    window = Window("a-server", 64, {"reference": SECRET}, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z")
    library.registry.windows.set_reference(library.registry.resolve("fish@2"), {"rows": SECRET}, f"{SECRET}.jsonl")
    library.registry.windows.store("a-server", {("fish", 2): window})
    library.registry.reviews.add("fish", [Review(0, "fish", 2, SECRET, SECRET, 0.5)])
    Uploads(library).add(
        lines([{"text": f"{SECRET} {place}", "label": "ab"[place % 2]} for place in range(8)]), "mine.jsonl"
    )
    Uploads(library).add(lines(), "equal.jsonl")
    asked = {"custom_id": SECRET, "method": "POST", "url": "/v1/embeddings", "body": {"model": "fish", "input": SECRET}}
    batch, _ = Batches(library).create(Uploads(library).add(lines([asked]), "asked.jsonl", "batch").name, "/v1/embeddings")
    answers = Answers(library, batch.name)
    answers.add({"custom_id": SECRET, "response": {"status_code": 200}})
    answers.close()
    queue_job(library, Path("tiny-llama"), "job")
    library.runs.mkdir(exist_ok=True)
    folder = library.runs / library.tenant
    folder.mkdir()
    (folder / "fish@1.jsonl").write_text(SECRET)
    (folder / "tensorboard" / f"{SECRET}-01234567").mkdir(parents=True)
    (folder / "tensorboard" / f"{SECRET}-01234567" / "events.out.tfevents.1").write_text(SECRET)
    return library.registry.keys.create("ci", ["read"]).secret


@pytest.fixture
def leaving(tmp_path: Path) -> Library:
    """A library of a tenant that leaves, beside another that has some equal things."""
    library = Library.open(tmp_path / "home", actor="tester")
    stays, leaves = library.for_tenant("stays"), library.for_tenant("leaves")
    stays.publish(make_prompt("both", metrics=scored(0.5)), base="builtin/tiny")
    stays.publish(make_prompt("both"), base="builtin/tiny")
    personal.publish(stays, "both", [("ann", make_prompt("both", 9))], base="builtin/tiny")
    Uploads(stays).add(lines(), "equal.jsonl")
    stays.registry.keys.create("ci", ["read"])
    fill(leaves)
    return library


def traces(home: Path) -> list[str]:
    """Files of a home that have the word, or are called so."""
    word = SECRET.encode()
    found = [path for path in home.rglob("*") if SECRET in path.name or (path.is_file() and word in path.read_bytes())]
    return sorted(str(path.relative_to(home)) for path in found)


def rows(library: Library, tenant: str) -> dict[str, int]:
    with library.registry.database.read() as connection:
        return tenants.counts_of(connection, tenant)


# Whose rows


def test_every_table_is_a_tenants_or_known_to_be_shared() -> None:
    """Where this fails, a new table has neither a column `tenant` nor a reference to one that has; no erasure takes it."""
    covered = set(tenants.rows_of("x"))
    assert covered | set(tenants.SHARED) == set(tables.metadata.sorted_tables)
    assert not covered & set(tenants.SHARED)


def test_every_table_is_filled_before_it_is_erased(leaving: Library) -> None:
    """Where this fails, fill the new table above: else nothing shows that it is erased."""
    assert set(rows(leaving, "leaves")) == {table.name for table in tenants.rows_of("x")}


def test_a_table_that_tells_no_tenant_is_refused_and_one_that_refers_is_found() -> None:
    metadata = sa.MetaData()
    own = sa.Table("tenants", metadata, sa.Column("name", sa.String, primary_key=True))
    column = sa.Table("audit", metadata, sa.Column("tenant", sa.String))
    refers = sa.Table("windows", metadata, sa.Column("whose", sa.String, sa.ForeignKey("tenants.name")))
    deep = sa.Table("rows", metadata, sa.Column("window", sa.String, sa.ForeignKey("windows.whose")))
    assert set(tenants.rows_of("x", metadata)) == {own, column, refers, deep}
    sa.Table("stray", metadata, sa.Column("digest", sa.String))
    with pytest.raises(LibraryError, match="the rows of the table 'stray' are cannot be told"):
        tenants.rows_of("x", metadata)


# Out


def test_an_export_is_a_library_of_its_own(leaving: Library, tmp_path: Path) -> None:
    done = takeout.export(leaving, "leaves", tmp_path / "out")
    assert (done.blobs, done.missing, done.uploads, done.uploads_elsewhere, done.histories) == (4, 0, 4, 0, 2)
    for folder in ("runs", "batches"):  # curves of its trainings and no others; what a batch was answered by then
        assert {*traces(tmp_path / "out" / folder)} == {*traces(leaving.home / folder)} != set()
    assert not [*(tmp_path / "out" / "runs").glob("*.jsonl")]
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert not (tmp_path / "out" / takeout.UNFINISHED).exists()
    mine = leaving.for_tenant("leaves")
    with Library.open(tmp_path / "out", tenant="leaves", create=False) as out:
        assert out.verify().problems == []
        assert (out.histories / "fish@1.jsonl").read_text() == SECRET
        assert out.stats()["tenants"] == 1
        assert out.registry.audit() == mine.registry.audit()
        assert out.registry.origin("fish@1") == mine.registry.origin("fish@1")
        assert out.registry.resolve("fish@production").number == 2
        assert out.read(out.registry.personal.resolve("fish", "ann")) == make_prompt(
            "fish", 5, input=f"{SECRET} of ann {{text}}"
        )
        (file, *_) = Uploads(out).page(newest_first=False).rows
        assert SECRET.encode() in Uploads(out).read(file)
        assert [job.task for job in Jobs(out).page().rows] == ["job"]
        assert out.publish(make_prompt("fish", 8), base="builtin/tiny").number == 3
        out.copy(tmp_path / "copy")
    with Library.open(tmp_path / "copy", tenant="leaves", create=False) as copied:
        assert copied.registry.resolve("fish").number == 2
    told = [json.loads(line) for line in (tmp_path / "out" / "rows" / "files.jsonl").read_text().splitlines()]
    assert [row["filename"] for row in told][:2] == ["mine.jsonl", "equal.jsonl"]
    with Library.open(tmp_path / "out", tenant="stays", create=False) as out:
        assert out.registry.tasks() == []


def test_an_export_goes_nowhere_else_and_goes_on_where_it_was_cut_short(
    leaving: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(takeout, "_write_registry", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(LibraryError, match=r"cannot write to .*: No space left; choose another folder"):
            takeout.export(leaving, "leaves", tmp_path / "out")
    with pytest.raises(LibraryError, match=r"holds batches already; choose an empty folder"):
        takeout.export(leaving, "stays", tmp_path / "out")
    assert takeout.export(leaving, "leaves", tmp_path / "out").blobs == 4
    with pytest.raises(LibraryError, match="holds a library already"):
        takeout.export(leaving, "leaves", tmp_path / "out")
    with pytest.raises(LibraryError, match="holds a library already"):
        takeout.export(leaving, "leaves", leaving.home)
    with pytest.raises(NotFound, match=r"there is nothing of tenant 'leave'; did you mean 'leaves'\?"):
        takeout.export(leaving, "leave", tmp_path / "none")
    assert not (tmp_path / "none").exists()


# Erased


def test_nothing_of_the_tenant_is_left_and_nothing_of_another_is_gone(leaving: Library, tmp_path: Path) -> None:
    mine, other = leaving.for_tenant("leaves"), leaving.for_tenant("stays")
    digests = [version.digest for version in mine.registry.versions("fish")]
    before, kept = rows(leaving, "stays"), other.registry.audit()
    place = leaving.registry.state()
    assert traces(leaving.home)
    plan = tenants.plan_erase(leaving, "leaves")
    assert plan == tenants.erase(leaving, "leaves", reason="they asked")
    assert (plan.blobs, plan.shared, plan.uploads, plan.jobs_cancelled, plan.histories) == (3, 1, 4, 1, 2)
    assert traces(leaving.home) == []
    assert not any(leaving.store.has(digest) for digest in digests)
    assert rows(leaving, "leaves") == {}
    assert (rows(leaving, "stays"), other.registry.audit()) == (before, kept)
    assert other.read("both@2") == make_prompt("both")
    assert other.read(other.registry.personal.resolve("both", "ann"))
    (file,) = Uploads(other).page().rows
    assert Uploads(other).read(file) == lines()
    assert leaving.registry.state() != place
    assert leaving.verify().problems == []
    assert leaving.plan_gc() == []
    began, done = mine.registry.audit()
    assert [(line.action, line.actor, line.reason) for line in (began, done)] == [
        ("erase-tenant", "tester", "they asked"),
        ("erased-tenant", "tester", "they asked"),
    ]
    assert done.before == began.before == {**plan.row()}
    with pytest.raises(NotFound, match=r"there is nothing of tenant 'leaves': tester erased it, at 20"):
        tenants.erase(leaving, "leaves")
    assert len(mine.registry.audit()) == 2


def test_a_key_of_the_tenant_opens_nothing_any_more(leaving: Library) -> None:
    secret = fill(leaving.for_tenant("third"))
    tenants.erase(leaving, "third")
    with pytest.raises(Denied, match="not known"):
        leaving.registry.keys.authenticate(secret)


def test_a_worker_finds_its_job_gone_and_publishes_nothing(leaving: Library) -> None:
    queue = Queue(leaving)
    claim = next(claim for claim in queue.claim() if claim.tenant == "leaves")
    assert tenants.erase(leaving, "leaves").jobs_cancelled == 1
    assert queue.own([claim.id]) == queue.beat([claim.id]) == set()
    queue.record(claim.id, "step 3", step=3)
    queue.fail(claim.id, "x", "it failed")
    mine = leaving.for_tenant("leaves")

    def succeed(connection: Connection, versions: list[Version]) -> None:
        queue.succeed(connection, claim.id, versions[0], {}, 3, "file-1")

    with pytest.raises(Lost):
        mine.publish_all([make_prompt("job")], base="builtin/tiny", also=succeed)
    assert rows(leaving, "leaves") == {}


def test_who_comes_back_begins_anew_and_may_leave_again(leaving: Library) -> None:
    tenants.erase(leaving, "leaves")
    mine = leaving.for_tenant("leaves")
    assert mine.publish(make_prompt("fish", 1), base="builtin/tiny").number == 1
    assert tenants.erase(leaving, "leaves").blobs == 1
    assert [line.action for line in mine.registry.audit()] == [*tables.ERASURES, *tables.ERASURES]


POINTS: dict[str, Callable[[pytest.MonkeyPatch, Callable[..., None]], None]] = {
    "before the rows": lambda patch, die: patch.setattr(tenants, "_erase_rows", die),
    "before the bytes": lambda patch, die: patch.setattr(tenants, "_erase_blobs", die),
    "at a blob": lambda patch, die: patch.setattr(tenants.ReadCache, "drop", die),
    "before the last line": lambda patch, die: patch.setattr(tenants, "_close", die),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_and_called_again_it_ends(leaving: Library, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tenants.plan_erase(leaving, "leaves")
    leaving.close()
    child = os.fork()
    if child == 0:
        with monkeypatch.context() as patch:
            POINTS[point](patch, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            with Library.open(leaving.home, actor="first") as again:
                tenants.erase(again, "leaves", reason="they asked")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    with Library.open(leaving.home, actor="second") as again:
        assert again.verify().problems == []
        tenants.erase(again, "leaves")
        assert traces(again.home) == []
        assert (again.plan_gc(), again.verify().problems, rows(again, "leaves")) == ([], [], {})
        began, done = again.for_tenant("leaves").registry.audit()
    assert (began.actor, done.actor, done.reason) == ("first", "second", "they asked")
    assert done.before == {**plan.row()}


def test_a_store_that_is_away_is_told_and_the_same_call_ends_it(leaving: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(digest: str) -> None:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(leaving.store, "delete", fail)
        with pytest.raises(StoreError, match="away"):
            tenants.erase(leaving, "leaves")
    tenants.erase(leaving, "leaves")
    assert traces(leaving.home) == []


def test_a_reader_that_holds_the_log_is_told_and_the_same_call_ends_it(
    leaving: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_SECONDS", 0.1)
    with Library.open(leaving.home) as another, another.registry.database.read() as connection:
        connection.execute(sa.select(tables.tenants)).fetchall()
        with pytest.raises(RegistryError, match=r"another reads the registry .* for long, whose log has what is erased"):
            tenants.erase(leaving, "leaves")
        assert rows(leaving, "leaves") == {"tenants": 1}
    tenants.erase(leaving, "leaves")
    assert traces(leaving.home) == []
    assert len(leaving.for_tenant("leaves").registry.audit()) == 2


def test_what_others_write_meanwhile_is_taken_too_or_refused(leaving: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, erase_blobs, seeds = leaving.for_tenant("leaves"), tenants._erase_blobs, iter(range(20, 99))

    def and_publish(library: Library, digests: object) -> None:
        erase_blobs(library, digests)  # type: ignore[arg-type]
        mine.publish(make_prompt("late", next(seeds), input=SECRET + " {text}"), base="builtin/tiny")

    with monkeypatch.context() as patch:
        patch.setattr(tenants, "_erase_blobs", and_publish)
        with pytest.raises(LibraryError, match="others go on writing rows of tenant 'leaves'"):
            tenants.erase(leaving, "leaves")
    tenants.erase(leaving, "leaves")
    assert traces(leaving.home) == []


def test_an_upload_that_comes_meanwhile_goes_with_its_bytes(leaving: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    erase_rows, late = tenants._erase_rows, lines([{"text": f"{SECRET} late", "label": "a"}, {"text": "x", "label": "b"}])

    def and_upload(library: Library, tenant: str) -> None:
        Uploads(library.for_tenant(tenant)).add(late, "late.jsonl")
        monkeypatch.setattr(tenants, "_erase_rows", erase_rows)
        erase_rows(library, tenant)

    monkeypatch.setattr(tenants, "_erase_rows", and_upload)
    tenants.erase(leaving, "leaves")
    assert traces(leaving.home) == []
    assert rows(leaving, "leaves") == {}


def test_bytes_that_only_purged_versions_of_another_name_go(leaving: Library) -> None:
    other = leaving.for_tenant("stays")
    digest = leaving.for_tenant("leaves").publish(make_prompt("gone", 3), base="builtin/tiny").digest
    other.publish(make_prompt("gone", 3), base="builtin/tiny")
    other.registry.delete("gone@1")
    tenants.erase(leaving, "leaves")
    assert leaving.store.has(digest), "it can be restored"
    mine = leaving.for_tenant("leaves").publish(make_prompt("gone", 3), base="builtin/tiny")
    with leaving.registry.database.write() as connection:
        connection.execute(sa.update(tables.versions).where(tables.versions.c.deleted).values(purged=True))
    assert mine.digest == digest
    tenants.erase(leaving, "leaves")
    assert not leaving.store.has(digest)
    assert leaving.verify().problems == []


def test_the_cache_of_a_remote_store_has_nothing_either(leaving: Library) -> None:
    mine, other = leaving.for_tenant("leaves"), leaving.for_tenant("stays")
    cache = FolderStore(leaving.home / "cache")
    ours, theirs = mine.registry.resolve("fish"), other.registry.resolve("both")
    for version, library in ((ours, mine), (theirs, other)):
        cache.put(library.read(version))
    elsewhere = FolderStore(leaving.home.parent / "elsewhere" / "cache")
    elsewhere.put(mine.read(ours))
    tenants.erase(leaving, "leaves")
    assert [digest for digest, _ in cache.list()] == [theirs.digest]
    registry = str(leaving.registry.database.engine.url)
    with Library.open(elsewhere.root.parent, registry=registry, store=str(leaving.home / "blobs")) as another:
        assert [item.file for item in another.plan_sweep()] == [f"cache/{ours.digest}"]
        another.sweep()
    assert list(elsewhere.list()) == []


def test_uploads_of_another_home_are_told(leaving: Library, tmp_path: Path) -> None:
    registry, store = str(leaving.registry.database.engine.url), str(leaving.home / "blobs")
    with Library.open(tmp_path / "second", registry=registry, store=store, tenant="leaves") as second:
        Uploads(second).add(lines([{"text": "there", "label": "a"}, {"text": "where", "label": "b"}]), "there.jsonl")
        assert takeout.export(leaving, "leaves", tmp_path / "out").uploads_elsewhere == 1
        assert tenants.erase(leaving, "leaves").uploads_elsewhere == 1
        assert [item.why for item in second.plan_sweep()] == ["an upload that was never finished"]


def test_a_former_copy_is_brought_up_to_date_by_an_erasure(leaving: Library, tmp_path: Path) -> None:
    leaving.copy(tmp_path / "copy")
    tenants.erase(leaving, "leaves")
    leaving.for_tenant("stays").publish(make_prompt("more"), base="builtin/tiny")
    leaving.copy(tmp_path / "copy")
    with Library.open(tmp_path / "copy", create=False) as copied:
        assert rows(copied, "leaves") == {}
        assert copied.for_tenant("stays").registry.resolve("more").number == 1
        assert len(copied.plan_gc()) == 3
    with Library.open(tmp_path / "copy", tenant="third") as copied:
        copied.publish(make_prompt("other"), base="builtin/tiny")
    with pytest.raises(LibraryError, match="only there was 'publish' of 'other'"):
        leaving.copy(tmp_path / "copy")


def test_the_command(leaving: Library, run: Run, home: Path, tmp_path: Path) -> None:
    assert leaving.home == home
    (row,) = run("tenant", "export", "leaves", tmp_path / "out", "--json").rows
    assert (row["tenant"], row["path"], row["blobs"]) == ("leaves", str(tmp_path / "out"), 4)
    before = state_of(home)
    (plan,) = run("tenant", "erase", "leaves", "--json").rows
    assert (plan["erased"], plan["blobs"], plan["rows"]["versions"]) == (False, 3, 3)
    assert "run again with --yes" in run("tenant", "erase", "leaves").out
    assert state_of(home) == before
    (done,) = run("tenant", "erase", "leaves", "--yes", "--reason", "asked", "--json").rows
    assert done == {**plan, "erased": True}
    assert traces(home) == []
    assert "there is nothing of tenant 'leaves': tester erased it" in run("tenant", "erase", "leaves", "--yes").refused()
    assert [line["action"] for line in run("--tenant", "leaves", "audit", "--json").rows] == [*tables.ERASURES]
    assert "tenant '../x' is refused" in run("tenant", "erase", "../x").refused()
