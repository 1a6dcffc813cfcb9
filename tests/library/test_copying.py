"""Copies of a library: what the target holds already is never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.errors import LibraryError
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from tests.library_contract import BASE
from tests.library_data import make_prompt


def test_a_target_with_uploads_and_no_tasks_yet_keeps_them(tmp_path: Path) -> None:
    with Library.open(tmp_path / "source") as library, Library.open(tmp_path / "target") as target:
        library.publish(make_prompt(), base=BASE)
        upload = Uploads(target).add(b'{"text": "red", "label": "yes"}\n', "rows.jsonl")
        with pytest.raises(LibraryError, match="has files already"):
            library.copy(tmp_path / "target")
        assert Uploads(target).get(upload.name) == upload
