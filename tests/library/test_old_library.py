"""A library written by the code of schema 0004 opens as before: nothing of it is lost or altered."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import FingerprintMismatch
from softprompt.jobs.jobs import Jobs, place_of
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from softprompt.prompts.file import digest_of, read_card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.listing import Filters
from softprompt.serving.offline import Service
from tests.commands import Run
from tests.library_data import make_prompt
from tests.models import make_base

FIXTURE = Path(__file__).parent.parent / "fixtures" / "library_0004.zip"


@pytest.fixture
def old(home: Path) -> Path:
    with zipfile.ZipFile(FIXTURE) as packed:
        packed.extractall(home)
    return home


@pytest.fixture
def expected(old: Path) -> Any:
    return json.loads((old / "expected.json").read_text())


@pytest.fixture
def library(old: Path) -> Iterator[Library]:
    with Library.open(old) as library:
        yield library


def test_versions_aliases_tags_and_audit_are_those_of_then(library: Library, expected: Any) -> None:
    registry = library.registry
    versions = [version for task in ("answers", "words") for version in registry.versions(task)]
    assert [
        {
            "task": version.task,
            "number": version.number,
            "digest": version.digest,
            "deleted": version.deleted,
            "tags": list(version.tags),
            "created_at": version.created_at,
            "value": version.card.metrics.get("value"),
        }
        for version in versions
    ] == expected["versions"]
    assert registry.aliases.of("answers") == expected["aliases"]
    assert registry.resolve("answers").number == expected["aliases"]["production"]
    assert len(registry.audit()) == expected["audit"]
    assert [entry.task for entry in registry.tasks(Filters(tag="old", every=True))] == ["answers"]
    assert all(registry.origin(version.ref) is None for version in versions)
    assert [(key.name, key.scopes, key.revoked) for key in registry.keys.list()] == [
        ("ci", frozenset({"read", "predict"}), False)
    ]
    other = library.for_tenant("other")
    assert [(entry.task, entry.version, entry.value) for entry in other.registry.tasks()] == [("answers", 1, 1.0)]
    assert other.registry.keys.list() == []


def test_every_blob_and_card_verifies(library: Library) -> None:
    report = library.verify()
    assert (report.problems, report.blobs, report.unneeded) == ([], 6, 0)
    for digest, _ in library.store.list():
        data = library.store.get(digest)
        assert digest_of(data) == digest
        assert read_card(data).task in ("answers", "words")


def test_uploads_and_jobs_are_there(library: Library, expected: Any) -> None:
    files = Uploads(library)
    assert files.get(expected["file"]).filename == "rows.jsonl"
    assert len(files.read(files.get(expected["file"]))) == files.get(expected["file"]).bytes
    job = Jobs(library).get(expected["job"])
    assert (job.status, job.training_file) == ("queued", expected["file"])
    assert place_of(library.home) == (library.home / "place").read_text()


def test_life_goes_on(library: Library) -> None:
    assert library.rollback("answers").after == 1
    assert library.promote("answers@2").before == 1
    assert library.restore("words@2").number == 2
    assert library.publish(make_prompt("answers"), base="builtin/tiny").number == 4
    assert library.gc(purge_deleted=True) == []
    assert library.verify().problems == []


def test_a_prompt_of_then_loads_on_its_base(library: Library, expected: Any) -> None:
    base = make_base("llama")
    assert base.fingerprint != expected["fingerprint"]
    assert base.fingerprints == {base.fingerprint, expected["fingerprint"]}
    version = library.registry.resolve("answers")
    prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
    prompt.check_base(base)
    assert prompt.vectors_PD.shape[1] == base.width
    assert prompt.digest == version.digest, "written again it is the same file"
    with pytest.raises(FingerprintMismatch):
        prompt.check_base(make_base("llama", seed=1))


def test_the_library_of_then_answers(library: Library) -> None:
    (answer,) = Service(library, base=make_base("llama")).predict(["red apple"], "answers")
    assert answer.version == library.registry.resolve("answers").number


def test_show_says_that_no_origin_was_recorded(run: Run, old: Path) -> None:
    (shown,) = run("show", "answers@1", "--json").rows
    assert shown["versions"][0]["origin"] is None
    assert "none was recorded" in run("show", "answers@1").out
